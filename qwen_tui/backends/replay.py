"""A backend that plays recorded generations back at their recorded speed, without a model.

Law: it yields only recorded events, except the `Finished` that an interrupted recording or a
cancelled one lacks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from qwen_tui.journal import ids_sha256
from qwen_tui.types import (
    NO_INPUT,
    Abilities,
    Emitted,
    Entry,
    Environment,
    Finished,
    Happened,
    Prefilled,
    Request,
    Started,
    Stats,
    Trouble,
)

Recorded = Prefilled | Emitted | Finished

UNKNOWN: Final = Environment(id="", engine="replay", model={})


@dataclass(frozen=True, slots=True)
class Take:
    """One recorded generation: how it was started, and its events in the order they happened."""

    started: Started
    events: tuple[Recorded, ...]

    @property
    def prompt_sha256(self) -> str:
        """The hash of the prompt's ids it was recorded with."""
        return str(self.started.prompt.get("sha256", ""))


def takes(entries: Iterable[Entry]) -> tuple[Take, ...]:
    """The generations among a session's entries, in the order they were started."""
    started: dict[str, Started] = {}
    events: dict[str, list[Recorded]] = {}
    for entry in entries:
        if isinstance(entry, Started):
            started.setdefault(entry.generation, entry)
            events.setdefault(entry.generation, [])
        elif isinstance(entry, Happened) and entry.generation in events:
            events[entry.generation].append(entry.event)
    return tuple(Take(start, tuple(events[name])) for name, start in started.items())


def paced(
    events: Iterable[Recorded],
    cancel: threading.Event,
    *,
    speed: float = 1.0,
    max_gap: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Recorded]:
    """The events, each at its time; ends early once cancelled.

    `speed` 2 is twice as fast, infinity does not wait. No pause is longer than `max_gap` seconds.
    """
    last_ms, due = 0, clock()
    for event in events:
        if isinstance(event, Emitted):
            gap = max(event.ms - last_ms, 0) / 1000 / speed
            due += gap if max_gap is None else min(gap, max_gap)
            last_ms = max(event.ms, last_ms)
            if cancel.wait(max(due - clock(), 0.0)):
                return
        if cancel.is_set():
            return
        yield event


def _length(take: Take) -> int:
    """How many tokens of context a recording needed, including its longest branch."""
    branches: dict[int, int] = {}
    for event in take.events:
        if isinstance(event, Emitted):
            branches[event.branch] = branches.get(event.branch, 0) + len(event.tokens)
    prompt = take.started.prompt.get("n")
    return max(branches.values(), default=0) + (prompt if isinstance(prompt, int) else 0)


class Replay:
    """A backend over recorded takes: a request gets the take that was recorded for its prompt.

    Several takes of one prompt come in turn; a prompt nobody recorded fails. Of a request only the
    prompt, `branches` and `max_tokens` count: the rest was decided when it was recorded.
    """

    def __init__(
        self,
        recorded: Sequence[Take],
        *,
        environment: Environment = UNKNOWN,
        speed: float = 1.0,
        max_gap: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not recorded:
            raise Trouble("this session holds no completion to play back", code=NO_INPUT)
        self.name = "replay"
        self.environment = environment
        self.abilities = Abilities(choices=100, branches=True, token_ids=True)
        self.context = max(map(_length, recorded))
        self.why: tuple[str, ...] = ("replay: plays back what was recorded, without a model",)
        self.warnings: tuple[str, ...] = ()
        self._recorded = recorded
        self._speed = speed
        self._max_gap = max_gap
        self._clock = clock
        self._turn: dict[str, int] = {}

    def finish(self, seconds: float, stopped: Callable[[], bool]) -> None:
        """Nothing to write down."""

    def close(self) -> None:
        """Nothing to free."""

    def stream(self, request: Request, cancel: threading.Event) -> Iterator[Recorded]:
        """Play the take of this prompt; one `Finished` for each branch that is asked for."""
        take = self._next(ids_sha256(request.prompt))
        left = dict.fromkeys(range(request.branches), 0)
        if take is None:
            yield from (
                Finished("failed", branch, message="nothing was recorded for this prompt")
                for branch in left
            )
            return
        room = float("inf") if request.max_tokens < 0 else request.max_tokens
        wanted = (event for event in take.events if getattr(event, "branch", 0) in left)
        for event in paced(
            wanted, cancel, speed=self._speed, max_gap=self._max_gap, clock=self._clock
        ):
            if isinstance(event, Emitted):
                if event.branch not in left or left[event.branch] + len(event.tokens) > room:
                    continue
                left[event.branch] += len(event.tokens)
            elif isinstance(event, Finished) and left.pop(event.branch, None) is None:
                continue
            yield event
        reason = "cancelled" if cancel.is_set() else "eof"
        message = "" if cancel.is_set() else "the recording breaks off here"
        for branch, emitted in left.items():
            stats = Stats(prompt=len(request.prompt), emitted=emitted)
            yield Finished(reason, branch, stats, message=message)  # type: ignore[arg-type]

    def _next(self, sha256: str) -> Take | None:
        matching = [take for take in self._recorded if take.prompt_sha256 == sha256]
        if not matching:
            return None
        turn = self._turn.get(sha256, 0)
        self._turn[sha256] = turn + 1
        return matching[turn % len(matching)]
