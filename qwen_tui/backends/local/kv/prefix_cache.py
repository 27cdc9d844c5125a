"""The prefix cache: a model's KV cache together with the ids it was computed from.

Law: every row has as many ids as the model's cache has positions, also after an exception; only
this class changes the length of the model's cache. A segment is restored only after the ids it was
computed after.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from qwen_tui.backends.local import memory
from qwen_tui.backends.local.nn.model import Model
from qwen_tui.vocab.alignment import shared_length

LEAST_SEGMENT: Final = 8
"""Positions; recomputing fewer costs less than keeping them."""
SEGMENT_BUDGET: Final = 8192
"""Positions kept in all segments together; the least recently used segment is dropped first."""


@dataclass(slots=True)
class Segment:
    """Keys and values of positions `start` … len(ids) − 1, valid only after `ids[:start]`."""

    ids: list[int]
    start: int
    part: Any

    def __len__(self) -> int:
        return len(self.ids) - self.start


class PrefixCache:
    """A model's KV cache of one row, or of several while branches are decoded in one batch, and
    segments cut off it earlier, so that returning to a sibling or an earlier text computes nothing.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.segments: list[Segment] = []
        self._rows: list[list[int]] = [[]]
        self._branched_at = 0

    @property
    def ids(self) -> Sequence[int]:
        """The ids of the first row; read only."""
        return self._rows[0]

    @property
    def length(self) -> int:
        """Positions in each row."""
        return len(self._rows[0])

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    # -- longer ------------------------------------------------------------------------------------

    def append(
        self, ids: Sequence[Sequence[int]], *, every: bool = False, cancel: threading.Event
    ) -> Tensor:
        """Run `ids` [rows][n] through the model; logits as `Model.forward` returns them."""
        with self._consistent():
            logits = self.model.forward(ids, every=every, cancel=cancel)
        for row, new in zip(self._rows, ids, strict=True):
            row += new
        return logits

    def prefill(
        self, ids: Sequence[int], *, every: bool = False, cancel: threading.Event
    ) -> Generator[float, None, Tensor]:
        """`append` for a chunk of the one row; yields the share of the chunk that is done."""
        with self._consistent():
            logits = yield from self.model.prefill(ids, every=every, cancel=cancel)
        self._rows[0] += ids
        return logits

    def graft(self, part: Any, first: int, ids: Sequence[int]) -> None:
        """Extend the one row to all of `ids`, which begin with the ids it has; `part` has keys and
        values from position `first` on.
        """
        with self._consistent():
            self.model.graft(part, self.length - first, len(ids) - first)
        self._rows = [list(ids)]

    def keep(self, ids: Sequence[int]) -> int:
        """Rewind to the common prefix with `ids` and extend it with matching segments; returns the
        length then.

        At most len(ids) − 1: one id must be run, or there would be no logits.
        """
        most = max(0, len(ids) - 1)
        shared = self._shared(ids)
        self._remember(0, shared)
        self.rewind(shared)
        while (segment := self._next_segment(ids, most)) is not None:
            reach = min(shared_length(segment.ids, ids), most)
            self.graft(segment.part, segment.start, ids[:reach])
            self.segments.remove(segment)
            self.segments.append(segment)
        return self.length

    # -- shorter -----------------------------------------------------------------------------------

    def rewind(self, length: int) -> int:
        """Forget positions from `length` on. Returns the length afterwards: 0 if this kind of cache
        cannot be rewound.
        """
        with self._consistent():
            self.model.rewind(min(length, self.length))
        return self.length

    def trim(self, ids: Sequence[int]) -> int:
        """Rewind to the common prefix with `ids`, at most len(ids) − 1; returns the length then."""
        return self.rewind(self._shared(ids))

    def reset(self) -> None:
        """Forget everything, segments too, and free the memory."""
        self.segments = []
        self._rows = [[]]
        self.model.reset()

    # -- rows --------------------------------------------------------------------------------------

    def branch(self, rows: int) -> None:
        """Turn the one row into `rows` equal rows."""
        self.model.branch(rows)
        self._branched_at = self.length
        self._rows += [list(self._rows[0]) for _ in range(rows - 1)]

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows only, each once; the others are kept as segments from where they branched
        off, because their texts may be continued later.
        """
        for row in range(self.rows):
            if row not in rows:
                self._remember(row, self._branched_at)
        self.model.select(rows)
        self._rows = [self._rows[row] for row in rows]

    def _remember(self, row: int, start: int) -> None:
        """Keep a row's positions from `start` on as a segment."""
        ids = self._rows[row]
        if not LEAST_SEGMENT <= len(ids) - start <= SEGMENT_BUDGET:
            return
        if any(
            each.start <= start and shared_length(each.ids, ids) == len(ids)
            for each in self.segments
        ):
            return
        try:
            part = self.model.extract(row, start, len(ids))
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            # What only saves time later must not cost this generation.
            self.segments = []
            return
        if part is None:
            return
        self.segments.append(Segment(list(ids), start, part))
        while sum(map(len, self.segments)) > SEGMENT_BUDGET:
            del self.segments[0]

    def _next_segment(self, ids: Sequence[int], most: int) -> Segment | None:
        """The segment that extends the cache furthest along `ids`."""
        reaches = [
            (min(shared_length(segment.ids, ids), most), segment)
            for segment in self.segments
            if segment.start <= self.length
        ]
        reach, best = max(reaches, key=lambda pair: pair[0], default=(0, None))
        return best if reach > self.length else None

    def _shared(self, ids: Sequence[int]) -> int:
        return min(shared_length(self.ids, ids), max(0, len(ids) - 1))

    @contextmanager
    def _consistent(self) -> Iterator[None]:
        """On leaving, cut ids to the model's positions, also after an exception: some models lose
        their whole cache when a forward pass is interrupted.
        """
        try:
            yield
        finally:
            del self._rows[self.model.rows :]
            for row in self._rows:
                del row[self.model.length :]
