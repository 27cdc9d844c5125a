"""The quality gate: how far each weight format is from float32 over the same weights.

Teacher-forced: every format reads the same ids, and the logits of every position are compared. The
checkpoint is read once, layer by layer, so float32 need not fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from qwen_tui import hub, paths
from qwen_tui.backends.local.nn import fbgemm
from qwen_tui.backends.local.nn.kernel import installed
from qwen_tui.backends.local.nn.linear import Dense, Kind, Linear
from qwen_tui.backends.local.nn.linear_factory import quantised
from qwen_tui.backends.local.nn.qwen2 import KV, DecoderLayer, Qwen2
from qwen_tui.backends.local.planning.machine import Packing
from qwen_tui.backends.local.weights.safetensors_reader import CheckpointReader, fused, norms
from qwen_tui.types import USAGE, Progress, Trouble
from qwen_tui.vocab import Vocab

PIECE: Final = 32
"""Positions whose logits are compared at once."""
POSITIONS: Final = 256
"""Ids of the text that is read when nobody names one."""

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class QualityLoss:
    """How far a format is from float32.

    Relative error of the logits (less their mean, which softmax ignores); share of positions with
    the same most probable id; mean and largest Kullback-Leibler divergence from float32's
    distribution in nats; rise of the text's cross-entropy over float32's in nats per token.
    """

    name: str
    error: float
    same: float
    divergence: float
    largest: float
    dearer: float

    def record(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    def row(self) -> tuple[str, ...]:
        """Its cells in a table under `HEADER`."""
        return (
            self.name,
            f"{self.error:.4f}",
            f"{100 * self.same:.1f} %",
            f"{self.divergence:.2e}",
            f"{self.largest:.2e}",
            f"{self.dearer:+.4f}",
        )


HEADER: Final = ("against float32", "error", "same first", "KL mean", "KL most", "nats a token")


class _Variant:
    """The hidden states of one weight format, taken through one layer at a time."""

    def __init__(self, shape: hub.Shape, kind: Kind, dtype: torch.dtype, packing: Packing) -> None:
        self._shape, self._kind, self._dtype, self._packing = shape, kind, dtype, packing
        self._x: Tensor | None = None

    @property
    def name(self) -> str:
        """Its name in a table."""
        words: list[str] = [] if self._kind == "dense" else [self._kind]
        if self._packing:
            who = {"fbgemm": "FBGEMM", "kernel": "our kernel"}[self._packing]
            return " · ".join([*(words or ["fp16"]), who])
        return " · ".join([*words, str(self._dtype).removeprefix("torch.")])

    def begin(self, ids: Tensor, embed: Tensor) -> None:
        """Look up the embeddings of ids [T]."""
        self._x = embed[ids].to(self._dtype)

    def layer(self, whole: dict[str, tuple[Tensor, Tensor | None]], rest: Sequence[Tensor]) -> None:
        """Quantise one layer's weights and run all positions through it."""
        assert self._x is not None
        parts = {name: self._quantised(self._kind, *part) for name, part in whole.items()}
        norm1, norm2 = (norm.to(self._dtype) for norm in rest)
        layer = DecoderLayer(norm1=norm1, norm2=norm2, **parts)
        one = replace(self._shape, layers=1)
        network = Qwen2(one, self._x, [layer], norm1, parts["qkv"], dtype=self._dtype)
        cache = KV(one, self._dtype, self._x.device)
        positions = network.positions(len(self._x), cache)
        self._x = network.through(0, self._x, cache, positions)

    def head(self, weight: Tensor, norm: Tensor, known: int) -> Iterator[Tensor]:
        """Float32 logits [PIECE, known] of consecutive positions."""
        assert self._x is not None
        kind: Kind = "dense" if self._kind == "dense" else "int8"
        lm_head, norm = self._quantised(kind, weight, None), norm.to(self._dtype)
        network = Qwen2(self._shape, self._x, [], norm, lm_head, dtype=self._dtype)
        for piece in self._x.split(PIECE):
            yield network.logits(piece)[:, :known]

    def _quantised(self, kind: Kind, weight: Tensor, bias: Tensor | None) -> Linear:
        if self._packing != "fbgemm":
            return quantised(kind, weight, bias, self._dtype, own=self._packing == "kernel")
        if kind == "dense":
            return fbgemm.laid_out(Dense(weight, bias))
        return fbgemm.laid_out(quantised(kind, weight, bias, self._dtype))


