"""One generation on a server: calls out, objects in, events up.

Law: every branch ends with exactly one `Finished`; what came before a fault stays; text is cut at a
stop string here, by its exact bytes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from qwen_tui.backends.remote import faults
from qwen_tui.backends.remote.arrivals import Arrival, Arrivals
from qwen_tui.backends.remote.client import Client
from qwen_tui.backends.remote.dialects import Call, Dialect, Piece
from qwen_tui.backends.remote.faults import Fault
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
    Stats,
    Token,
)

WRONG_SHAPE = (KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError)
"""Exceptions of a dialect for an object of an undocumented shape."""


@dataclass
class _Branch:
    """One branch under way; times in seconds since the generation began. `cut`: it was ended here,
    not by the server.
    """

    number: int
    watch: StopWatch
    came: int = 0
    emitted: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    done: bool = False
    cut: bool = False


@dataclass
class Run:
    """Runs one request; `stream` is called once."""

    client: Client
    dialect: Dialect
    request: Request
    cancel: threading.Event
    parallel: int
    clock: Callable[[], float] = time.perf_counter
    _reused: int = 0
    _prefilled: bool = False
    _branches: list[_Branch] = field(default_factory=list)

    def stream(self) -> Iterator[Event]:
        """Scores first if that is asked for, then generates."""
        self._began = self.clock()
        self._branches = [
            _Branch(number, StopWatch(self.request.stop)) for number in range(self.request.branches)
        ]
        if self.request.prefix:
            yield from self._end_all("failed", Fault("a server cannot begin within a word"))
            return
        if self.request.score and not self.cancel.is_set():
            yield from self._score()
        if all(branch.done for branch in self._branches):
            return
        if self.request.max_tokens == 0 and not self.cancel.is_set():
            yield from self._read_through()
            yield from self._end_all("length")
        else:
            yield from self._generate()

    # -- scoring -----------------------------------------------------------------------------------

    def _score(self) -> Iterator[Event]:
        call = self.dialect.scoring(self.request)
        if call is None:
            yield from self._end_all(
                "failed", Fault("this server gives no probabilities of a text")
            )
            return
        arrivals = Arrivals(self.client, (call,), parallel=1, clock=self.clock)
        try:
            arrival = arrivals.next(self.cancel)
        finally:
            arrivals.close()
        if arrival is None:
            return
        if arrival.data is None:
            fault = arrival.fault or faults.cut_off(self.client.endpoint.label)
            yield from self._end_all(fault.reason, fault)
            return
        try:
            tokens = self.dialect.scored(arrival.data, self.request)
        except WRONG_SHAPE as error:
            yield from self._end_all("failed", self._strange(error))
            return
        yield from self._read_through()
        yield Scored(0, tokens)

    def _read_through(self) -> Iterator[Event]:
        """Report the end of prefill, as far as it can be observed from here."""
        if not self._prefilled:
            self._prefilled = True
            size = len(self.request.prompt)
            reused = max(0, min(self._reused, size - 1))
            yield Prefilled(size, reused, self.clock() - self._began)

    # -- generating --------------------------------------------------------------------------------

    def _generate(self) -> Iterator[Event]:
        if self.cancel.is_set():
            yield from self._end_all("cancelled")
            return
        calls = self.dialect.calls(self.request)
        arrivals = Arrivals(self.client, calls, parallel=self.parallel, clock=self.clock)
        try:
            while any(not branch.done for branch in self._branches):
                arrival = arrivals.next(self.cancel)
                if arrival is None:
                    yield from self._end_all("cancelled")
                elif arrival.data is None:
                    yield from self._ended(arrival)
                else:
                    yield from self._came(arrival)
                    branches = self._of(arrival.call)
                    if all(each.done for each in branches) and any(each.cut for each in branches):
                        arrivals.cut(arrival.call)
            if not self.cancel.is_set():
                arrivals.leave()
        finally:
            arrivals.close()

    def _of(self, call: Call) -> list[_Branch]:
        return self._branches[call.first : call.first + call.count]

    def _came(self, arrival: Arrival) -> Iterator[Event]:
        assert arrival.data is not None
        try:
            pieces = list(self.dialect.pieces(arrival.data, arrival.call))
            for piece in pieces:
                self._of(arrival.call)[piece.branch - arrival.call.first]
        except WRONG_SHAPE as error:
            fault = self._strange(error)
            for branch in self._of(arrival.call):
                branch.cut = True
                yield from self._finish(branch, "failed", fault=fault)
            return
        for piece in pieces:
            yield from self._take(piece, arrival.at - self._began)

    def _take(self, piece: Piece, now: float) -> Iterator[Event]:
        branch = self._branches[piece.branch]
        self._reused = max(self._reused, piece.reused)
        if piece.read >= 0 and not self._prefilled:
            yield Progress("prefill", piece.read, len(self.request.prompt))
        if branch.done:
            return
        if piece.tokens or piece.finish:
            yield from self._read_through()
        ready: list[tuple[Token, int]] = []
        stop, finish = "", piece.finish
        for token in piece.tokens:
            if branch.came == self.request.max_tokens:
                branch.cut, finish = True, finish or "length"
                break
            branch.came += 1
            freed, stop = branch.watch.feed(self._asked(token), round(now * 1000))
            ready += freed
            if stop:
                branch.cut = piece.finish is None
                break
        yield from self._emit(branch, ready, now)
        if stop:
            yield from self._finish(branch, "stop", stop=stop, now=now)
        elif finish is not None:
            yield from self._finish(branch, finish, stop=piece.stop, now=now)

    def _asked(self, token: Token) -> Token:
        """The token with no more alternatives than were asked for."""
        most = self.request.choices
        if len(token.choices) <= most:
            return token
        return Token(token.id, token.data, token.logprob, token.choices[:most])

    def _emit(self, branch: _Branch, ready: list[tuple[Token, int]], now: float) -> Iterator[Event]:
        for ms, group in groupby(ready, key=lambda pair: pair[1]):
            tokens = tuple(token for token, _ in group)
            branch.first_s = branch.first_s if branch.emitted else now
            branch.last_s = now
            yield Emitted(tokens, branch.number, ms, branch.emitted)
            branch.emitted += len(tokens)

    # -- ending ------------------------------------------------------------------------------------

    def _ended(self, arrival: Arrival) -> Iterator[Event]:
        """Handle the end of a stream: its branches have ended, or were interrupted."""
        fault = arrival.fault or faults.cut_off(self.client.endpoint.label)
        for branch in self._of(arrival.call):
            yield from self._finish(branch, fault.reason, fault=fault)

    def _end_all(self, reason: Reason, fault: Fault | None = None) -> Iterator[Event]:
        for branch in self._branches:
            yield from self._finish(branch, reason, fault=fault)

    def _finish(
        self,
        branch: _Branch,
        reason: Reason,
        *,
        stop: str = "",
        fault: Fault | None = None,
        now: float | None = None,
    ) -> Iterator[Event]:
        if branch.done:
            return
        branch.done = True
        now = self.clock() - self._began if now is None else now
        yield from self._emit(branch, branch.watch.flush(), now)
        stats = Stats(
            prompt=len(self.request.prompt),
            reused=max(0, min(self._reused, len(self.request.prompt) - 1)),
            emitted=branch.emitted,
            prefill_s=branch.first_s,
            ttft_s=branch.first_s,
            decode_s=branch.last_s - branch.first_s,
        )
        message, hint, code = ("", "", 0)
        if fault is not None:
            message, hint, code = fault.message, fault.hint, fault.code
        if reason == "failed" and not message:
            message = f"{self.client.endpoint.label} ended it without saying why"
        yield Finished(reason, branch.number, stats, stop, message, hint, code=code)

    def _strange(self, error: BaseException) -> Fault:
        return Fault(
            f"{self.client.endpoint.label} answers in a shape that is not known "
            f"({type(error).__name__}: {error})"
        )
