"""The quality gate: how far each kind of linear layer is from float32 over the same weights.

Teacher-forced: every kind reads the same ids, and the logits of every position are compared.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

import torch
from torch import Tensor

from qwen_tui import hub
from qwen_tui.backends.local import packed
from qwen_tui.backends.local.hardware import host_free
from qwen_tui.backends.local.linear import Kind
from qwen_tui.backends.local.plan import gib
from qwen_tui.backends.local.qwen2 import Shape
from qwen_tui.types import Trouble

CHUNK: Final = 64
"""Positions whose logits are held at once."""


@dataclass(frozen=True)
class Distance:
    """How far a kind is from float32: relative error of the logits (their mean taken off, which
    softmax does not see), share of positions with the same likeliest id, Kullback-Leibler
    divergence from float32's distribution in nats, mean and largest; seconds of the whole read.
    """

    name: str
    error: float
    same: float
    divergence: float
    largest: float


def network(folder: Path, kind: Kind, dtype: torch.dtype) -> packed.Loaded:
    """The checkpoint with linear layers of a kind, in memory."""
    shape = Shape.of(json.loads((folder / "config.json").read_text("utf-8")))
    if shape is None:
        raise Trouble(f"{folder.name} is no Qwen2 checkpoint")
    return packed.load(
        folder, shape, kind=kind, dtype=dtype, device=torch.device("cpu"), cache=None,
        report=lambda progress: None,
    )  # fmt: skip


def logits(loaded: packed.Loaded, ids: Sequence[int], known: int) -> Iterator[Tensor]:
    """Float32 logits [n, known] of consecutive positions, a chunk at a time."""
    cache = loaded.network.cache()
    for start in range(0, len(ids), CHUNK):
        part = torch.tensor([ids[start : start + CHUNK]])
        found = loaded.network.forward(part, cache, last=part.shape[1])
        yield found[0, :, :known]


def distances(folder: Path, ids: Sequence[int], known: int) -> Iterator[Distance]:
    """Every kind against float32; Trouble where float32 does not fit into memory."""
    card = hub.card(folder)
    need = hub.needs(card, "fp32").total(len(ids)) + len(ids) * known * 8
    if need > host_free() * 0.9:
        raise Trouble(
            f"float32 needs {gib(need)}, {gib(host_free())} are free; gate a smaller model"
        )
    exact_network = network(folder, "dense", torch.float32)
    exact = torch.cat(list(logits(exact_network, ids, known)))
    del exact_network
    gc.collect()
    wanted: list[tuple[Kind, torch.dtype]] = [
        ("dense", torch.bfloat16),
        ("dense", torch.float16),
        *((kind, torch.bfloat16) for kind in get_args(Kind) if kind != "dense"),
    ]
    for kind, dtype in wanted:
        loaded = network(folder, kind, dtype)
        name = str(dtype).removeprefix("torch.")
        name = name if kind == "dense" else f"{kind}, {name}"
        yield _distance(name, exact, logits(loaded, ids, known))
        del loaded
        gc.collect()


def _distance(name: str, exact: Tensor, parts: Iterator[Tensor]) -> Distance:
    wrong = whole = 0.0
    same: list[Tensor] = []
    divergences: list[Tensor] = []
    start = 0
    for part in parts:
        right = exact[start : start + len(part)]
        start += len(part)
        centred = right - right.mean(-1, keepdim=True)
        wrong += float(((part - part.mean(-1, keepdim=True)) - centred).square().sum())
        whole += float(centred.square().sum())
        same.append(part.argmax(-1) == right.argmax(-1))
        log_right, log_part = right.double().log_softmax(-1), part.double().log_softmax(-1)
        divergences.append((log_right.exp() * (log_right - log_part)).sum(-1))
    every = torch.cat(divergences)
    return Distance(
        name,
        (wrong / whole) ** 0.5,
        float(torch.cat(same).double().mean()),
        float(every.mean()),
        float(every.max()),
    )
