"""The reference path: any causal LM through transformers, one plain forward pass at a time.

Correct first: it is the yardstick for every faster path, and what runs when there is none.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qwen_tui.backends.local.hf_cache import Kept
from qwen_tui.backends.local.model import Cancelled
from qwen_tui.backends.local.resources import held_bytes


class Reference:
    """A transformers model behind the `Model` door; it takes one in eval mode, weights in place."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._cache = Kept(network.config)
        self._cancel = threading.Event()
        self._device = network.get_input_embeddings().weight.device
        accepted = inspect.signature(network.forward).parameters
        self._last_only = "logits_to_keep" in accepted
        for layer in _decoder_layers(network):
            layer.register_forward_pre_hook(self._ask)

    @property
    def length(self) -> int:
        """How many positions each row holds."""
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

    @torch.inference_mode()
    def forward(
        self, ids: Sequence[Sequence[int]], *, every: bool = False, cancel: threading.Event
    ) -> Tensor:
        """As `Model.forward`."""
        self._cancel = cancel
        keep = {} if every or not self._last_only else {"logits_to_keep": 1}
        try:
            found = self._network(
                input_ids=torch.tensor(ids, dtype=torch.int64, device=self._device),
                past_key_values=self._cache.states,
                use_cache=True,
                **keep,
            )
            logits = found.logits if every else found.logits[:, -1]
            logits = logits.float()
        except BaseException:
            self._cache.repair()
            raise
        self._cache.took(len(ids[0]))
        return logits

    def rewind(self, length: int) -> int:
        """As `Model.rewind`."""
        return self._cache.rewind(length)

    def branch(self, rows: int) -> None:
        """As `Model.branch`."""
        self._cache.select([0] * rows)

    def select(self, rows: Sequence[int]) -> None:
        """As `Model.select`."""
        self._cache.select(rows)

    def reset(self) -> None:
        """As `Model.reset`."""
        self._cache.reset()

    def memory(self) -> int:
        """As `Model.memory`."""
        return held_bytes(self._device)

    def close(self) -> None:
        """As `Model.close`."""
        self._cache.reset()
        self._network = None

    def _ask(self, *_: object) -> None:
        if self._cancel.is_set():
            raise Cancelled


def _decoder_layers(network: nn.Module) -> list[nn.Module]:
    """The network's longest list of modules: its layers, whatever the architecture calls them."""
    lists = [each for each in network.modules() if isinstance(each, nn.ModuleList)]
    return list(max(lists, key=len, default=[]))
