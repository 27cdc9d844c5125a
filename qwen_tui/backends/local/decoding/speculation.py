"""Speculative decoding: drafts by prompt lookup, else by a draft model, for the loop to verify.

Law: what is drafted depends on ids and earlier acceptance, never on time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import takewhile

from torch import Tensor

from qwen_tui.backends.local.decoding.draft_length import DraftLength
from qwen_tui.backends.local.decoding.draft_model import Drafter
from qwen_tui.backends.local.decoding.engine import Engine
from qwen_tui.backends.local.decoding.history import History
from qwen_tui.backends.local.decoding.logprobs import top_logits
from qwen_tui.backends.local.decoding.prompt_lookup import PromptLookup
from qwen_tui.backends.local.decoding.random_draw import uniform
from qwen_tui.backends.local.decoding.sampling import HEADS, AllBanned, SamplerChain


class Speculation:
    """The drafts of one generation, for one branch."""

    def __init__(
        self,
        engine: Engine,
        prompt: Sequence[int],
        sources: Sequence[Sequence[int]],
        *,
        chain: SamplerChain,
        seed: int,
    ) -> None:
        """`sources` are other texts to look up, the likeliest last; `chain` and `seed` are those
        of the request.
        """
        self._ids, self._sources = list(prompt), sources
        self._prompt = len(prompt)
        self._most, self._known = engine.max_draft, engine.known
        self._lookup_on, self._drafter = engine.lookup, engine.drafter
        self._chain, self._seed = chain, seed
        self._lookup: PromptLookup | None = None
        self._begun = False
        row_cost = engine.model.row_cost
        drafter_cost = self._drafter.cost if self._drafter is not None else 0.0
        self._lookup_length = DraftLength(self._most, row_cost)
        self._drafter_length = DraftLength(self._most, row_cost + drafter_cost)
        self._last = self._lookup_length

    def draft(
        self,
        ids: Sequence[int],
        history: History,
        branch: int,
        room: int,
        cancel: threading.Event,
    ) -> list[int]:
        """Up to `room` ids that may follow the prompt and `ids`; asked once a step. `history` is
        what the samplers know there.
        """
        if not self._most:
            return []
        fresh = ids[len(self._ids) - self._prompt :]
        self._ids += fresh
        self._last = self._lookup_length
        found = self._looked_up(fresh, room) if self._lookup_on else []
        if not found and self._drafter is not None:
            self._last = self._drafter_length
            found = self._drafted(self._drafter, history, branch, room, cancel)
        return found

    def observe(self, drafted: int, accepted: int) -> None:
        """The outcome of the last draft."""
        self._last.observe(drafted, accepted)

    def release(self) -> None:
        """Free the draft model's cache; it drafts no more in this generation."""
        if self._drafter is not None:
            self._drafter.reset()
            self._drafter = None

    def _looked_up(self, fresh: Sequence[int], room: int) -> list[int]:
        if self._lookup is None:
            self._lookup = PromptLookup(self._ids, self._sources)
        else:
            for each in fresh:
                self._lookup.push(each)
        most = self._lookup_length.next()
        # A draft model knows better than a match of two ids.
        weak = self._lookup_length.confident and self._drafter is None
        found = self._lookup.draft(min(most, room), weak=weak)
        return list(takewhile(lambda each: 0 <= each < self._known, found))

    def _drafted(
        self,
        drafter: Drafter,
        history: History,
        branch: int,
        room: int,
        cancel: threading.Event,
    ) -> list[int]:
        most = self._drafter_length.next()
        if not most:
            return []
        if not self._begun:
            self._begun = True
            drafter.begin()
        seen = history.copy()

        def draw(row: Tensor, number: int) -> int | None:
            """Sample with the random number that the model will use for the same position: where
            both distributions are equal, so are the ids.
            """
            top = top_logits(row[None], HEADS[0])
            if not top.finite(0):
                return None
            where = (self._seed, branch, len(self._ids) + number)
            toss = uniform(*where, 1) if self._chain.tosses else 1.0
            try:
                drawn = self._chain.sample(row, seen, uniform(*where), toss=toss, top=top)
            except AllBanned:
                return None
            seen.push(drawn.id, drawn.share)
            return drawn.id

        return drafter.draft(self._ids, min(most, room), room, draw, cancel)
