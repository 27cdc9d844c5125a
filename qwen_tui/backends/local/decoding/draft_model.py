"""A smaller model of the same vocabulary that guesses what the model will say.

Law: what goes wrong with a guess is no guess; after every call, however it ended, `Held.ids` are
what the draft model's cache holds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

from torch import Tensor

from qwen_tui.backends.local import memory
from qwen_tui.backends.local.kv.prefix_cache import Held
from qwen_tui.backends.local.nn.model import Cancelled, Model
from qwen_tui.vocab.alignment import shared_length

WORTH: Final = 32
"""Ids the draft model may have to read for each id that may still come. Reading costs it little an
id, but a short completion of a long text cannot win that back."""

log = logging.getLogger(__name__)

Draw: TypeAlias = Callable[[Tensor, int], int | None]
"""The id drawn from a row of logits [known] for the guess of that number; None: no guess."""


class Drafter:
    """A draft model with a cache of its own, which follows the text from one generation to the
    next.
    """

    def __init__(self, model: Model, *, known: int, context: int, price: float = 0.1) -> None:
        """`known`: ids from there on are padding; `context`: how many ids its memory is planned
        for; `price`: what a guess costs, in steps of the model.
        """
        self.price = price
        self._model: Model | None = model
        self._held = Held()
        self._known = min(known, model.vocab_rows)
        self._context = context
        self._fresh = True

    @property
    def held(self) -> tuple[int, ...]:
        """The ids that its cache holds."""
        return tuple(self._held.ids)

    def memory(self) -> int:
        """Bytes of its weights and cache; none once it was closed."""
        return self._model.memory() if self._model is not None else 0

    def begin(self) -> None:
        """Another text may come: what was ever held of it need not be read again."""
        self._fresh = True

    def guess(
        self, ids: list[int], most: int, room: int, draw: Draw, cancel: threading.Event
    ) -> list[int]:
        """Up to `most` ids that may follow `ids`, where `room` may come; none before all of `ids`
        was read.

        One chunk is read in a call, so that a long text is caught up with between the tokens that
        the model emits without it. Raises `Cancelled`; out of memory it closes itself.
        """
        if self._model is None or most < 1 or len(ids) + most > self._context:
            return []
        try:
            return self._guess(self._model, ids, most, room, draw, cancel)
        except (RuntimeError, MemoryError) as error:
            why = "memory ran out" if memory.ran_out(error) else str(error)
            log.warning("the draft model guesses no more: %s", why)
        # Not in the handler: the error's traceback would keep the cache alive.
        self.close()
        memory.give_back()
        return []

    def forget(self) -> None:
        """Give the cache's memory back."""
        self._held.forget()
        if self._model is not None:
            self._model.reset()

    def close(self) -> None:
        """Give weights and cache back; it guesses nothing any more."""
        model, self._model = self._model, None
        self._held.forget()
        if model is not None:
            model.close()

    def _guess(
        self,
        model: Model,
        ids: list[int],
        most: int,
        room: int,
        draw: Draw,
        cancel: threading.Event,
    ) -> list[int]:
        logits = self._caught_up(model, ids, room, cancel)
        guesses: list[int] = []
        while logits is not None:
            chosen = draw(logits[0, : self._known], len(guesses))
            if chosen is None:
                break
            guesses.append(chosen)
            if len(guesses) == most:
                break
            logits = self._read(model, [chosen], cancel)
        return guesses

    def _caught_up(
        self, model: Model, ids: list[int], room: int, cancel: threading.Event
    ) -> Tensor | None:
        """The logits [1, V] after `ids`; None while there is more of them to read than one chunk,
        or than it is worth.
        """
        held = self._held
        if self._fresh:
            held.keep(model, ids)
            self._fresh = False
        else:
            held.ids = held.ids[: model.rewind(min(shared_length(held.ids, ids), len(ids) - 1))]
        start = len(held.ids)
        part = ids[start : start + model.chunk]
        if len(ids) - start > WORTH * room or max(part) >= model.vocab_rows:
            return None
        logits = self._read(model, part, cancel)
        return logits if len(held.ids) == len(ids) else None

    def _read(self, model: Model, part: list[int], cancel: threading.Event) -> Tensor:
        if cancel.is_set():
            raise Cancelled
        logits = model.forward([part], cancel=cancel)
        self._held.ids += part
        return logits
