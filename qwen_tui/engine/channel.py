"""The bounded queue from the engine's thread to an event loop.

Law: while the loop lives every event is taken exactly once, in order; a writer waits only while
`limit` events are unread, never once cancelled; the loop is woken only when the queue was empty.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Final

from qwen_tui.types import Event, Finished

LIMIT: Final = 256
"""Unread events at which the writer waits."""

_ASK_S: Final = 0.05
"""Seconds between two checks of a waiting writer for cancellation or the end of the loop, neither
of which can wake it."""


class Channel:
    """One generation's events on their way from a thread (`put`) to the loop's task (`take`,
    `drain`).

    It closes after the last `Finished`: one for each of `branches`. A cancelled writer never waits,
    and the events it still puts are kept, so that a cancelled generation is complete.
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
        """Add one event, waiting while the reader is `limit` events behind.

        False means stop producing: cancelled, or the loop is gone, and then the event is dropped.
        Events after the channel closed, and a second `Finished` of one branch, are dropped too.
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
        """Make a waiting writer check its cancel event now."""
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
        """All unread events, without waiting; may be empty."""
        with self._room:
            batch, self._events = self._events, []
            self._room.notify_all()
        return batch

    async def take(self) -> list[Event]:
        """Wait for the next batch, in order, at least one event; `[]` once the channel is closed
        and empty.
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
