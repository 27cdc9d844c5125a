"""Drafts by a draft model: a smaller model with the same vocabulary.

Law: a failure in drafting gives no draft, never a failed generation.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

from torch import Tensor

from qwen_tui.backends.local import memory
from qwen_tui.backends.local.kv.prefix_cache import PrefixCache
from qwen_tui.backends.local.nn.model import Cancelled, Model

MOST_READ: Final = 32
"""Most unread ids, for each id that may still come, that the draft model reads to catch up: for a
short completion of a long text that would cost more than drafting saves."""

log = logging.getLogger(__name__)

Draw: TypeAlias = Callable[[Tensor, int], int | None]
"""(logits [known], how many ids this draft has) → the next id; None ends the draft."""


class Drafter:
    """A draft model with its own prefix cache, which is kept from one generation to the next."""

    def __init__(self, model: Model, *, known: int, context: int, cost: float = 0.1) -> None:
        """`known`: ids from this one on are padding; `context`: positions its memory is planned
        for; `cost`: cost of one drafted id, in steps of the model.
        """
        self.cost = cost
        self._cache: PrefixCache | None = PrefixCache(model)
        self._known = min(known, model.vocab_rows)
        self._context = context
        self._begins = True

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids in its cache."""
        return tuple(self._cache.ids) if self._cache is not None else ()

    def memory(self) -> int:
        """Bytes of weights and cache; 0 once it was closed."""
        return self._cache.model.memory() if self._cache is not None else 0

    def begin(self) -> None:
        """Start a generation, perhaps of another text: cached segments are searched once."""
        self._begins = True

    def draft(
        self, ids: list[int], most: int, room: int, draw: Draw, cancel: threading.Event
    ) -> list[int]:
        """Up to `most` ids that may follow `ids`, when at most `room` more may come; none until it
        has read all of `ids`.

        Each call reads at most one chunk, so that catching up with a long text is spread over the
        model's own steps. Raises `Cancelled`; on any other failure it closes itself.
        """
        if self._cache is None or most < 1 or len(ids) + most > self._context:
            return []
        try:
            return self._draft(self._cache, ids, most, room, draw, cancel)
        except (RuntimeError, MemoryError) as error:
            why = "memory ran out" if memory.ran_out(error) else str(error)
            log.warning("the draft model drafts no more: %s", why)
        # Not in the handler: the error's traceback would keep the cache alive.
        self.close()
        memory.release()
        return []

    def reset(self) -> None:
        """Free the cache's memory."""
        if self._cache is not None:
            self._cache.reset()

    def close(self) -> None:
        """Free weights and cache; it drafts no more."""
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.model.close()

    def _draft(
        self,
        cache: PrefixCache,
        ids: list[int],
        most: int,
        room: int,
        draw: Draw,
        cancel: threading.Event,
    ) -> list[int]:
        logits = self._caught_up(cache, ids, room, cancel)
        drafted: list[int] = []
        while logits is not None:
            chosen = draw(logits[0, : self._known], len(drafted))
            if chosen is None:
                break
            drafted.append(chosen)
            if len(drafted) == most:
                break
            logits = _read(cache, [chosen], cancel)
        return drafted

    def _caught_up(
        self, cache: PrefixCache, ids: list[int], room: int, cancel: threading.Event
    ) -> Tensor | None:
        """The logits [1, V] after `ids`; None while more than one chunk of them is unread, or while
        too many are (`MOST_READ`).
        """
        start = cache.keep(ids) if self._begins else cache.trim(ids)
        self._begins = False
        part = ids[start : start + cache.model.chunk]
        if len(ids) - start > MOST_READ * room or max(part) >= cache.model.vocab_rows:
            return None
        logits = _read(cache, part, cancel)
        return logits if cache.length == len(ids) else None


def _read(cache: PrefixCache, part: list[int], cancel: threading.Event) -> Tensor:
    """Append `part`; logits [1, V] after it. Raises `Cancelled`."""
    if cancel.is_set():
        raise Cancelled
    return cache.append([part], cancel=cancel)
