"""Sets up and restores the terminal: private output, signals, crashes, and leaving.

Law: however the program ends, output is flushed first and the terminal is restored; stray writes to
the standard streams go to the log, never to the screen.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

from qwen_tui.paths import ensure_folder
from qwen_tui.portable_os import open_plain
from qwen_tui.tui.terminal.shutdown import Standby, TerminalFile
from qwen_tui.types import CANNOT_CREATE, UNAVAILABLE, Trouble

try:
    import termios
except ImportError:  # Windows: no modes to give back
    termios = None  # type: ignore[assignment]

RESTORE: Final = (
    b"\x1b\\"  # the end of any sequence that was cut
    b"\x1b[?2026l"  # synchronised output
    b"\x1b[?2004l"  # bracketed paste
    b"\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l"  # mouse
    b"\x1b[?2048l\x1b[?1004l"  # resize and focus reports
    b"\x1b[<u"  # Kitty keyboard protocol
    b"\x1b[0m\x1b[?7h\x1b[?1049l\x1b[?25h"  # style, wrap, alternate screen, cursor
)
"""Switches off every mode that the interface may have set."""

FLUSH_S: Final = 1.2
"""Seconds that a killed program waits for its data to be saved."""
RESTORE_S: Final = 0.3
"""Seconds that it waits for a terminal that accepts no output."""
DRAIN_S: Final = 0.5
"""Seconds that leaving waits for the last frame to be written."""
LOG_MOST: Final = 4 << 20
"""Size of a log in bytes at which a new one is begun and the old one kept beside it."""
HANGUP_CODE: Final = 129
_SIGNALS: Final = ("SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT")


def nothing() -> None:
    """Do nothing."""


class Guard:
    """Owns the terminal while the interface runs; a context manager, on the main thread.

    On entry it keeps a private copy of the terminal for painting, redirects descriptors 1 and 2 to
    the log file (mode 0600; to nothing if `log` is None), and handles SIGTERM, SIGHUP, SIGINT and
    SIGQUIT: each flushes, restores the terminal and ends the process by that signal within two
    seconds. A signal that was ignored stays ignored. `flush` saves the data; it is called at most
    once, on a thread.
    """

    def __init__(self, log: Path | None, *, flush: Callable[[], object] = nothing) -> None:
        self.log = log
        self.crash = ""
        """The traceback of the recorded crash."""
        self.flush = flush
        self.output: TerminalFile | None = None
        self._saved: tuple[int, int] | None = None
        self._stderr: Any = None
        self._log_stream: Any = None
        self._handlers: dict[int, Any] = {}
        self._modes: list[Any] | None = None
        self._flusher: Standby | None = None
        self._restorer: Standby | None = None

    # -- taking and giving back -------------------------------------------------------------------

    def __enter__(self) -> Guard:
        """Take the terminal; Trouble if there is none, or if the log cannot be written."""
        shown = next((fd for fd in (1, 2) if os.isatty(fd)), None)
        if shown is None:
            raise Trouble("standard output is no terminal", code=UNAVAILABLE)
        stray = self._open_log()
        if termios is not None:
            self._capture(shown, stray)
        self._log_stream = os.fdopen(stray, "a", encoding="utf-8", errors="backslashreplace")
        faulthandler.enable(self._log_stream)
        self._remember_modes()
        self._flusher = Standby("last-flush", lambda: self.flush())
        self._restorer = Standby("last-restore", self._write_restore)
        self._take_signals()
        return self

    def _capture(self, shown: int, stray: int) -> None:
        """Keep the terminal for painting and redirect descriptors 1 and 2 to the log. On Windows
        Textual's own driver paints on descriptor 1, so they stay.
        """
        flush_streams()
        self._saved = (os.dup(1), os.dup(2))
        self._stderr = sys.__stderr__
        self.output = TerminalFile(os.dup(shown))
        sys.__stderr__ = self.output  # type: ignore[misc, assignment]  # where Textual paints
        for descriptor in (1, 2):
            os.dup2(stray, descriptor)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore everything."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        self.restore()
        for standby in (self._flusher, self._restorer):
            if standby is not None:
                standby.dismiss()
        self._flusher = self._restorer = None
        if self._saved is not None:
            flush_streams()
            for kept, descriptor in zip(self._saved, (1, 2), strict=True):
                os.dup2(kept, descriptor)
                os.close(kept)
            self._saved = None
            sys.__stderr__ = self._stderr  # type: ignore[misc]
        faulthandler.disable()
        self._log_stream.close()
        if self.output is not None:
            self.output.silence()

    def _open_log(self) -> int:
        if self.log is None:
            return os.open(os.devnull, os.O_WRONLY)
        try:
            ensure_folder(self.log.parent)
            if self.log.is_file() and self.log.stat().st_size > LOG_MOST:
                self.log.replace(self.log.with_suffix(".old"))
            return open_plain(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        except OSError as error:
            why = f"cannot write the log {self.log}: {error.strerror}"
            raise Trouble(why, hint="QWEN_TUI_HOME moves it", code=CANNOT_CREATE) from None

    def _remember_modes(self) -> None:
        if termios is not None:
            with suppress(termios.error, OSError, ValueError):
                self._modes = termios.tcgetattr(0)

    def _restore_modes(self) -> None:
        if termios is not None and self._modes is not None:
            with suppress(termios.error, OSError, ValueError):
                termios.tcsetattr(0, termios.TCSANOW, self._modes)

    def restore(self) -> None:
        """Restore the terminal's modes and screen, without waiting for a terminal that is stuck.

        Input modes come first, since they need no output. What the driver restored already is left
        alone: the Kitty protocol's modes are a stack that other programs share.
        """
        self._restore_modes()
        output = self.output
        if output is None or output.lost or not output.taken or self._restorer is None:
            return
        output.silence()
        self._restorer.go(RESTORE_S)

    def _write_restore(self) -> None:
        if self.output is not None:
            _write_all(self.output.fileno(), RESTORE)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """A context in which descriptors 1 and 2 are the terminal: for a program such as $EDITOR,
        inside `App.suspend()`.
        """
        if self._saved is None:
            yield
            return
        captured = (os.dup(1), os.dup(2))
        for kept, descriptor in zip(self._saved, (1, 2), strict=True):
            os.dup2(kept, descriptor)
        try:
            yield
        finally:
            for kept, descriptor in zip(captured, (1, 2), strict=True):
                os.dup2(kept, descriptor)
                os.close(kept)

    # -- signals, a lost terminal, crashes --------------------------------------------------------

    def _take_signals(self) -> None:
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._die)

    def _die(self, number: int, frame: FrameType | None) -> None:
        """Flush, restore, and end the process by the signal, so that its sender sees it."""
        self._last_flush()
        self.restore()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        os._exit(128 + number)  # where the signal is blocked

    def _last_flush(self) -> None:
        """Flush once, whichever thread is first; all wait for it, for a limited time."""
        if self._flusher is not None:
            self._flusher.go(FLUSH_S)

    def terminal_lost(self) -> None:
        """The terminal is gone: flush and end the process. Any thread; does not return.

        Ends by SIGHUP, which the kernel sends too, unless that is ignored.
        """
        if self.output is not None:
            self.output.lost = True
        self._last_flush()
        if HANGUP_CODE - 128 in self._handlers:
            os.kill(os.getpid(), HANGUP_CODE - 128)
            time.sleep(DRAIN_S)
        os._exit(HANGUP_CODE)

    def record(self, error: BaseException) -> None:
        """Write a crash's traceback to the log, without the values of variables."""
        self.crash = "".join(traceback.format_exception(error))
        with suppress(OSError, ValueError, AttributeError):
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            self._log_stream.write(f"{stamp} crash\n{self.crash}")
            self._log_stream.flush()


def flush_streams() -> None:
    """Flush standard output and standard error; failures are ignored."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _write_all(descriptor: int, data: bytes) -> None:
    with suppress(OSError):
        while data:
            data = data[os.write(descriptor, data) :]
