"""The bounded queue from the engine's thread to an event loop.

Law: events are taken in order, exactly once, while the loop lives; a writer waits only while
`limit` are unread, never once cancelled; only the empty → non-empty edge wakes the loop.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Final

from qwen_tui.types import Event, Finished

LIMIT: Final = 256
"""How many events may stand unread before the writer waits."""

_ASK_S: Final = 0.05
"""How often a waiting writer asks whether it was cancelled or the loop is gone: neither can wake it
by itself.
"""


class Channel:
    """One generation's events on their way from a thread (`put`) to the loop's task (`take`,
    `drain`).

    It closes behind the last `Finished`: one for each of `branches`. A cancelled writer never
    waits, and what it still puts is kept, so that a cancelled generation is whole.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        cancel: threading.Event,
        *,
        branches: int = 1,
        limit: int = LIMIT,
    ) -> None:
        self._loop = loop
        self._cancel = cancel
        self._limit = limit
        self._open = set(range(branches))
        self._events: list[Event] = []
        self._room = threading.Condition()
        self._filled = asyncio.Event()
        self._lost = False

    @property
    def closed(self) -> bool:
        """True once every branch has finished; events may still be waiting to be taken."""
        return not self._open

    @property
    def unfinished(self) -> tuple[int, ...]:
        """The branches that have not finished yet, in order."""
        with self._room:
            return tuple(sorted(self._open))

    def __len__(self) -> int:
        return len(self._events)

    # -- the writer's side: any thread -------------------------------------------------------------

    def put(self, event: Event) -> bool:
        """Hand over one event, waiting while the reader is `limit` events behind.

        False: stop producing (cancelled, or the loop is gone, in which case the event is dropped).
        Events of a channel that has closed, and a second `Finished` of one branch, are dropped too.
        """
        with self._room:
            while len(self._events) >= self._limit and not self._cancel.is_set():
                if self._gone():
                    return False
                self._room.wait(_ASK_S)
            if not self._open or self._gone():
                return False
            if isinstance(event, Finished):
                if event.branch not in self._open:
                    return True
                self._open.discard(event.branch)
            self._events.append(event)
            if len(self._events) == 1 and not self._wake():
                return False
        return not self._cancel.is_set()

    def nudge(self) -> None:
        """Let a waiting writer look at its cancel event now."""
        with self._room:
            self._room.notify_all()

    def _gone(self) -> bool:
        self._lost = self._lost or self._loop.is_closed()
        return self._lost

    def _wake(self) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._filled.set)
        except RuntimeError:  # the loop closed: nobody is left to read
            self._lost = True
            self._events.clear()
        return not self._lost

    # -- the reader's side: the loop ---------------------------------------------------------------

    def drain(self) -> list[Event]:
        """Everything that waits, at once and without waiting; may be empty."""
        with self._room:
            batch, self._events = self._events, []
            self._room.notify_all()
        return batch

    async def take(self) -> list[Event]:
        """The next batch, in order, at least one event; `[]` means that the channel has closed and
        is empty.
        """
        while True:
            # Cleared before looking: a put after the look sets it again, so no edge is missed.
            self._filled.clear()
            with self._room:
                ended = self.closed
                batch = self.drain()
            if batch or ended:
                return batch
            await self._filled.wait()

    def __aiter__(self) -> Channel:
        return self

    async def __anext__(self) -> list[Event]:
        batch = await self.take()
        if not batch:
            raise StopAsyncIteration
        return batch
