"""One generation: prefill, then draft → one forward pass → verify and sample → emit, until the end.

Law: each branch ends with exactly one `Finished`; emitted tokens are never taken back; however it
ends, the cache has one row again.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Final

from torch import Tensor

from qwen_tui.backends.local import memory
from qwen_tui.backends.local.decoding.branch import DecodingBranch, Schedule
from qwen_tui.backends.local.decoding.engine import Engine
from qwen_tui.backends.local.decoding.history import History
from qwen_tui.backends.local.decoding.logprobs import TopLogits, token_from, top_logits
from qwen_tui.backends.local.decoding.prefill import Prefill, refusal
from qwen_tui.backends.local.decoding.prefix_constraint import rest_of
from qwen_tui.backends.local.decoding.random_draw import uniform
from qwen_tui.backends.local.decoding.sampling import HEADS, AllBanned, SamplerChain
from qwen_tui.backends.local.decoding.speculation import Speculation
from qwen_tui.backends.local.nn.model import Cancelled
from qwen_tui.backends.stop_strings import StopWatch
from qwen_tui.types import Emitted, Event, Finished, Reason, Request, Token

MEMORY_EVERY: Final = 64
"""Decoding steps between two looks at the memory in use."""


class DecodingLoop:
    """Runs one request on the engine."""

    def __init__(self, engine: Engine, request: Request, cancel: threading.Event) -> None:
        self._engine, self._request, self._cancel = engine, request, cancel
        self._cache = engine.cache
        self._began = engine.clock()
        self._prompt = [token.id for token in request.prompt]
        self._ends = frozenset() if request.ignore_eos else engine.vocab.ends(request.prompt)
        self._chain = SamplerChain.of(request.sampling)
        seed = request.sampling.seed
        self._seed = secrets.randbits(64) if seed is None else seed
        history = History.of(request.sampling, request.prompt, engine.vocab.data)
        self._branches = [
            DecodingBranch(index, history.copy(), StopWatch(request.stop), request.prefix)
            for index in range(max(1, request.branches))
        ]
        # The branches still decoding, in the order of the cache's rows.
        self._rows: list[DecodingBranch] = []
        self._top_width = max(HEADS[0], request.choices)
        self._schedule = Schedule(len(self._prompt), engine.threads)
        self._speculation = Speculation(
            engine, self._prompt, request.sources, chain=self._chain, seed=self._seed
        )
        self._retried = False

    def stream(self) -> Iterator[Event]:
        """The events of this generation, in order."""
        try:
            refused = refusal(self._engine, self._prompt)
            if refused:
                yield from self._end_all("failed", *refused)
                return
            prefill = Prefill(self._engine, self._request, self._schedule, self._cancel)
            logits = yield from prefill.run()
            yield from self._decode(logits)
        except Cancelled:
            yield from self._end_all("cancelled")
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            self._release_memory()
            yield from self._end_all("oom", *self._oom_words())
        finally:
            self._back_to_one_row()
            if self._engine.disk_cache is not None and not self._request.score:
                self._engine.disk_cache.keep_prompt(self._cache, len(self._prompt))

    # -- step by step ------------------------------------------------------------------------------

    def _decode(self, logits: Tensor) -> Iterator[Event]:
        """Decode every branch to its end, from the prompt's logits [1, known]."""
        self._rows = list(self._branches)
        if self._spent(0):
            yield from self._end_all("length")
            return
        self._cache.branch(len(self._rows))
        drafts: list[int] = []
        logits = logits.expand(len(self._rows), -1)[:, None]
        while True:
            if drafts:
                yield from self._verify(drafts, logits[0])
            else:
                top = top_logits(logits[:, 0], self._top_width)
                for row, branch in enumerate(self._rows):
                    yield from self._sample(branch, logits[row, 0], top.row(row))
            live = [row for row, branch in enumerate(self._rows) if not branch.done]
            if not live:
                return
            self._check_cancel()
            if len(live) < len(self._rows):
                self._cache.select(live)
                self._rows = [self._rows[row] for row in live]
            drafts = self._draft()
            logits = yield from self._step(drafts)
            if not self._rows:
                return
            drafts = drafts[: logits.shape[1] - 1]

    def _draft(self) -> list[int]:
        """Ids to verify in the next step; none if there are several rows."""
        if len(self._rows) > 1:
            return []
        branch, most = self._rows[0], self._request.max_tokens
        room = self._engine.context - len(self._prompt) - len(branch.ids)
        if most >= 0:
            room = min(room, most - len(branch.ids))
        # The last token that may come needs no draft after it.
        return self._speculation.draft(
            branch.ids, branch.history, branch.index, room - 1, self._cancel
        )

    def _step(self, drafts: list[int]) -> Generator[Event, None, Tensor]:
        """One forward pass over each row's newest token and the drafts after it; returns logits
        [rows, 1 + drafts, known].
        """
        newest = [[branch.ids[-1], *drafts] for branch in self._rows]
        self._schedule.step(len(self._rows[0].ids), len(newest), len(drafts))
        logits: Tensor | None = None
        try:
            logits = self._cache.append(newest, every=bool(drafts), cancel=self._cancel)
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error) or self._retried:
                raise
        if logits is None:
            # Not in the handler: the error's traceback would keep the old cache alive.
            self._retried = True
            logits = yield from self._retry_smaller()
        if len(self._rows[0].ids) % MEMORY_EVERY == 0:
            self._schedule.used(self._engine.memory())
        logits = logits[..., : self._engine.known]
        return logits if logits.dim() == 3 else logits[:, None]

    def _verify(self, drafts: list[int], logits: Tensor) -> Iterator[Event]:
        """Sample each position of logits [1 + drafts, known] as if it had been run alone, up to the
        first draft that differs from the sampled id; the cache is rewound to there.
        """
        branch = self._rows[0]
        branch.drafted += len(drafts)
        start = len(self._prompt) + len(branch.ids)
        top = top_logits(logits, self._top_width)
        accepted = 0
        while True:
            draft = drafts[accepted] if accepted < len(drafts) else None
            yield from self._sample(branch, logits[accepted], top.row(accepted), draft)
            if branch.done or draft is None or branch.ids[-1] != draft:
                break
            accepted += 1
        self._speculation.observe(len(drafts), accepted)
        self._cache.rewind(start + accepted)

    def _sample(
        self, branch: DecodingBranch, row: Tensor, top: TopLogits, draft: int | None = None
    ) -> Iterator[Event]:
        """Sample one token from a row of logits [known], and end the branch if it is the last;
        `draft` is the id drafted for this position.
        """
        engine, request = self._engine, self._request
        position = len(self._prompt) + len(branch.ids)
        if not top.finite(0):
            yield from self._end(branch, "nan", *self._nan_words(position))
            return
        allowed = engine.spellings().allowed(branch.prefix) if branch.prefix else None
        allowed = allowed[allowed < row.shape[0]] if allowed is not None else None
        where = (self._seed, branch.index, position)
        toss = uniform(*where, 1) if self._chain.tosses else 1.0
        try:
            drawn = self._chain.sample(
                row, branch.history, uniform(*where), toss=toss, top=top, allowed=allowed
            )
        except AllBanned:
            words = (
                "every token is banned here",
                "loosen the biases, the n-gram ban or the prefix",
            )
            yield from self._end(branch, "failed", *words)
            return
        token = token_from(row, drawn.id, top, request.choices, engine.vocab.data)
        if drawn.share is not None:
            token = replace(token, share=drawn.share)
        if drawn.id == draft:
            token = replace(token, drafted=True)
            branch.accepted += 1
        branch.prefix = rest_of(branch.prefix, token.data)
        branch.ids.append(drawn.id)
        branch.history.push(drawn.id, drawn.share)
        yield from self._take(branch, token)

    def _take(self, branch: DecodingBranch, token: Token) -> Iterator[Event]:
        """Emit a sampled token, or hold it back while it may begin a stop string; end the branch if
        it does.
        """
        now = self._engine.clock()
        branch.first, branch.last = branch.first or now, now
        ms = round((now - self._began) * 1000)
        if token.id in self._ends:
            yield from self._emit(branch, [*branch.watch.flush(), (token, ms)])
            yield from self._end(branch, "eos")
            return
        ready, stop = branch.watch.feed(token, ms)
        yield from self._emit(branch, ready)
        if stop:
            yield from self._end(branch, "stop", stop=stop)
        elif self._spent(len(branch.ids)):
            yield from self._end(branch, "length")

    def _emit(self, branch: DecodingBranch, ready: Sequence[tuple[Token, int]]) -> Iterator[Event]:
        for token, ms in ready:
            yield Emitted((token,), branch.index, ms, branch.emitted)
            branch.emitted += 1

    def _spent(self, count: int) -> bool:
        """Whether the request allows no more than `count` tokens."""
        most = self._request.max_tokens
        return 0 <= most <= count or len(self._prompt) + count >= self._engine.context

    def _check_cancel(self) -> None:
        if self._cancel.is_set():
            raise Cancelled

    # -- memory ------------------------------------------------------------------------------------

    def _retry_smaller(self) -> Generator[Event, None, Tensor]:
        """After memory ran out: free the cache and continue with the first branch alone, its text
        prefilled again in smaller chunks; the other branches end. Returns logits [1, V].
        """
        first, *others = self._rows
        self._release_memory()
        for branch in others:
            yield from self._end(branch, "oom", *self._oom_words())
        self._rows = [first]
        ids, chunk = self._prompt + first.ids, max(1, self._engine.chunk // 4)
        while True:
            self._check_cancel()
            part = ids[self._cache.length : self._cache.length + chunk]
            logits = self._cache.append([part], cancel=self._cancel)
            self._schedule.chunks.append(len(part))
            if self._cache.length == len(ids):
                return logits

    def _release_memory(self) -> None:
        self._speculation.release()
        self._cache.reset()
        memory.release()

    def _back_to_one_row(self) -> None:
        if self._cache.rows == 1:
            return
        try:
            self._cache.select([0])
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            self._release_memory()

    # -- the end -----------------------------------------------------------------------------------

    def _end_all(self, reason: Reason, message: str = "", hint: str = "") -> Iterator[Event]:
        for branch in self._branches:
            if not branch.done:
                yield from self._end(branch, reason, message, hint)

    def _end(
        self,
        branch: DecodingBranch,
        reason: Reason,
        message: str = "",
        hint: str = "",
        stop: str = "",
    ) -> Iterator[Event]:
        yield from self._emit(branch, branch.watch.flush())
        branch.done = True
        self._schedule.used(self._engine.memory())
        stats = self._schedule.stats(branch, self._began)
        recorded = self._schedule.recorded(len(self._branches))
        yield Finished(reason, branch.index, stats, stop, message, hint, recorded)

    def _oom_words(self) -> tuple[str, str]:
        return (
            f"memory ran out at {self._cache.length or len(self._prompt):,} tokens",
            "--quant nf4, --ctx-size, fewer branches, or a smaller model",
        )

    def _nan_words(self, position: int) -> tuple[str, str]:
        other = "bf16 or fp32" if self._engine.dtype == "fp16" else "fp32"
        return (
            f"the model's logits are not finite at position {position:,}",
            f"--dtype {other}; if that does not help, the weights are damaged",
        )
