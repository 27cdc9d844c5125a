"""A terminal driver that survives invalid bytes, huge pastes, signals and the loss of the terminal.

Law: only the end of input ends the program, after a flush; the contents of a bracketed paste are
text, never keys.
"""

from __future__ import annotations

import errno
import os
import re
import selectors
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Empty, Full
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from textual import events
from textual.drivers.linux_driver import LinuxDriver

from qwen_tui.tui.terminal.guard import DRAIN_S, HANGUP_CODE
from qwen_tui.tui.terminal.key_reader import KeyReader
from qwen_tui.tui.terminal.shutdown import TerminalFile

if TYPE_CHECKING:
    from textual.app import App

PASTE_MOST: Final = 64 << 20
"""Bytes of one paste that are kept; the rest is read and dropped."""
PASTE_QUIET_S: Final = 10.0
"""Seconds of silence after which a paste without an end is accepted."""
POLL_S: Final = 0.1
HELD_S: Final = 0.02
"""Seconds that a lone Esc waits for the rest of the mark that begins a paste."""
_READ: Final = 1 << 16
_PASTE_ON: Final = b"\x1b[200~"
_PASTE_OFF: Final = b"\x1b[201~"
_CONTROLS: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

Piece: TypeAlias = tuple[Literal["keys", "paste"], bytes]


class PasteSplitter:
    """Splits raw input into keys and whole pastes, however it is divided into reads."""

    def __init__(self, most: int = PASTE_MOST) -> None:
        self._most = most
        self._paste: bytearray | None = None
        self._held = b""

    @property
    def in_paste(self) -> bool:
        """Whether a paste has begun and not ended."""
        return self._paste is not None

    @property
    def holds(self) -> bool:
        """Whether there are bytes that may be the beginning of a paste mark."""
        return bool(self._held)

    def feed(self, data: bytes) -> Iterator[Piece]:
        """The pieces completed by more input."""
        data, self._held = self._held + data, b""
        while data:
            if self._paste is None:
                keys, begun, data = data.partition(_PASTE_ON)
                if begun:
                    self._paste = bytearray()
                else:
                    kept = next((k for k in range(5, 0, -1) if keys.endswith(_PASTE_ON[:k])), 0)
                    self._held = keys[len(keys) - kept :]
                    keys = keys[: len(keys) - kept]
                if keys:
                    yield "keys", keys
            else:
                since = max(0, len(self._paste) - len(_PASTE_OFF) + 1)
                self._paste += data
                data = b""
                end = self._paste.find(_PASTE_OFF, since)
                if end >= 0:
                    data = bytes(self._paste[end + len(_PASTE_OFF) :])
                    del self._paste[end:]
                    yield from self._finish()
                elif len(self._paste) > self._most + len(_PASTE_OFF):
                    del self._paste[self._most : -len(_PASTE_OFF)]

    def quiet(self) -> Iterator[Piece]:
        """After a silence: bytes that looked like the beginning of a paste mark were keys."""
        if self._held:
            held, self._held = self._held, b""
            yield "keys", held

    def give_up(self) -> Iterator[Piece]:
        """Accept a paste whose end does not come."""
        if self._paste is not None:
            yield from self._finish()

    def _finish(self) -> Iterator[Piece]:
        whole, self._paste = bytes(self._paste or b"")[: self._most], None
        yield "paste", whole


def pasted_text(data: bytes) -> str:
    """A paste's bytes as text: invalid UTF-8 becomes U+FFFD, line ends become line feeds, and
    control characters except tab and line feed are removed.
    """
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub("", text)


