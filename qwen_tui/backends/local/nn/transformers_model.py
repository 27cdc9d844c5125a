"""`Model` over transformers: any causal LM, one plain forward pass at a time.

It is the reference for our own forward pass, and runs the architectures that ours does not.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Generator, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from qwen_tui.backends.local.memory import used_bytes
from qwen_tui.backends.local.nn.model import Cancelled
from qwen_tui.backends.local.nn.transformers_cache import ARGUMENTS, NoCache, TransformersCache

CHUNKS: Final = {"cpu": 128, "cuda": 1024, "mps": 256}
"""Positions prefilled at once, by kind of device."""


class Reference:
    """A transformers model in eval mode, with its weights loaded, as a `Model`."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._cancel = threading.Event()
        self._device = network.get_input_embeddings().weight.device
        accepted = inspect.signature(network.forward).parameters
        self._last_only = "logits_to_keep" in accepted
        self._cache: TransformersCache | NoCache = NoCache()
        argument = next((name for name in ARGUMENTS if name in accepted), None)
        if argument is not None:
            self._cache = TransformersCache(network.config, argument)
            if not self._cache.plain and not self._agrees():
                self._cache = NoCache()
        for layer in _decoder_layers(network):
            layer.register_forward_pre_hook(self._check_cancel)

    @property
    def recomputes(self) -> bool:
        """Whether each step runs the whole text again because the cache cannot be fed in parts."""
        return isinstance(self._cache, NoCache)

    @property
    def length(self) -> int:
        """How many positions each row has."""
        return self._cache.length

    @property
    def rows(self) -> int:
        """How many rows the cache has."""
        return self._cache.rows

    @property
    def vocab_rows(self) -> int:
        """Rows of the output table, padding included."""
        table = self._network.get_output_embeddings() or self._network.get_input_embeddings()
        return int(table.weight.shape[0] if table.weight.dim() > 1 else table.out_features)

    @property
    def chunk(self) -> int:
        """Small enough that progress is shown and a cancel is checked often."""
        return CHUNKS.get(self._device.type, 256)

    @property
    def row_cost(self) -> float:
        """Never asked: nothing is drafted here."""
        return 0.0

    @property
    def max_draft(self) -> int:
        """Nothing is drafted: the reference takes one step at a time."""
        return 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(part.nbytes for part in self._network.parameters())

    @property
    def step_bytes(self) -> int:
        """Weight bytes that one decoding step reads: all but a token table that is not the head."""
        table = self._network.get_input_embeddings()
        head = self._network.get_output_embeddings()
        tied = head is not None and head.weight is table.weight
        return self.weight_bytes - (0 if tied else int(table.weight.nbytes))

    @property
    def kv_bytes(self) -> int:
        """0: unknown, since it differs between the many cache classes."""
        return 0

    @torch.inference_mode()
    def forward(
        self, ids: Sequence[Sequence[int]], *, every: bool = False, cancel: threading.Event
    ) -> Tensor:
        """As `Model.forward`."""
        self._cancel = cancel
        inputs = self._cache.inputs(ids)
        inputs["input_ids"] = inputs["input_ids"].to(self._device)
        if self._last_only and not every:
            inputs["logits_to_keep"] = 1
        try:
            logits: Tensor = self._network(**inputs).logits
            logits = (logits[:, -len(ids[0]) :] if every else logits[:, -1]).float()
        except BaseException:
            self._cache.repair()
            raise
        self._cache.took(ids)
        return logits

    def prefill(
        self, ids: Sequence[int], *, every: bool = False, cancel: threading.Event
    ) -> Generator[float, None, Tensor]:
        """One forward pass; transformers does not say how far it is."""
        yield 0.0
        return self.forward([ids], every=every, cancel=cancel)

    def rewind(self, length: int) -> int:
        """As `Model.rewind`."""
        return self._cache.rewind(length)

    def branch(self, rows: int) -> None:
        """As `Model.branch`."""
        self._cache.select([0] * rows)

    def select(self, rows: Sequence[int]) -> None:
        """As `Model.select`."""
        self._cache.select(rows)

    def extract(self, row: int, start: int, stop: int) -> None:
        """None: the many cache classes cannot be copied in parts."""

    def graft(self, part: object, start: int, stop: int) -> None:
        """Never called: nothing is extracted."""
        raise NotImplementedError

    def reset(self) -> None:
        """As `Model.reset`."""
        self._cache.reset()

    def memory(self) -> int:
        """As `Model.memory`."""
        return used_bytes(self._device)

    def close(self) -> None:
        """As `Model.close`."""
        self._cache.reset()
        self._network = None

    def _agrees(self) -> bool:
        """Whether four ids run in two parts give the same logits as all at once; recurrent states
        of some architectures do not.
        """
        known = min(4, self.vocab_rows - 1)
        probe = list(range(known))
        never = threading.Event()
        whole = self.forward([probe], every=True, cancel=never)[0, 2:]
        self._cache.reset()
        self.forward([probe[:2]], cancel=never)
        parts = self.forward([probe[2:]], every=True, cancel=never)[0]
        self._cache.reset()
        return bool(((whole - parts).abs().max() <= 0.05 * whole.abs().max()).item())

    def _check_cancel(self, *_: object) -> None:
        if self._cancel.is_set():
            raise Cancelled


def _decoder_layers(network: nn.Module) -> list[nn.Module]:
    """The network's longest list of modules: its layers, whatever the architecture calls them."""
    lists = [each for each in network.modules() if isinstance(each, nn.ModuleList)]
    return list(max(lists, key=len, default=[]))
