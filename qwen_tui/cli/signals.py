"""Signals in the one-shot commands: stop within a token, keep what was generated, then die by the
signal.

Law: the shell must see the process die by the signal itself, or a loop around it would continue.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn

STOPS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class StopSignal:
    """Which signal asked to stop, if any; `cancel` is the event that a backend checks."""

    def __init__(self) -> None:
        self.cancel = threading.Event()
        self.by: int | None = None


@contextmanager
def stopping() -> Iterator[StopSignal]:
    """A context in which the first stop signal sets `cancel` and the second kills at once.

    A signal that was ignored at the start (`nohup`) stays ignored. Main thread only.
    """
    stopped = StopSignal()
    before: dict[int, Any] = {}

    def stop(signum: int, frame: FrameType | None) -> None:
        stopped.by = stopped.by or signum
        stopped.cancel.set()
        for each in before:
            signal.signal(each, signal.SIG_DFL)

    for each in STOPS:
        if signal.getsignal(each) != signal.SIG_IGN:
            before[each] = signal.signal(each, stop)
    try:
        yield stopped
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def dying_at_once() -> Iterator[None]:
    """A context in which Ctrl-C kills the process at once, without waiting for Python: for long
    native calls that have nothing to save.
    """
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def die(signum: int) -> NoReturn:
    """End this process by that signal, with no traceback and nothing run at exit."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    os._exit(128 + signum)  # where the signal is blocked
