"""Where a completion goes: standard output or a file, as exact bytes or safe to show.

Law: a pipe and a file get the exact bytes; a terminal never gets a control character of the
model's.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from qwen_tui.types import CANNOT_CREATE, IO_ERROR, NO_PERMISSION, Trouble

_FRESH: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)


class Output:
    """A place for exact bytes. `close` puts a file in its place; `abandon` leaves the old one."""

    def __init__(self, stream: BinaryIO, name: str, *, shown: bool = False) -> None:
        self._stream = stream
        self._name = name
        self.shown = shown
        """True where a person reads it on a terminal: text must be made visible first."""

    def write(self, data: bytes) -> None:
        """Write and flush; BrokenPipeError when the reader left, Trouble (74) for all else."""
        try:
            self._stream.write(data)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._stream is getattr(sys.stdout, "buffer", None):
                silence_stdout()
            raise Trouble(f"write error on {self._name}: {error.strerror}", code=IO_ERROR) from None

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def close(self) -> None:
        """All is written."""

    def abandon(self) -> None:
        """Nothing came of it."""


class FileOutput(Output):
    """A file that appears whole, under its name, when it is closed; devices are written directly.

    Trouble 73 or 77 when it cannot be made, raised at once; the file is begun by the first write.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))
        direct = self._path.exists() and not self._path.is_file()
        self._part = self._path if direct else self._path.with_name(f".{self._path.name}.part")
        try:
            if direct:
                super().__init__(self._path.open("wb"), str(path))
                return
            self._part.unlink(missing_ok=True)
            super().__init__(self._begun(), str(path))
        except PermissionError:
            raise Trouble(f"{path} may not be written", code=NO_PERMISSION) from None
        except OSError as error:
            raise Trouble(f"{path} cannot be made: {error.strerror}", code=CANNOT_CREATE) from None
        # Nothing may lie about should the process be killed while it only loads.
        self._part.unlink()
        self._stream.close()

    def _begun(self) -> BinaryIO:
        return os.fdopen(os.open(self._part, _FRESH, 0o666), "wb")

    def write(self, data: bytes) -> None:
        self._reopen()
        super().write(data)

    def _reopen(self) -> None:
        if self._stream.closed:
            try:
                self._stream = self._begun()
            except OSError as error:
                raise Trouble(
                    f"{self._name} cannot be made: {error.strerror}", code=CANNOT_CREATE
                ) from None

    def close(self) -> None:
        try:
            self._reopen()
            self._stream.close()
            if self._part != self._path:
                self._part.replace(self._path)
        except OSError as error:
            raise Trouble(f"write error on {self._name}: {error.strerror}", code=IO_ERROR) from None

    def abandon(self) -> None:
        with suppress(OSError):
            self._stream.close()
        if self._part != self._path:
            self._part.unlink(missing_ok=True)


def opened(path: str | None, *, raw: bool = False) -> Output:
    """Standard output, or the file of `-o` (`-` is standard output too)."""
    if path is not None and path != "-":
        return FileOutput(Path(path))
    if sys.stdout is None:
        raise Trouble("standard output is closed", code=IO_ERROR)
    shown = sys.stdout.isatty() and not raw
    return Output(sys.stdout.buffer, "standard output", shown=shown)


def silence_stdout() -> None:
    """Point standard output nowhere, so that the interpreter's last flush cannot fail again."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        return


class Teller:
    """Tells completions, one after the other, in branch order.

    Branch 0 is told as it comes; of the others each waits for its turn. `limit` branches are parted
    by a line `--- 2/4 ---`; on a terminal a missing final newline is added.
    """

    def __init__(self, output: Output, *, branches: int = 1, lead: bytes = b"") -> None:
        from qwen_tui.vocab import Decoder

        self._output = output
        self._branches = branches
        self._lead = lead
        self._turn = 0
        self._waiting = [bytearray(lead) for _ in range(branches)]
        self._ended = [False] * branches
        self._decoder = Decoder()
        self._last = b"\n"

    def begin(self) -> None:
        """Tell what stands before the first completion."""
        self._tell()

    def feed(self, branch: int, data: bytes) -> None:
        """More bytes of one branch."""
        self._waiting[branch] += data
        self._tell()

    def end(self, branch: int) -> None:
        """That branch is over."""
        self._ended[branch] = True
        self._tell()

    def finish(self) -> None:
        """Tell whatever is left, of every branch, and the terminal's final newline."""
        self._ended = [True] * self._branches
        self._tell()
        if self._output.shown and self._last != b"\n":
            self._output.write(b"\n")

    def _tell(self) -> None:
        while self._turn < self._branches:
            waiting = self._waiting[self._turn]
            if waiting:
                self._write(bytes(waiting))
                waiting.clear()
            if not self._ended[self._turn]:
                return
            self._write_text(self._decoder.flush())
            self._turn += 1
            if self._turn < self._branches:
                line = f"--- {self._turn + 1}/{self._branches} ---\n".encode()
                self._output.write(line if self._last == b"\n" else b"\n" + line)
                self._last = b"\n"

    def _write(self, data: bytes) -> None:
        if self._output.shown:
            self._write_text(self._decoder.feed(data))
        else:
            self._output.write(data)
            self._last = data[-1:]

    def _write_text(self, text: str) -> None:
        if text and self._output.shown:
            from qwen_tui.safe_text import visible

            data = visible(text).encode("utf-8", "replace")
            self._output.write(data)
            self._last = data[-1:]
