"""The KV cache of the reference path; no other module touches a cache of transformers.

Law: after any call each row has exactly `length` positions, also if a forward pass was interrupted;
a cache that cannot be rewound is emptied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

ARGUMENTS: Final = ("past_key_values", "cache")
"""The name of a network's cache argument: before transformers 5.24, and since."""
LEAST_ROOM: Final = 256
"""The smallest buffer of a layer, in positions; beyond that it grows by a quarter."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values in buffers with room to grow, instead of a copy for every token.

    `keys` and `values` are views [B, heads, length, head] of the buffers, so it reads like an
    ordinary dynamic layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rooms: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append [B, heads, n, head] and return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        keys, values = self._reserve(start, end, key_states, value_states)
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def reset(self) -> None:
        """Forget everything and free the buffers."""
        super().reset()
        self._rooms = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes a copy of row `beam_idx[i]`."""
        super().reorder_cache(beam_idx)
        self._rooms = None

    def _reserve(
        self, length: int, wanted: int, key_states: Tensor, value_states: Tensor
    ) -> tuple[Tensor, Tensor]:
        rooms = self._rooms
        if rooms is None or rooms[0].shape[2] < wanted:
            capacity = max(wanted + wanted // 4, LEAST_ROOM)
            rooms = (_room(key_states, capacity), _room(value_states, capacity))
            if length:
                rooms[0][:, :, :length] = self.keys
                rooms[1][:, :, :length] = self.values
            self._rooms = rooms
        return rooms


def _room(states: Tensor, capacity: int) -> Tensor:
    batch, heads, _, head = states.shape
    return states.new_empty((batch, heads, capacity, head))


class TransformersCache:
    """A transformers cache with the operations `Model` needs: length, rewind, rows."""

    def __init__(self, config: Any, argument: str) -> None:
        """`argument` is one of `ARGUMENTS`."""
        self._config, self._argument = config, argument
        self.length = 0
        self.rows = 1
        self.states = self._fresh()

    def _fresh(self) -> DynamicCache:
        """An empty cache; ordinary attention layers become `GrowingLayer`s, others stay as they
        are.
        """
        states = DynamicCache(config=self._config)
        states.layers = [
            GrowingLayer() if type(layer) is DynamicLayer else layer for layer in states.layers
        ]
        if states.layer_class_to_replicate is DynamicLayer:
            states.layer_class_to_replicate = GrowingLayer
        return states

    @property
    def plain(self) -> bool:
        """Whether all its layers are attention layers that this module can rewind and copy."""
        known = (GrowingLayer, DynamicSlidingWindowLayer)
        if not self.states.layers:
            return self.states.layer_class_to_replicate is GrowingLayer
        return all(type(layer) in known for layer in self.states.layers)

    def inputs(self, ids: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Keyword arguments for the network to append `ids` [rows][n]."""
        return {
            "input_ids": torch.tensor(ids, dtype=torch.int64),
            self._argument: self.states,
            "use_cache": True,
        }

    def took(self, ids: Sequence[Sequence[int]]) -> None:
        """Record that the forward pass over `ids` is complete."""
        self.length += len(ids[0])

    def rewind(self, length: int) -> int:
        """Forget positions from `length` on, in every layer, even if an interrupted pass left
        layers of different lengths.

        Returns the length afterwards: 0 if this kind of cache cannot be rewound (sliding windows
        that have moved, recurrent states). `crop` takes a negative count in transformers 5.
        """
        back = length < self.length
        for layer in self.states.layers:
            surplus = layer.get_seq_length() - length if hasattr(layer, "get_seq_length") else 0
            if surplus <= 0 and (layer.is_croppable or not back):
                continue
            if not layer.is_croppable:
                return self.reset()
            try:
                layer.crop(-surplus)
            except (RuntimeError, ValueError):
                return self.reset()
        self.length = min(length, self.length)
        return self.length

    def repair(self) -> int:
        """After an interrupted forward pass: rewind to the length before it, or to 0."""
        if all(layer.is_croppable for layer in self.states.layers):
            return self.rewind(self.length)
        return self.reset()

    def select(self, rows: Sequence[int]) -> None:
        """Row i becomes a copy of the former row `rows[i]`."""
        if list(rows) == list(range(self.rows)):
            return
        for layer in self.states.layers:
            if getattr(layer, "keys", None) is not None:
                order = torch.tensor(rows, device=layer.keys.device)
            else:
                order = torch.tensor(rows)
            layer.reorder_cache(order)
        self.rows = len(rows)

    def reset(self) -> int:
        """Forget everything; returns the length, 0."""
        self.states = self._fresh()
        self.length = 0
        self.rows = 1
        return 0


class NoCache:
    """For networks whose state cannot be fed in parts: it keeps only the ids, and every forward
    pass runs all of them again.
    """

    plain = True

    def __init__(self) -> None:
        self._texts: list[list[int]] = [[]]

    @property
    def length(self) -> int:
        """How many positions each row has."""
        return len(self._texts[0])

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self._texts)

    def inputs(self, ids: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Keyword arguments for the network to append `ids` [rows][n]."""
        whole = [[*text, *new] for text, new in zip(self._texts, ids, strict=True)]
        return {"input_ids": torch.tensor(whole, dtype=torch.int64), "use_cache": False}

    def took(self, ids: Sequence[Sequence[int]]) -> None:
        """Record that the forward pass over `ids` is complete."""
        for text, new in zip(self._texts, ids, strict=True):
            text.extend(new)

    def rewind(self, length: int) -> int:
        """Forget positions from `length` on."""
        for text in self._texts:
            del text[length:]
        return self.length

    def repair(self) -> int:
        """Nothing to repair."""
        return self.length

    def select(self, rows: Sequence[int]) -> None:
        """Row i becomes a copy of the former row `rows[i]`."""
        self._texts = [list(self._texts[row]) for row in rows]

    def reset(self) -> int:
        """Forget everything; returns the length, 0."""
        self._texts = [[]]
        return 0
