"""One generation: reuse what is held, prefill in chunks, then forward, sample, rank, emit.

Law: each branch ends with exactly one `Finished`; what was emitted stays; when it is over, by
whatever way, the model has one row again and `Held.ids` says what is in it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from torch import Tensor

from qwen_tui.backends.local import memory
from qwen_tui.backends.local.decoding.branch import Branch, Course
from qwen_tui.backends.local.decoding.engine import Engine
from qwen_tui.backends.local.decoding.logprobs import Top, peek, rank
from qwen_tui.backends.local.decoding.prefix_constraint import rest_of
from qwen_tui.backends.local.decoding.sampling import HEADS, AllBanned, Chain, Window, uniform
from qwen_tui.backends.local.decoding.speculation import Guesser
from qwen_tui.backends.local.nn.model import Cancelled
from qwen_tui.backends.stop_strings import StopWatch
from qwen_tui.types import (
    Emitted,
    Event,
    Finished,
    Prefilled,
    Progress,
    Reason,
    Request,
    Scored,
    Token,
)

SCORE_CHUNK: Final = 64
"""Positions scored at once: each needs a whole row of logits."""
TELL_EVERY: Final = 0.25
"""Seconds between two words about a long chunk of the prompt."""
MEMORY_EVERY: Final = 64
"""Decoding steps between two looks at the memory held."""


class Run:
    """One request on its way through the engine."""

    def __init__(self, engine: Engine, request: Request, cancel: threading.Event) -> None:
        self._engine, self._request, self._cancel = engine, request, cancel
        self._model = engine.model
        # Scoring runs every position, whatever is known.
        self._archive = None if request.score else engine.archive
        self._began = engine.clock()
        self._prompt = [token.id for token in request.prompt]
        self._chain = Chain.of(request.sampling)
        seed = request.sampling.seed
        self._seed = secrets.randbits(64) if seed is None else seed
        window = Window(request.sampling.repeat_last_n, self._prompt)
        self._branches = [
            Branch(index, window.copy(), StopWatch(request.stop), request.prefix)
            for index in range(max(1, request.branches))
        ]
        self._rows: list[Branch] = []
        self._top_width = max(HEADS[0], request.choices)
        self._chunk = engine.chunk
        self._course = Course(len(self._prompt), engine.threads)
        self._guesser = Guesser(
            self._prompt,
            request.sources,
            most=engine.ahead,
            price=engine.model.row_cost,
            known=engine.known,
            lookup=engine.lookup,
            drafter=engine.drafter,
            chain=self._chain,
            seed=self._seed,
        )
        self._retried = False

    def stream(self) -> Iterator[Event]:
        """The events of this generation, in order."""
        try:
            refusal = self._refusal()
            if refusal:
                yield from self._end_all("failed", *refusal)
                return
            logits = yield from self._prefill()
            yield from self._decode(logits)
        except Cancelled:
            yield from self._end_all("cancelled")
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            self._drop()
            yield from self._end_all("oom", *self._oom_words())
        finally:
            self._settle()
            if self._archive is not None:
                held = self._engine.held.ids
                self._archive.keep_prompt(self._model, held, len(self._prompt))

    # -- before the first token -------------------------------------------------------------------

    def _refusal(self) -> tuple[str, str] | None:
        engine, count = self._engine, len(self._prompt)
        if not count:
            return "the prompt is empty", "begin with <|endoftext|> or with a word"
        if min(self._prompt) < 0:
            return (
                "the prompt has tokens without ids",
                "encode its text with this model's tokenizer",
            )
        if max(self._prompt) >= self._model.vocab_rows:
            return (
                f"token {max(self._prompt)} is beyond the model's {self._model.vocab_rows} rows",
                "the prompt was encoded with another tokenizer",
            )
        if count > engine.context:
            return (
                f"the prompt has {count:,} tokens, the context {engine.context:,}",
                "--truncate left or middle cuts it",
            )
        return None

    def _prefill(self) -> Generator[Event, None, Tensor]:
        """Run what is not held yet; returns the last position's logits [1, known]."""
        request, held, count = self._request, self._engine.held, len(self._prompt)
        began = self._engine.clock()
        if request.score:
            held.ids = held.ids[: self._model.rewind(0)]
        else:
            self._course.reused = held.keep(self._model, self._prompt)
        if self._archive is not None:
            brought = self._archive.bring(self._model, held, self._prompt, self._cancel.is_set)
            self._course.reused = yield from brought
        chunk = min(self._chunk, SCORE_CHUNK) if request.score else self._chunk
        if request.score:
            yield Scored(0, (Token(self._prompt[0], request.prompt[0].data),))
        while True:
            start = len(held.ids)
            part = self._prompt[start : start + chunk]
            if count - self._course.reused > chunk:
                yield Progress("prefill", start, count)
            logits = yield from self._forward_prompt(part)
            if request.score:
                yield from self._scored(start, logits)
                logits = logits[:, -1]
            if len(held.ids) == count:
                break
        if count - self._course.reused > chunk:
            yield Progress("prefill", count, count)
        self._course.held(self._engine.memory())
        self._course.prefill_s = self._engine.clock() - began
        yield Prefilled(count, self._course.reused, self._course.prefill_s)
        return logits

    def _forward_prompt(self, part: list[int]) -> Generator[Event, None, Tensor]:
        """Run one chunk of the prompt; the cache then holds it. A chunk that takes long says how
        far it is.
        """
        self._ask()
        held, clock = self._engine.held, self._engine.clock
        passes = self._model.prefill(part, every=self._request.score, cancel=self._cancel)
        said = clock()
        while True:
            try:
                share = next(passes)
            except StopIteration as end:
                logits: Tensor = end.value
                break
            if clock() - said >= TELL_EVERY:
                said = clock()
                done = len(held.ids) + int(share * len(part))
                yield Progress("prefill", done, len(self._prompt))
        held.ids += part
        self._course.chunks.append(len(part))
        return logits[..., : self._engine.known]

    def _scored(self, start: int, logits: Tensor) -> Iterator[Event]:
        """How probable the prompt's own tokens were: position p's logits weigh token p + 1."""
        choices, data = self._request.choices, self._engine.words.data
        following = self._request.prompt[start + 1 : start + 1 + logits.shape[1]]
        if not following:
            return
        top = peek(logits[0], max(1, choices))
        tokens = []
        for place, token in enumerate(following):
            if token.id >= self._engine.known or not top.finite(place):
                tokens.append(Token(token.id, token.data))
                continue
            weighed = rank(logits[0, place], token.id, top.row(place), choices, data)
            tokens.append(Token(token.id, token.data, weighed.logprob, weighed.choices))
        yield Scored(start + 1, tuple(tokens))

    # -- token by token ---------------------------------------------------------------------------

    def _decode(self, logits: Tensor) -> Iterator[Event]:
        self._rows = list(self._branches)
        if self._spent(0):
            yield from self._end_all("length")
            return
        self._model.branch(len(self._rows))
        drafts: list[int] = []
        logits = logits.expand(len(self._rows), -1)[:, None]
        while True:
            if drafts:
                yield from self._verify(drafts, logits[0])
            else:
                top = peek(logits[:, 0], self._top_width)
                for row, branch in enumerate(self._rows):
                    yield from self._advance(branch, logits[row, 0], top.row(row))
            live = [row for row, branch in enumerate(self._rows) if not branch.done]
            if not live:
                return
            self._ask()
            if len(live) < len(self._rows):
                self._keep_rows(live)
            drafts = self._drafted()
            logits = yield from self._step(drafts)
            if not self._rows:
                return
            drafts = drafts[: logits.shape[1] - 1]

    def _step(self, drafts: list[int]) -> Generator[Event, None, Tensor]:
        """One forward of every live branch's newest token, and of what is guessed to follow it;
        returns logits [rows, 1 + guesses, known].
        """
        newest = [[branch.ids[-1], *drafts] for branch in self._rows]
        self._course.step(len(self._rows[0].ids), len(newest), len(drafts))
        short = False
        try:
            logits = self._model.forward(newest, every=bool(drafts), cancel=self._cancel)
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error) or self._retried:
                raise
            short = True
        if short:
            # Not in the handler: the error's traceback would keep the old cache alive.
            self._retried = True
            logits = yield from self._again_smaller()
        else:
            self._engine.held.ids += newest[0]
        if len(self._rows[0].ids) % MEMORY_EVERY == 0:
            self._course.held(self._engine.memory())
        logits = logits[..., : self._engine.known]
        return logits if logits.dim() == 3 else logits[:, None]

    def _drafted(self) -> list[int]:
        """What may come next; nothing where it would not pay."""
        if len(self._rows) > 1:
            return []
        branch, most = self._rows[0], self._request.max_tokens
        room = self._engine.context - len(self._prompt) - len(branch.ids)
        if most >= 0:
            room = min(room, most - len(branch.ids))
        # The last token that may come needs no guess after it.
        return self._guesser.guess(branch.ids, branch.window, branch.index, room - 1, self._cancel)

    def _verify(self, drafts: list[int], logits: Tensor) -> Iterator[Event]:
        """Sample every position of logits [1 + guesses, known] as if it had been run alone, up to
        the first guess that is not what was sampled; the cache forgets the guesses beyond.
        """
        branch = self._rows[0]
        branch.drafted += len(drafts)
        start = len(self._prompt) + len(branch.ids)
        top = peek(logits, self._top_width)
        place = 0
        while True:
            guess = drafts[place] if place < len(drafts) else None
            yield from self._advance(branch, logits[place], top.row(place), guess)
            if branch.done or guess is None or branch.ids[-1] != guess:
                break
            place += 1
        self._guesser.learn(len(drafts), place)
        held = self._engine.held
        held.ids = held.ids[: self._model.rewind(start + place)]

    def _again_smaller(self) -> Generator[Event, None, Tensor]:
        """Memory ran out: keep the tokens, drop the cache, and go on with one branch, its text run
        again in smaller chunks. Other branches end here.
        """
        first, *others = self._rows
        self._drop()
        for branch in others:
            yield from self._end(branch, "oom", *self._oom_words())
        self._rows = [first]
        held, ids = self._engine.held, self._prompt + first.ids
        self._chunk = max(1, self._chunk // 4)
        while True:
            self._ask()
            part = ids[len(held.ids) : len(held.ids) + self._chunk]
            logits = self._model.forward([part], cancel=self._cancel)
            held.ids += part
            self._course.chunks.append(len(part))
            if len(held.ids) == len(ids):
                return logits

    def _advance(
        self, branch: Branch, row: Tensor, top: Top, guess: int | None = None
    ) -> Iterator[Event]:
        """Sample one token of one branch, and end the branch if that was its last. `guess` is the
        id that was drafted for this place.
        """
        engine, request = self._engine, self._request
        position = len(self._prompt) + len(branch.ids)
        if not top.finite(0):
            yield from self._end(branch, "nan", *self._nan_words(position))
            return
        allowed = engine.spellings().allowed(branch.prefix) if branch.prefix else None
        allowed = allowed[allowed < row.shape[0]] if allowed is not None else None
        u = uniform(self._seed, branch.index, position)
        try:
            chosen = self._chain.sample(row, branch.window, u, top=top, allowed=allowed)
        except AllBanned:
            words = ("every token is banned here", "loosen the logit bias or the prefix")
            yield from self._end(branch, "failed", *words)
            return
        token = rank(row, chosen, top, request.choices, engine.words.data)
        if chosen == guess:
            token = replace(token, drafted=True)
            branch.accepted += 1
        branch.prefix = rest_of(branch.prefix, token.data)
        branch.ids.append(chosen)
        branch.window.push(chosen)
        yield from self._emit(branch, token)

    def _emit(self, branch: Branch, token: Token) -> Iterator[Event]:
        now = self._engine.clock()
        branch.first, branch.last = branch.first or now, now
        ms = round((now - self._began) * 1000)
        if token.id in self._engine.ends and not self._request.ignore_eos:
            yield from self._let_go(branch, [*branch.watch.flush(), (token, ms)])
            yield from self._end(branch, "eos")
            return
        ready, stop = branch.watch.feed(token, ms)
        yield from self._let_go(branch, ready)
        if stop:
            yield from self._end(branch, "stop", stop=stop)
        elif self._spent(len(branch.ids)):
            yield from self._end(branch, "length")

    def _let_go(self, branch: Branch, ready: Sequence[tuple[Token, int]]) -> Iterator[Event]:
        for token, ms in ready:
            yield Emitted((token,), branch.index, ms, branch.emitted)
            branch.emitted += 1

    def _spent(self, count: int) -> bool:
        """Whether `count` tokens are all that may come."""
        most = self._request.max_tokens
        return 0 <= most <= count or len(self._prompt) + count >= self._engine.context

    def _ask(self) -> None:
        if self._cancel.is_set():
            raise Cancelled

    # -- the end ----------------------------------------------------------------------------------

    def _keep_rows(self, live: list[int]) -> None:
        """Drop the rows of branches that ended; the cache's ids are those of its first row."""
        self._remember_rows(set(range(len(self._rows))) - set(live))
        self._model.select(live)
        self._rows = [self._rows[row] for row in live]
        self._engine.held.ids = self._prompt + self._rows[0].ids[:-1]

    def _remember_rows(self, rows: Iterable[int]) -> None:
        """Keep what these rows hold beyond the prompt: their branches may be taken up again."""
        start, stop = len(self._prompt), self._model.length
        for row in rows:
            ids = (self._prompt + self._rows[row].ids)[:stop]
            self._engine.held.remember(self._model, row, ids, start)

    def _end_all(self, reason: Reason, message: str = "", hint: str = "") -> Iterator[Event]:
        for branch in self._branches:
            if not branch.done:
                yield from self._end(branch, reason, message, hint)

    def _end(
        self, branch: Branch, reason: Reason, message: str = "", hint: str = "", stop: str = ""
    ) -> Iterator[Event]:
        yield from self._let_go(branch, branch.watch.flush())
        branch.done = True
        self._course.held(self._engine.memory())
        stats = self._course.stats(branch, self._began)
        schedule = self._course.schedule(len(self._branches))
        yield Finished(reason, branch.index, stats, stop, message, hint, schedule)

    def _drop(self) -> None:
        self._guesser.forget()
        self._model.reset()
        self._engine.held.forget()
        memory.give_back()

    def _settle(self) -> None:
        """One row again, holding what `Held.ids` says."""
        try:
            if self._model.rows > 1:
                self._remember_rows(range(1, min(self._model.rows, len(self._rows))))
                self._model.select([0])
        except Cancelled:
            pass
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            self._drop()
        held = self._engine.held
        if self._model.length != len(held.ids):
            held.ids = held.ids[: self._model.rewind(min(self._model.length, len(held.ids)))]

    def _oom_words(self) -> tuple[str, str]:
        return (
            f"memory ran out at {len(self._engine.held.ids) or len(self._prompt):,} tokens",
            "--quant nf4, --ctx-size, fewer branches, or a smaller model",
        )

    def _nan_words(self, position: int) -> tuple[str, str]:
        other = "bf16 or fp32" if self._engine.dtype == "fp16" else "fp32"
        return (
            f"the model's logits are not finite at position {position:,}",
            f"--dtype {other}; if that does not help, the weights are damaged",
        )