class SafeDriver(LinuxDriver):
    """Textual's driver, with input that cannot crash it and output that cannot block its end."""

    def __init__(
        self,
        app: App[Any],
        *,
        debug: bool = False,
        mouse: bool = True,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        self._leaving = False
        if not isinstance(self._file, TerminalFile):
            self._file = TerminalFile(self._file.fileno())  # type: ignore[assignment, union-attr]

    @property
    def _terminal(self) -> TerminalFile:
        assert isinstance(self._file, TerminalFile)
        return self._file

    def _get_terminal_size(self) -> tuple[int, int]:
        """The size of the terminal; 80×24 if it reports 0."""
        try:
            width, height = os.get_terminal_size(self._terminal.fileno())
        except OSError:
            width = height = 0
        return width or 80, height or 24

    def _sigtstp_application(self, *_: object) -> None:
        """Restore the screen, then stop. Runs on the event loop, since a signal handler that
        interrupts a write cannot write. While another program has the terminal there is nothing to
        restore.
        """
        if self._auto_restart:
            self._loop.call_soon_threadsafe(super()._sigtstp_application)
        else:
            os.kill(os.getpid(), signal.SIGSTOP)

    def _sigcont_application(self, *_: object) -> None:
        """Continue, and set up the screen again."""
        if self._auto_restart:
            self._loop.call_soon_threadsafe(self._take_again)

    def _take_again(self) -> None:
        """Set every mode again. After a SIGSTOP the screen is still set up, so it is first
        restored: setting it up twice would leave two threads reading and restore the wrong modes.
        """
        if self._terminal.taken:
            self.suspend_application_mode()
        self.resume_application_mode()

    def start_application_mode(self) -> None:
        """Set up the screen."""
        self._leaving = False
        self._terminal.taken = True
        self._terminal.speak()
        super().start_application_mode()  # type: ignore[no-untyped-call]

    def stop_application_mode(self) -> None:
        """Restore the screen, as far as the terminal accepts output."""
        self._leaving = True
        super().stop_application_mode()

    def write(self, data: str) -> None:
        """Write, unless the terminal is gone; when leaving, do not wait for a terminal that accepts
        no output.
        """
        assert self._writer_thread is not None, "the screen is not taken"
        while not self._terminal.lost:
            try:
                self._writer_thread._queue.put(data, timeout=DRAIN_S)
                return
            except Full:
                if self._leaving:
                    self._terminal.silence()

    def close(self) -> None:
        """Stop writing; wait at most half a second for a terminal that accepts no output."""
        writer = self._writer_thread
        if writer is None or not writer.is_alive():
            return
        with suppress(Full):
            writer._queue.put(None, timeout=DRAIN_S)
            writer.join(DRAIN_S)
        if not writer.is_alive():
            self._terminal.taken = not self._leaving
            return
        self._terminal.silence()
        with suppress(Empty):
            while True:
                writer._queue.get_nowait()
        writer._queue.put(None)

    def run_input_thread(self) -> None:
        """Read until told to stop; the end of input ends the program."""
        splitter, reader = PasteSplitter(), KeyReader(self._debug)
        selector = selectors.SelectSelector()
        selector.register(self.fileno, selectors.EVENT_READ)
        heard = time.monotonic()
        try:
            while not self.exit_event.is_set():
                waits = splitter.holds or reader.waits
                if selector.select(HELD_S if waits else POLL_S):
                    data = self._read()
                    if data is None:
                        continue
                    if not data:
                        self._hangup()
                        return
                    heard = time.monotonic()
                    pieces = splitter.feed(data)
                elif splitter.in_paste and time.monotonic() - heard > PASTE_QUIET_S:
                    pieces = splitter.give_up()
                else:
                    pieces = splitter.quiet()
                self._deliver(pieces, reader)
        finally:
            selector.close()

    def _deliver(self, pieces: Iterable[Piece], reader: KeyReader) -> None:
        for kind, data in pieces:
            if kind == "paste":
                self.process_message(events.Paste(pasted_text(data)))
            else:
                for message in reader.feed(data):
                    self.process_message(message)
        for message in reader.tick():
            self.process_message(message)

    def _read(self) -> bytes | None:
        """Input from the terminal; b"" if it is gone, None if there is none after all."""
        try:
            return os.read(self.fileno, _READ)
        except OSError as error:
            return None if error.errno in (errno.EINTR, errno.EAGAIN) else b""

    def _hangup(self) -> None:
        """The terminal is gone: the app flushes and leaves."""
        self._terminal.lost = True
        ended = getattr(self._app, "terminal_lost", None)
        if ended is not None:
            ended()
        os._exit(HANGUP_CODE)