def variants(shape: hub.Shape, nf4: bool) -> list[_Variant]:
    """float32, then every weight format that this machine can run."""
    formats: list[tuple[Kind, torch.dtype, Packing]] = [
        ("dense", torch.float32, ""),
        ("dense", torch.bfloat16, ""),
        ("int8", torch.bfloat16, ""),
        ("int4", torch.bfloat16, ""),
    ]
    if fbgemm.available():
        formats += [("dense", torch.float32, "fbgemm"), ("int8", torch.float32, "fbgemm")]
    if installed.available():
        own: tuple[Kind, ...] = ("int8", "int4", "nf4")
        formats += [(kind, torch.float32, "kernel") for kind in own]
    if nf4:
        formats.append(("nf4", torch.bfloat16, ""))
    return [_Variant(shape, *each) for each in formats]


def some_ids(vocab: Vocab) -> list[int]:
    """The ids of a page of English: the model card of the demo model."""
    text = (paths.demo_dir() / "README.md").read_text("utf-8")
    return [token.id for token in vocab.encode(text)[:POSITIONS]]


@torch.inference_mode()
def distances(folder: Path, ids: Sequence[int], known: int, report: Report) -> list[QualityLoss]:
    """Every weight format against float32, on the CPU. Only the first `known` logits count; reports
    `load` in layers. Trouble if our own forward pass does not run this architecture.
    """
    card = hub.card(folder)
    shape = card.shape
    if shape is None:
        raise Trouble(f"{card.name} has no forward of our own to gate", code=USAGE)
    reader = CheckpointReader(folder, shape)
    shape = reader.shape
    embed = reader.take("model.embed_tokens.weight")
    every = variants(shape, _nf4())
    for each in every:
        each.begin(torch.tensor(ids), embed)
    with fbgemm.packing() if fbgemm.available() else nullcontext():
        for index in range(shape.layers):
            report(Progress("load", index, shape.layers))
            whole, rest = fused(reader, index), norms(reader, index, torch.float32)
            for each in every:
                each.layer(whole, rest)
        report(Progress("load", shape.layers, shape.layers))
        weight = embed if shape.tied else reader.take("lm_head.weight")
        norm = reader.take("model.norm.weight")
        exact = torch.cat(list(every[0].head(weight, norm, known)))
        return [
            _distance(each.name, exact, each.head(weight, norm, known), ids) for each in every[1:]
        ]


def _nf4() -> bool:
    """Whether bitsandbytes is installed; prepares it for the CPU if so."""
    try:
        from qwen_tui.backends.local.nn import bitsandbytes, nf4
        from qwen_tui.backends.local.weights import transformers_loader

        transformers_loader.quiet()
        bitsandbytes.load()
        nf4.install()
    except ImportError:
        return False
    return True


def _distance(name: str, exact: Tensor, parts: Iterator[Tensor], ids: Sequence[int]) -> QualityLoss:
    wrong = whole = dearer = 0.0
    same: list[Tensor] = []
    divergences: list[Tensor] = []
    start = 0
    for part in parts:
        right = exact[start : start + len(part)]
        centred = right - right.mean(-1, keepdim=True)
        wrong += float(((part - part.mean(-1, keepdim=True)) - centred).square().sum())
        whole += float(centred.square().sum())
        same.append(part.argmax(-1) == right.argmax(-1))
        log_right, log_part = right.double().log_softmax(-1), part.double().log_softmax(-1)
        divergences.append((log_right.exp() * (log_right - log_part)).sum(-1))
        following = torch.tensor(ids[start + 1 : start + 1 + len(part)])
        places = torch.arange(len(following))
        dearer += float((log_right - log_part)[places, following].sum())
        start += len(part)
    divergence = torch.cat(divergences)
    return QualityLoss(
        name,
        (wrong / whole) ** 0.5,
        float(torch.cat(same).double().mean()),
        float(divergence.mean()),
        float(divergence.max()),
        dearer / max(1, len(ids) - 1),
    )
