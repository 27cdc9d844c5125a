"""Running calls: each on a thread of its own, with a limit on their number, their results in one
queue.

Law: waiting ends within 20 ms of a cancel, whatever the server does; `close` cuts every connection,
so that the server stops computing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from qwen_tui.backends.remote.client import ASK_CANCEL_S, Client, Link
from qwen_tui.backends.remote.dialects import Call
from qwen_tui.backends.remote.faults import Fault


@dataclass(frozen=True, slots=True)
class Arrival:
    """One object of a call's stream, when it came (seconds of the clock), or its end: `data` None,
    with the fault that ended it.
    """

    call: Call
    at: float
    data: dict[str, Any] | None
    fault: Fault | None = None


class Arrivals:
    """Runs calls and returns their results in order of arrival."""

    def __init__(
        self,
        client: Client,
        calls: Sequence[Call],
        *,
        parallel: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._client = client
        self._clock = clock
        self._waiting = list(calls)
        self._links: dict[int, Link] = {}
        self._queue: SimpleQueue[Arrival] = SimpleQueue()
        for _ in range(min(parallel, len(calls))):
            self._begin()

    def next(self, cancel: threading.Event) -> Arrival | None:
        """Wait for the next result; None once cancelled."""
        while not cancel.is_set():
            try:
                arrival = self._queue.get(timeout=ASK_CANCEL_S)
            except Empty:
                continue
            if arrival.data is None:
                self._links.pop(arrival.call.first, None)
                self._begin()
            return arrival
        return None

    def cut(self, call: Call) -> None:
        """Ignore the rest of this call."""
        link = self._links.pop(call.first, None)
        if link is not None:
            link.cut()

    def leave(self) -> None:
        """Finish when all results came and only the ends of the answers are unread."""
        for link in self._links.values():
            self._client.leave(link)
        self._links.clear()

    def close(self) -> None:
        """Cut running calls; calls that have not begun never do."""
        self._waiting.clear()
        for link in self._links.values():
            link.cut()
        self._links.clear()

    def _begin(self) -> None:
        if not self._waiting:
            return
        call = self._waiting.pop(0)
        self._links[call.first] = link = self._client.take()
        work = threading.Thread(target=self._read, args=(call, link), name="server", daemon=True)
        work.start()

    def _read(self, call: Call, link: Link) -> None:
        fault: Fault | None = Fault("the connection's thread failed; the log has the details")
        try:
            for data in link.objects(call.path, call.body):
                self._queue.put(Arrival(call, self._clock(), data))
            fault = None
        except Fault as found:
            fault = found
        finally:
            self._client.give(link)
            self._queue.put(Arrival(call, self._clock(), None, fault))
