"""Which ids a model's cache holds, what else was kept of earlier ones, and what a request can use.

Law: `ids` are exactly the positions the model holds, after every generation, however it ended. What
is put back from a clip is what the model computed for the very same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from qwen_tui.backends.local import memory
from qwen_tui.backends.local.nn.model import Model
from qwen_tui.vocab.alignment import shared_length

WORTH_KEEPING: Final = 8
"""Shorter tails are run again: that costs less than remembering them."""
MOST_KEPT: Final = 8192
"""Positions kept beside the cache, over all clips; the one unused the longest goes first."""


@dataclass(slots=True)
class Clip:
    """Keys and values of positions `start` … len(ids) − 1, valid after `ids[:start]` only."""

    ids: list[int]
    start: int
    part: Any

    def __len__(self) -> int:
        return len(self.ids) - self.start


class Held:
    """The ids behind a model's cache (of its first row), and clips of what it held before.

    So going back to a sibling, or taking up a text that was stepped back from, runs nothing again.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.clips: list[Clip] = []

    def keep(self, model: Model, ids: Sequence[int]) -> int:
        """Make `model` hold the longest prefix of `ids` that is known; returns how long that is.

        At most len(ids) - 1: at least one id must be run, or there would be no logits.
        """
        most = max(0, len(ids) - 1)
        shared = min(shared_length(self.ids, ids), most)
        self.remember(model, 0, self.ids, shared)
        self.ids = self.ids[: model.rewind(shared)]
        while (clip := self._next(ids, most)) is not None:
            reach = min(shared_length(clip.ids, ids), most)
            model.graft(clip.part, len(self.ids) - clip.start, reach - clip.start)
            self.ids = list(ids[:reach])
            self.clips.remove(clip)
            self.clips.append(clip)
        return len(self.ids)

    def remember(self, model: Model, row: int, ids: Sequence[int], start: int) -> None:
        """Keep what `row` of the cache holds from position `start` on; `ids` are the row's."""
        if len(ids) - start < WORTH_KEEPING or len(ids) - start > MOST_KEPT:
            return
        if any(
            shared_length(clip.ids, ids) == len(ids) and clip.start <= start for clip in self.clips
        ):
            return
        try:
            part = model.clip(row, start, len(ids))
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            # What is kept to be quicker must not cost a generation.
            self.clips = []
            return
        if part is None:
            return
        self.clips.append(Clip(list(ids), start, part))
        while sum(map(len, self.clips)) > MOST_KEPT:
            del self.clips[0]

    def forget(self) -> None:
        """Nothing is held any more."""
        self.ids = []
        self.clips = []

    def _next(self, ids: Sequence[int], most: int) -> Clip | None:
        """The clip that leads furthest from where the cache stands."""
        held = len(self.ids)
        reaches = [
            (min(shared_length(clip.ids, ids), most), clip)
            for clip in self.clips
            if clip.start <= held
        ]
        reach, best = max(reaches, key=lambda pair: pair[0], default=(0, None))
        return best if reach > held else None
