"""A backend that plays a script, token by token as the script allows: for tests and demonstrations.

Law: it keeps every law of a real backend (bytes, ending, cancelling), and decides nothing itself.
"""

from __future__ import annotations

import math
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from qwen_tui.backends.stop_strings import StopWatch
from qwen_tui.types import (
    Abilities,
    Choice,
    Emitted,
    Environment,
    Event,
    Finished,
    Prefilled,
    Progress,
    Reason,
    Request,
    Scored,
    Stats,
    Token,
    Trouble,
)
from qwen_tui.vocab.alignment import shared_length

END_OF_TEXT: Final = Token(151643, b"<|endoftext|>")
PIECE: Final = re.compile(r" ?[^\s]+|\s")
OTHERS: Final = tuple(
    f" {word}".encode() for word in ("the", "a", "of", "and", "to", "in", "that", "it", "is", "on")
)
SURE: Final = math.log(0.6)
"""The logprob of a token for which the script names none."""

ABLE: Final = Abilities(choices=10, score=True, branches=True, token_ids=True)

_ASK_S: Final = 0.02


class Gate:
    """Releases tokens one by one: the script waits at it until a test lets it continue."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._allowed = 0.0
        self._waiting = 0

    def allow(self, count: int = 1) -> None:
        """Let the next `count` waits pass."""
        with self._turn:
            self._allowed += count
            self._turn.notify_all()

    def open(self) -> None:
        """Let every wait pass from now on."""
        with self._turn:
            self._allowed = math.inf
            self._turn.notify_all()

    @property
    def waited_at(self) -> bool:
        """True while a script waits at the gate."""
        with self._turn:
            return self._waiting > 0 and self._allowed < 1

    def wait(self, cancel: threading.Event) -> bool:
        """Wait for permission; False if cancelled first."""
        with self._turn:
            self._waiting += 1
            try:
                while self._allowed < 1:
                    if cancel.is_set():
                        return False
                    self._turn.wait(_ASK_S)
                self._allowed -= 1
            finally:
                self._waiting -= 1
        return not cancel.is_set()


@dataclass(frozen=True, slots=True)
class Say:
    """Say a text token by token (split at spaces); `gate` is asked before each of them.

    `logprob` is one value for all or one per token; alternatives are invented around it.
    """

    text: str
    logprob: float | Sequence[float] = SURE
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class Emit:
    """Emit exactly these tokens in one step."""

    tokens: tuple[Token, ...]
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until the gate opens."""

    gate: Gate


@dataclass(frozen=True, slots=True)
class Tell:
    """Yield an event as it is: progress, say."""

    event: Event


