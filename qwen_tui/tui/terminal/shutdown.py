"""Helpers for ending the program: bounded waits, prepared threads, output that cannot raise.

Law: nothing here takes a lock that a signal handler may have interrupted, and no wait is unlimited.
"""

from __future__ import annotations

import io
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress


def within(seconds: float, work: Callable[[], object]) -> bool:
    """Run something that may hang or fail, waiting at most so long; returns whether it finished."""
    returned = threading.Event()

    def run() -> None:
        work()
        returned.set()

    thread = threading.Thread(target=run, name="last-words", daemon=True)
    thread.start()
    thread.join(seconds)
    return returned.is_set()


class Standby:
    """A prepared thread that does one thing once, for use in a signal handler.

    A handler may interrupt code that holds a lock, so it must not take one, nor start a thread.
    `go` writes a byte and checks a flag.
    """

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self._work = work
        self._done = False
        self._wait, self._call = os.pipe()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            if os.read(self._wait, 1):
                self._work()
        finally:
            self._done = True
            os.close(self._wait)

    def go(self, seconds: float) -> None:
        """Start it, and wait at most so long. Every call but the first only waits."""
        with suppress(OSError):
            os.write(self._call, b"!")
        end = time.monotonic() + seconds
        while not self._done and time.monotonic() < end:
            time.sleep(0.005)

    def dismiss(self) -> None:
        """End the unused thread."""
        os.close(self._call)


class TerminalFile(io.TextIOBase):
    """Writes text to a terminal's descriptor; never raises and can be silenced.

    Output to a terminal that is gone (`lost`), and after `silence()`, is discarded.
    """

    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._waiting: list[str] = []
        self._silent = False
        self.lost = False
        self.taken = False
        """Whether modes are set and the alternate screen is shown."""

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is still a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Always true."""
        return True

    def write(self, text: str) -> int:
        """Keep text until `flush`."""
        if not (self._silent or self.lost):
            self._waiting.append(text)
        return len(text)

    def flush(self) -> None:
        """Write the kept text."""
        data = memoryview("".join(self._waiting).encode("utf-8", "replace"))
        self._waiting.clear()
        while data and not (self._silent or self.lost):
            try:
                if select.select((), (self._descriptor,), (), 0.1)[1]:
                    data = data[os.write(self._descriptor, data[:4096]) :]
            except BlockingIOError:
                time.sleep(0.01)
            except (OSError, ValueError):
                self.lost = True

    def silence(self) -> None:
        """Write nothing more, not even kept text."""
        self._silent = True

    def speak(self) -> None:
        """Write again."""
        self._silent = False
