"""Where a completion goes: standard output or a file, as exact bytes or made safe to show.

Law: a pipe and a file get the exact bytes; a terminal never gets a model's control character.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, Final

from qwen_tui.paths import replacing
from qwen_tui.safe_text import VisibleStream
from qwen_tui.types import CANNOT_CREATE, IO_ERROR, NO_PERMISSION, Trouble

TAB: Final = 8
"""Distance of a terminal's tab stops in columns."""


class Output:
    """A destination for exact bytes. `close` completes a file; `abandon` leaves the old one.

    `shown`: a person reads it on a terminal, so text is made safe and written in `encoding`.
    """

    def __init__(
        self, stream: BinaryIO, name: str, *, shown: bool = False, encoding: str = "utf-8"
    ) -> None:
        self._stream = stream
        self._name = name
        self.shown = shown
        self._encoding = encoding
        self._column = 0
        self._visible = VisibleStream()

    def write(self, data: bytes) -> None:
        """Write and flush; BrokenPipeError if the reader left, Trouble (74) for other errors."""
        try:
            self._stream.write(data)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._stream is getattr(sys.stdout, "buffer", None):
                silence_stdout()
            raise Trouble(f"write error on {self._name}: {error.strerror}", code=IO_ERROR) from None

    def write_text(self, text: str) -> None:
        """Write text: on a terminal made safe, with spaces for tabs; else exactly, in UTF-8."""
        if not self.shown:
            self.write(text.encode())
            return
        safe = self._without_tabs(self._visible.feed(text))
        self.write(safe.encode(self._encoding, "replace"))

    def _without_tabs(self, text: str) -> str:
        from rich.cells import cell_len

        lines = []
        for number, line in enumerate(text.split("\n")):
            if number:
                self._column = 0
            parts = line.split("\t")
            for index, part in enumerate(parts):
                self._column += cell_len(part)
                if index < len(parts) - 1:
                    gap = TAB - self._column % TAB
                    self._column += gap
                    parts[index] = part + " " * gap
            lines.append("".join(parts))
        return "\n".join(lines)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def close(self) -> None:
        """Everything was written."""

    def abandon(self) -> None:
        """Discard what was written so far."""


class _Abandoned(Exception):
    """Makes `replacing` leave the old file in place."""


class FileOutput(Output):
    """A file that replaces an old one atomically when it is closed; devices are written directly.

    Trouble 73 or 77 if it cannot be created, raised at once. The new file is begun with the first
    write: a process killed while loading leaves nothing behind.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open = ExitStack()
        self._begun = False
        super().__init__(self._begin(), str(path))
        if path.is_file() or not path.exists():
            self.abandon()

    def _begin(self) -> BinaryIO:
        direct = self._path.exists() and not self._path.is_file()
        try:
            place = self._path.open("wb") if direct else replacing(self._path)
            stream = self._open.enter_context(place)
        except PermissionError:
            raise Trouble(f"{self._path} may not be written", code=NO_PERMISSION) from None
        except OSError as error:
            why = f"{self._path} cannot be made: {error.strerror}"
            raise Trouble(why, code=CANNOT_CREATE) from None
        self._begun = True
        return stream

    def write(self, data: bytes) -> None:
        if not self._begun:
            self._stream = self._begin()
        super().write(data)

    def close(self) -> None:
        if not self._begun:
            self._stream = self._begin()
        try:
            self._open.close()
        except OSError as error:
            raise Trouble(f"write error on {self._name}: {error.strerror}", code=IO_ERROR) from None

    def abandon(self) -> None:
        self._begun = False
        with suppress(OSError):
            self._open.__exit__(_Abandoned, _Abandoned(), None)


def opened(path: str | None, *, raw: bool = False) -> Output:
    """Standard output, or the file of `-o` (`-` is standard output too)."""
    if path is not None and path != "-":
        return FileOutput(Path(path))
    if sys.stdout is None:
        raise Trouble("standard output is closed", code=IO_ERROR)
    shown = sys.stdout.isatty() and not raw
    encoding = sys.stdout.encoding or "utf-8"
    return Output(sys.stdout.buffer, "standard output", shown=shown, encoding=encoding)


def silence_stdout() -> None:
    """Point standard output to the null device, so that the interpreter's last flush cannot fail
    again.
    """
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        return


class BranchPrinter:
    """Prints completions one after the other, in branch order, each after `lead`.

    Branch 0 is printed as it comes; each other one waits until those before it have ended. On a
    terminal a line `--- 2/4 ---` separates two, and a missing final newline is added; a pipe or
    file gets only the completions, each but the last ended by a newline.
    """

    def __init__(self, output: Output, *, branches: int = 1, lead: bytes = b"") -> None:
        from qwen_tui.vocab import Decoder

        self._output = output
        self._branches = branches
        self._turn = 0
        self._waiting = [bytearray(lead) for _ in range(branches)]
        self._ended = [False] * branches
        self._decoder = Decoder()
        self._last = b"\n"

    def feed(self, branch: int, data: bytes) -> None:
        """More bytes of one branch."""
        self._waiting[branch] += data
        self._print()

    def end(self, branch: int) -> None:
        """That branch has ended."""
        self._ended[branch] = True
        self._print()

    def finish(self) -> None:
        """Print the rest of every branch, and on a terminal the final newline."""
        self._ended = [True] * self._branches
        self._print()
        if self._output.shown:
            self._end_line()

    def _print(self) -> None:
        while self._turn < self._branches:
            waiting = self._waiting[self._turn]
            if waiting:
                self._write(bytes(waiting))
                waiting.clear()
            if not self._ended[self._turn]:
                return
            self._show(self._decoder.flush())
            self._turn += 1
            if self._turn < self._branches:
                self._end_line()
                if self._output.shown:
                    self._show(f"--- {self._turn + 1}/{self._branches} ---\n")

    def _end_line(self) -> None:
        if self._last != b"\n":
            self._output.write_text("\n")
            self._last = b"\n"

    def _write(self, data: bytes) -> None:
        if self._output.shown:
            self._show(self._decoder.feed(data))
        else:
            self._output.write(data)
            self._last = data[-1:]

    def _show(self, text: str) -> None:
        if text and self._output.shown:
            self._output.write_text(text)
            self._last = text[-1:].encode()
