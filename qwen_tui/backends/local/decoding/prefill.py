"""Prefill of one request: checks the prompt, runs it in chunks, and scores it if asked.

Law: what the prefix cache or the disk cache has is not run again, unless the prompt is scored.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from typing import Final

from torch import Tensor

from qwen_tui.backends.local.decoding.branch import Schedule
from qwen_tui.backends.local.decoding.engine import Engine
from qwen_tui.backends.local.decoding.logprobs import token_from, top_logits
from qwen_tui.backends.local.nn.model import Cancelled
from qwen_tui.types import Event, Prefilled, Progress, Request, Scored, Token

SCORE_CHUNK: Final = 64
"""Positions scored at once: each needs a whole row of logits."""
PROGRESS_EVERY: Final = 0.25
"""Seconds between two progress events within a chunk."""


def refusal(engine: Engine, prompt: list[int]) -> tuple[str, str] | None:
    """Why a prompt of these ids cannot be run, and what to do; None if it can."""
    if not prompt:
        return "the prompt is empty", "begin with <|endoftext|> or with a word"
    if min(prompt) < 0:
        return "the prompt has tokens without ids", "encode its text with this model's tokenizer"
    rows = engine.model.vocab_rows
    if max(prompt) >= rows:
        return (
            f"token {max(prompt)} is beyond the model's {rows} rows",
            "the prompt was encoded with another tokenizer",
        )
    if len(prompt) > engine.context:
        return (
            f"the prompt has {len(prompt):,} tokens, the context {engine.context:,}",
            "--truncate left or middle cuts it",
        )
    return None


class Prefill:
    """Runs one request's prompt; `schedule` records what was run and reused."""

    def __init__(
        self, engine: Engine, request: Request, schedule: Schedule, cancel: threading.Event
    ) -> None:
        self._engine, self._request, self._cancel = engine, request, cancel
        self._schedule = schedule
        self._prompt = [token.id for token in request.prompt]
        self._chunk = min(engine.chunk, SCORE_CHUNK) if request.score else engine.chunk

    def run(self) -> Generator[Event, None, Tensor]:
        """Returns the last position's logits [1, known]. Raises `Cancelled`."""
        engine, cache, count = self._engine, self._engine.cache, len(self._prompt)
        began = engine.clock()
        yield from self._reuse()
        long = count - self._schedule.reused > self._chunk
        while True:
            start = cache.length
            if long:
                yield Progress("prefill", start, count)
            logits = yield from self._forward(self._prompt[start : start + self._chunk])
            if self._request.score:
                yield from self._scored(start, logits)
                logits = logits[:, -1]
            if cache.length == count:
                break
        if long:
            yield Progress("prefill", count, count)
        self._schedule.used(engine.memory())
        self._schedule.prefill_s = engine.clock() - began
        yield Prefilled(count, self._schedule.reused, self._schedule.prefill_s)
        return logits

    def _reuse(self) -> Iterator[Event]:
        """Restore the longest known prefix from memory and disk; nothing if every position is
        scored.
        """
        engine, prompt = self._engine, self._prompt
        if self._request.score:
            engine.cache.rewind(0)
            yield Scored(0, (Token(prompt[0], self._request.prompt[0].data),))
            return
        engine.cache.keep(prompt)
        if engine.disk_cache is not None:
            yield from engine.disk_cache.restore(engine.cache, prompt, self._cancel.is_set)
        self._schedule.reused = engine.cache.length

    def _forward(self, part: list[int]) -> Generator[Event, None, Tensor]:
        """Append one chunk: logits [1, known], or [1, n, known] to be scored. Reports progress
        within a long chunk.
        """
        if self._cancel.is_set():
            raise Cancelled
        cache, clock = self._engine.cache, self._engine.clock
        passes = cache.prefill(part, every=self._request.score, cancel=self._cancel)
        start, told = cache.length, clock()
        while True:
            try:
                share = next(passes)
            except StopIteration as end:
                logits: Tensor = end.value
                break
            if clock() - told >= PROGRESS_EVERY:
                told = clock()
                yield Progress("prefill", start + int(share * len(part)), len(self._prompt))
        self._schedule.chunks.append(len(part))
        return logits[..., : self._engine.known]

    def _scored(self, start: int, logits: Tensor) -> Iterator[Event]:
        """Logprobs of the prompt's own tokens: the logits of position p score token p + 1."""
        choices, known, data = self._request.choices, self._engine.known, self._engine.vocab.data
        following = self._request.prompt[start + 1 : start + 1 + logits.shape[1]]
        if not following:
            return
        top = top_logits(logits[0], max(1, choices))
        tokens = []
        for place, token in enumerate(following):
            if token.id >= known or not top.finite(place):
                tokens.append(Token(token.id, token.data))
                continue
            weighed = token_from(logits[0, place], token.id, top.row(place), choices, data)
            tokens.append(Token(token.id, token.data, weighed.logprob, weighed.choices))
        yield Scored(start + 1, tuple(tokens))
