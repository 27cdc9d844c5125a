"""What one generation guesses ahead: what followed the last words before, else what a draft model
says.

Law: which guesses are made depends on ids and on what became of earlier guesses, never on time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import takewhile

from torch import Tensor

from qwen_tui.backends.local.decoding.draft_model import Drafter
from qwen_tui.backends.local.decoding.logprobs import peek
from qwen_tui.backends.local.decoding.prompt_lookup import Appetite, Lookup
from qwen_tui.backends.local.decoding.sampling import HEADS, AllBanned, Chain, Window, uniform


class Guesser:
    """The guesses of one generation for one branch, verified by whoever asked for them."""

    def __init__(
        self,
        prompt: Sequence[int],
        sources: Sequence[Sequence[int]],
        *,
        most: int,
        price: float,
        known: int,
        lookup: bool,
        drafter: Drafter | None,
        chain: Chain,
        seed: int,
    ) -> None:
        """At most `most` ids are guessed in a step (0: none), all of them below `known`; `price` is
        what verifying one adds to the cost of a step.
        """
        self._ids, self._sources = list(prompt), sources
        self._prompt = len(prompt)
        self._most, self._known = most, known
        self._looks, self._drafter = lookup, drafter
        self._chain, self._seed = chain, seed
        self._lookup: Lookup | None = None
        self._begun = False
        drafting = price + (drafter.price if drafter is not None else 0.0)
        self._appetites = Appetite(most, price), Appetite(most, drafting)
        self._asked = 0

    def guess(
        self, ids: Sequence[int], window: Window, branch: int, room: int, cancel: threading.Event
    ) -> list[int]:
        """What may follow the prompt and `ids`, of which at most `room` can be of use; asked once a
        step. `window` is what the penalties see there.
        """
        if not self._most:
            return []
        fresh = ids[len(self._ids) - self._prompt :]
        self._ids += fresh
        found = self._looked_up(fresh, room) if self._looks else []
        self._asked = 0
        if not found and self._drafter is not None:
            found = self._drafted(self._drafter, window, branch, room, cancel)
            self._asked = 1
        return found

    def learn(self, drafted: int, accepted: int) -> None:
        """What became of the guesses that were given last."""
        self._appetites[self._asked].learn(drafted, accepted)

    def forget(self) -> None:
        """Memory is short: the draft model lets go of its cache, and rests."""
        if self._drafter is not None:
            self._drafter.forget()
            self._drafter = None

    def _looked_up(self, fresh: Sequence[int], room: int) -> list[int]:
        if self._lookup is None:
            self._lookup = Lookup(self._ids, self._sources)
        else:
            for each in fresh:
                self._lookup.push(each)
        appetite = self._appetites[0]
        bite = appetite.bite()
        # A draft model knows better than a run of two.
        weak = appetite.trusting and self._drafter is None
        found = self._lookup.draft(min(bite, room), weak=weak)
        return list(takewhile(lambda each: 0 <= each < self._known, found))

    def _drafted(
        self, drafter: Drafter, window: Window, branch: int, room: int, cancel: threading.Event
    ) -> list[int]:
        bite = self._appetites[1].bite()
        if not bite:
            return []
        if not self._begun:
            self._begun = True
            drafter.begin()
        seen = window.copy()

        def draw(row: Tensor, number: int) -> int | None:
            """With the very number that will draw the model's own token of that place: where both
            distributions are alike, so is what comes of them.
            """
            top = peek(row[None], HEADS[0])
            if not top.finite(0):
                return None
            u = uniform(self._seed, branch, len(self._ids) + number)
            try:
                chosen = self._chain.sample(row, seen, u, top=top)
            except AllBanned:
                return None
            seen.push(chosen)
            return chosen

        return drafter.guess(self._ids, min(bite, room), room, draw, cancel)
