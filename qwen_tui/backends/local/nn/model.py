"""The interface of a forward pass: what decoding asks of a model, whatever implements it.

A model holds a KV cache of `rows` rows, each of `length` positions; all rows advance together.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from typing import Any, Protocol

from torch import Tensor


class Cancelled(Exception):
    """A forward pass was cancelled; the cache is as it was before that call, or empty."""


class Model(Protocol):
    """One forward pass with its KV cache. Used by one thread at a time.

    Every method may raise torch's out-of-memory errors; `reset` is then safe, and nothing else is.
    """

    @property
    def length(self) -> int:
        """How many positions each row of the cache holds."""
        ...

    @property
    def rows(self) -> int:
        """How many rows the cache has (1 after `reset`)."""
        ...

    @property
    def vocab_rows(self) -> int:
        """How many logits a position has, padding rows included."""
        ...

    @property
    def chunk(self) -> int:
        """How many positions to prefill at once."""
        ...

    @property
    def row_cost(self) -> float:
        """The cost of each further row of a decoding step, in steps of one row."""
        ...

    @property
    def max_draft(self) -> int:
        """The most drafted ids to verify in a decoding step; 0 if the cache cannot be rewound
        exactly.
        """
        ...

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, wherever they lie."""
        ...

    @property
    def step_bytes(self) -> int:
        """Weight bytes that one decoding step reads, whatever the batch."""
        ...

    @property
    def kv_bytes(self) -> int:
        """Bytes that one position takes in a row of the cache; 0 if unknown."""
        ...

    def forward(
        self, ids: Sequence[Sequence[int]], *, every: bool = False, cancel: threading.Event
    ) -> Tensor:
        """Append `ids` [rows][n] to the cache and run them.

        Returns float32 logits of the last position, [rows, V], or with `every` of all n positions,
        [rows, n, V]. Checks `cancel` between layers when n is large, and raises `Cancelled`.
        """
        ...

    def prefill(
        self, ids: Sequence[int], *, every: bool = False, cancel: threading.Event
    ) -> Generator[float, None, Tensor]:
        """`forward` for a chunk of one row's prompt; yields the share that is done."""
        ...

    def rewind(self, length: int) -> int:
        """Forget all positions from `length` on. Returns the length afterwards: 0 if this kind of
        cache cannot be rewound.
        """
        ...

    def branch(self, rows: int) -> None:
        """Turn the one row into `rows` equal rows."""
        ...

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows only, in this order."""
        ...

    def extract(self, row: int, start: int, stop: int) -> Any | None:
        """A copy of a row's keys and values at positions start … stop − 1; None if this kind of
        cache cannot be copied in parts.
        """
        ...

    def graft(self, part: Any, start: int, stop: int) -> None:
        """Append positions start … stop − 1 of what `extract` returned to the one row."""
        ...

    def reset(self) -> None:
        """Forget everything and give the cache's memory back."""
        ...

    def memory(self) -> int:
        """Bytes now in use for weights, cache and whatever else the process or device needs."""
        ...

    def close(self) -> None:
        """Give the weights back; nothing may be called after it."""
        ...
