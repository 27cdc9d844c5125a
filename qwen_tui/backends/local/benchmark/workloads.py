"""The blocks of generation that the benchmark times on one backend.

Law: a block runs to its full length, through the backend's `stream`, and decodes speculatively only
if that is what it measures.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from qwen_tui import hub
from qwen_tui.backends.local.backend import Local
from qwen_tui.backends.local.benchmark.figures import BenchProtocol
from qwen_tui.types import (
    GENERIC,
    Emitted,
    Event,
    Finished,
    Request,
    Sampling,
    Stats,
    Token,
    Trouble,
)

GREEDY: Final = Sampling(temperature=0.0, min_p=0.0)
SAMPLED: Final = Sampling(temperature=0.8, top_k=50, top_p=0.95, min_p=0.0, seed=1)
"""Other runtimes' usual sampling too: with top-k 50 no one sorts the whole vocabulary."""
SAMPLED_NOTE: Final = "temperature 0.8, top-k 50, top-p 0.95"
LEAD: Final = 32
"""Prompt tokens before a decoding block."""
EDITED: Final = 8
"""Tokens at the end of a long prompt that an edit replaces."""
WARM_UP: Final = 8
"""Tokens decoded before anything is measured."""

OPENINGS: Final = (
    "The lighthouse keeper had not spoken to anyone since the autumn storms, and when at last",
    "import json\nfrom pathlib import Path\n\n\ndef read_settings(folder: Path) -> dict:\n",
    "Photosynthesis is the process by which plants turn sunlight into chemical energy. It",
)
"""Beginnings of ordinary texts: how much a draft model gains depends on the text."""


class Subject:
    """An opened backend, and the blocks to time on it."""

    def __init__(
        self,
        backend: Local,
        protocol: BenchProtocol,
        known: int,
        openings: Sequence[Sequence[int]] = (),
    ) -> None:
        """`known`: ids below it are ordinary tokens of the vocabulary; `openings`: beginnings of
        texts.
        """
        self.backend = backend
        self.protocol = protocol
        self._known = known
        self._openings = openings
        room = backend.context - protocol.tokens - LEAD
        self.prompt_tokens = max(2 * EDITED, min(protocol.prompt, room))

    def ids(self, count: int, seed: int) -> list[int]:
        """Random ids from the whole vocabulary, so that no two prompts share a prefix."""
        dice = random.Random(self.protocol.seed * 1_000_003 + seed)
        return [dice.randrange(self._known) for _ in range(count)]

    def run(self, ids: Sequence[int], *, speculate: bool = False, **values: Any) -> list[Stats]:
        """One generation of full length; the statistics of each branch. It decodes speculatively
        only if `speculate`.
        """
        request = asked(ids, **values)
        if speculate:
            return ended(self.backend.stream(request, threading.Event()))
        with self.backend.speculating(lookup=False, draft=False):
            return ended(self.backend.stream(request, threading.Event()))

    def decode(self, sampling: Sampling, seed: int, *, branches: int = 1) -> Stats:
        """A block of decoding after a short prompt; the first branch's statistics."""
        values: dict[str, Any] = {"sampling": sampling, "max_tokens": self.protocol.tokens + 1}
        return self.run(self.ids(LEAD, seed), branches=branches, **values)[0]

    def cold(self, seed: int) -> Stats:
        """The first token after a long prompt that is not in the cache."""
        return self.run(self.ids(self.prompt_tokens, seed), sampling=GREEDY, max_tokens=1)[0]

    def edit(self, seed: int) -> Stats:
        """The first token after the last words of `cold`'s prompt were changed."""
        ids = self.ids(self.prompt_tokens, seed)
        ids[-EDITED:] = self.ids(EDITED, -1 - seed)
        return self.run(ids, sampling=GREEDY, max_tokens=1)[0]

    def rewrite(self, seed: int) -> tuple[Stats, Stats]:
        """A passage decoded token by token, then again after a word of its prompt was changed, by
        prompt lookup in the first version.
        """
        ids = self.ids(4 * LEAD, seed)
        passage: list[int] = []
        room = self.backend.context - len(ids)
        values: dict[str, Any] = {
            "sampling": GREEDY,
            "max_tokens": min(self.protocol.passage, room),
        }
        with self.backend.speculating(lookup=False, draft=False):
            events = list(self.backend.stream(asked(ids, **values), threading.Event()))
        for event in events:
            if isinstance(event, Emitted):
                passage += [token.id for token in event.tokens]
        ids[-LEAD] = self.ids(1, -1 - seed)[0]
        again = self.run(ids, speculate=True, sources=(tuple(passage),), **values)
        return ended(iter(events))[0], again[0]

    @property
    def drafts(self) -> bool:
        """Whether a draft model is loaded, and there are texts to measure it on."""
        return bool(self._openings) and self.backend.drafts

    def drafted(self, seed: int) -> tuple[Stats, Stats]:
        """An opening completed token by token, then again with the draft model alone."""
        ids = self._openings[seed % len(self._openings)][:LEAD]
        values: dict[str, Any] = {
            "sampling": replace(SAMPLED, seed=seed),
            "max_tokens": self.protocol.tokens + 1,
        }
        once = self.run(ids, **values)[0]
        with self.backend.speculating(lookup=False, draft=True):
            return once, self.run(ids, speculate=True, **values)[0]

    def warm_up(self) -> None:
        """Every kind of block once, short: allocations, lazy kernels, pages of mapped weights."""
        brief = replace(self.protocol, tokens=WARM_UP)
        short = Subject(self.backend, brief, self._known)
        short.decode(GREEDY, 1)
        short.decode(SAMPLED, 2)
        if self.backend.abilities.branches:
            short.decode(SAMPLED, 3, branches=self.protocol.siblings)
        if self.drafts:
            Subject(self.backend, brief, self._known, self._openings).drafted(4)


def asked(ids: Sequence[int], **values: Any) -> Request:
    """A request for a prompt of these ids that runs to its full length."""
    return Request(tuple(Token(each, b"") for each in ids), **{"ignore_eos": True, **values})


def ended(events: Iterator[Event]) -> list[Stats]:
    """The statistics of every branch, in order; Trouble if one stopped early."""
    ends = sorted((each for each in events if isinstance(each, Finished)), key=lambda e: e.branch)
    for end in ends:
        if end.reason != "length":
            raise Trouble(
                f"the measurement broke off ({end.reason}): {end.message}",
                hint=end.hint,
                code=GENERIC,
            )
    return [end.stats for end in ends]


def step_s(stats: Stats) -> float:
    """Seconds per decoding step."""
    return stats.decode_s / max(1, stats.emitted - 1)


def kv_per_token(backend: Local, card: hub.Card) -> int:
    """Bytes of keys and values that one token adds to the cache."""
    found = backend.environment
    return backend.kv_bytes or hub.needs(card, found.dtype, found.quant).kv_per_token