@dataclass(frozen=True, slots=True)
class Fail:
    """Raise this out of the generator, as a defect or a missing model would."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class End:
    """Finish this branch with a reason; without it a script ends by `<|endoftext|>`."""

    reason: Reason = "eos"
    message: str = ""
    hint: str = ""


Step: TypeAlias = Say | Emit | Wait | Tell | Fail | End
Script: TypeAlias = Sequence[Step] | Callable[[Request, int], Iterable[Step]]
"""Steps for every branch alike, or a function of the request and the branch."""


def spelled(text: str, logprob: float | Sequence[float] = SURE) -> tuple[Token, ...]:
    """A text as word-like tokens; the same piece always has the same id, and no choices yet."""
    pieces = PIECE.findall(text)
    weights = [logprob] * len(pieces) if isinstance(logprob, int | float) else list(logprob)
    return tuple(
        Token(piece_id(data), data, weight)
        for data, weight in zip((piece.encode() for piece in pieces), weights, strict=True)
    )


def piece_id(data: bytes) -> int:
    """A stable id for a piece of text, below every special id of Qwen2.5."""
    return zlib.crc32(data) % END_OF_TEXT.id


def weighed(token: Token, count: int) -> Token:
    """The token with `count` invented alternatives, whose probabilities sum to at most 1."""
    if token.choices or not count:
        return replace(token, choices=token.choices[:count])
    own = SURE if token.logprob is None else token.logprob
    rest = max(1.0 - math.exp(own), 1e-6)
    field = [Choice(token.id, token.data, own)]
    for rank, data in enumerate(word for word in OTHERS if word != token.data):
        field.append(Choice(piece_id(data), data, math.log(rest / 2 ** (rank + 1))))
    field.sort(key=lambda choice: (-choice.logprob, choice.id))
    return replace(token, logprob=own, choices=tuple(field[:count]))


@dataclass
class _ScriptedBranch:
    """One branch under way. `queue` are steps of tokens not yet said."""

    number: int
    steps: Iterator[Step]
    watch: StopWatch
    queue: list[tuple[Token, ...]] = field(default_factory=list)
    gate: Gate | None = None
    emitted: int = 0
    sampled: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    done: bool = False


class Scripted:
    """A backend made of a script. `requests` are those it got; `closed`: whether it was closed."""

    def __init__(
        self,
        script: Script = (),
        *,
        name: str = "scripted",
        context: int = 4096,
        abilities: Abilities = ABLE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.context = context
        self.abilities = abilities
        self.environment = Environment(
            id=f"{zlib.crc32(name.encode()):08x}", engine="scripted", model={"path": name}
        )
        self.why: tuple[str, ...] = ("scripted: plays a script, without a model",)
        self.warnings: tuple[str, ...] = ()
        self.requests: list[Request] = []
        self.closed = False
        self._script = script
        self._clock = clock
        self._cached: tuple[int, ...] = ()

    def finish(self, seconds: float, stopped: Callable[[], bool]) -> None:
        """Nothing to write down."""

    def close(self) -> None:
        """Nothing to free; `closed` becomes True."""
        self.closed = True

    def stream(self, request: Request, cancel: threading.Event) -> Iterator[Event]:
        """Play the script for one request; branches advance in turn, one step each."""
        self.requests.append(request)
        began = self._clock()
        ids = tuple(token.id for token in request.prompt)
        reused = min(shared_length(ids, self._cached), max(len(ids) - 1, 0))
        self._cached = ids
        yield Prefilled(len(ids), reused, self._clock() - began)
        if request.score:
            yield Scored(0, self._scored(request))
        branches = [
            _ScriptedBranch(number, self._steps(request, number), StopWatch(request.stop))
            for number in range(request.branches)
        ]
        while live := [branch for branch in branches if not branch.done]:
            for branch in live:
                for event in self._advance(branch, request, cancel, began):
                    if isinstance(event, Finished):
                        stats = self._stats(branch, request, reused, began)
                        event = replace(event, branch=branch.number, stats=stats)
                        branch.done = True
                    yield event

    # -- within ------------------------------------------------------------------------------------

    def _steps(self, request: Request, number: int) -> Iterator[Step]:
        script = self._script
        steps = script(request, number) if callable(script) else script
        if request.prefix:
            yield Emit((Token(piece_id(request.prefix), request.prefix, SURE),))
        yield from steps
        while request.ignore_eos and not callable(script) and any(map(_speaks, script)):
            yield from script

    def _scored(self, request: Request) -> tuple[Token, ...]:
        first, rest = request.prompt[:1], request.prompt[1:]
        return (
            *(replace(token, logprob=None, choices=()) for token in first),
            *(weighed(replace(token, logprob=SURE), request.choices) for token in rest),
        )

    def _advance(
        self, branch: _ScriptedBranch, request: Request, cancel: threading.Event, began: float
    ) -> Iterator[Event]:
        """One step of one branch; ends with a `Finished` when it is over."""
        room = self.context - len(request.prompt)
        limit = room if request.max_tokens < 0 else min(request.max_tokens, room)
        if branch.sampled >= limit and not cancel.is_set():
            yield from self._emit(branch, began, branch.watch.flush())
            yield Finished("length")
            return
        step: Step | None = None if branch.queue else next(branch.steps, _end_of(request))
        if isinstance(step, Say):
            branch.gate = step.gate
            branch.queue = [(token,) for token in spelled(step.text, step.logprob)]
        elif isinstance(step, Emit):
            branch.gate = step.gate
            branch.queue = [step.tokens]
        gate = step.gate if isinstance(step, Wait) else branch.gate if branch.queue else None
        if cancel.is_set() or (gate is not None and not gate.wait(cancel)):
            yield from self._emit(branch, began, branch.watch.flush())
            yield Finished("cancelled")
        elif branch.queue:
            tokens = branch.queue.pop(0)[: limit - branch.sampled]
            yield from self._speak(branch, tokens, request, began)
        elif isinstance(step, Tell):
            yield step.event
        elif isinstance(step, Fail):
            raise step.error
        elif isinstance(step, End):
            yield from self._end(branch, step, began)

    def _speak(
        self, branch: _ScriptedBranch, tokens: tuple[Token, ...], request: Request, began: float
    ) -> Iterator[Event]:
        branch.sampled += len(tokens)
        ready: list[tuple[Token, int]] = []
        for token in tokens:
            more, stop = branch.watch.feed(weighed(token, request.choices), 0)
            ready += more
            if stop:
                yield from self._emit(branch, began, ready)
                yield Finished("stop", stop=stop)
                return
        yield from self._emit(branch, began, ready)

    def _end(self, branch: _ScriptedBranch, step: End, began: float) -> Iterator[Event]:
        ready = branch.watch.flush()
        if step.reason == "eos":
            ready.append((replace(END_OF_TEXT, logprob=SURE), 0))
        yield from self._emit(branch, began, ready)
        yield Finished(step.reason, message=step.message, hint=step.hint)

    def _emit(
        self, branch: _ScriptedBranch, began: float, ready: Sequence[tuple[Token, int]]
    ) -> Iterator[Event]:
        """Emit tokens that the stop strings let go, as one step."""
        tokens = tuple(token for token, _ in ready)
        if not tokens:
            return
        now = self._clock() - began
        branch.first_s = branch.first_s if branch.emitted else now
        branch.last_s = now
        yield Emitted(tokens, branch.number, ms=round(now * 1000), index=branch.emitted)
        branch.emitted += len(tokens)

    def _stats(self, branch: _ScriptedBranch, request: Request, reused: int, began: float) -> Stats:
        return Stats(
            prompt=len(request.prompt),
            reused=reused,
            emitted=branch.emitted,
            ttft_s=branch.first_s,
            decode_s=branch.last_s - branch.first_s,
        )


def opener(
    script: Script = (),
    *,
    loading: Sequence[Progress | Gate | BaseException] = (),
    made: list[Scripted] | None = None,
    **kwargs: object,
) -> Callable[[Callable[[Progress], None], threading.Event], Scripted]:
    """What a `Runner` is handed: reports progress, waits at gates or fails while it "loads".

    Every backend it opens is appended to `made`; `kwargs` go to `Scripted`.
    """

    def open_scripted(report: Callable[[Progress], None], cancel: threading.Event) -> Scripted:
        for step in loading:
            if isinstance(step, Progress):
                report(step)
            elif isinstance(step, BaseException):
                raise step
            elif not step.wait(cancel):
                raise Trouble("loading was cancelled")
        backend = Scripted(script, **kwargs)  # type: ignore[arg-type]
        if made is not None:
            made.append(backend)
        return backend

    return open_scripted


def _end_of(request: Request) -> End:
    return End("length" if request.ignore_eos else "eos")


def _speaks(step: Step) -> bool:
    return isinstance(step, Say | Emit)
