"""The document as a text file: written atomically, checked before it is replaced, edited outside.

Law: a file that changed since it was read is replaced only after asking; a crash leaves the old
file or the new one, never a part.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qwen_tui import paths
from qwen_tui.session.drafts import change
from qwen_tui.session.session import Session
from qwen_tui.types import CANNOT_CREATE, IO_ERROR, Trouble

EDITORS: Final = ("VISUAL", "EDITOR")
FALLBACK_EDITOR: Final = "vi"
AT_ONCE_S: Final = 0.5
"""An editor that ends sooner (in seconds) did not wait for the person."""
WINDOWED: Final = (
    *("code", "code-insiders", "codium", "cursor", "subl", "zed", "atom", "mate", "gvim"),
)
"""Editors that open a window and return at once, unless told to wait."""
WAITS: Final = ("--wait", "-w", "-f", "--nofork")
FILE, WRITTEN = "file", "written"
"""The keys under which a session remembers its file and the digest of its contents."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A file's state when it was last read or written; None if it did not exist."""

    mark: tuple[int, int, int] | None

    @classmethod
    def of(cls, path: Path) -> Seen:
        """The file's current inode, size and modification time, by which a change is noticed."""
        try:
            found = path.stat()
        except OSError:
            return cls(None)
        return cls((found.st_ino, found.st_size, found.st_mtime_ns))


CHANGED: Final = Seen((0, 0, 0))
"""Equals no file's state: the file counts as changed."""


class TextFile:
    """The file the document is written to; `path` is None until it has one. `text` is its contents
    when the document is begun from it.
    """

    def __init__(self, path: Path | None = None, text: str = "") -> None:
        self.path = path
        self._text = text
        self._seen = Seen.of(path) if path else Seen(None)
        self._behind = (text, 0)

    @classmethod
    def of(cls, session: Session) -> TextFile:
        """The file that a session remembers, in its current state; without a path if there
        is none.
        """
        named = session.remembered.get(FILE)
        if not isinstance(named, str):
            return cls()
        file = cls(Path(named))
        with suppress(OSError, UnicodeError):
            file._text = Path(named).read_bytes().decode("utf-8", "surrogateescape")
            file._behind = (file._text, 0)
        if session.remembered.get(WRITTEN) != digest(file._text):
            file._seen = CHANGED
        return file

    @property
    def name(self) -> str:
        """The file's name; empty while there is none."""
        return self.path.name if self.path else ""

    @property
    def changed(self) -> bool:
        """Whether another program changed it since it was read or written here."""
        return self.path is not None and Seen.of(self.path) != self._seen

    def behind(self, document: str) -> int:
        """How many characters of the document the file lacks or has differently."""
        if self.path is None:
            return 0
        if document != self._behind[0]:
            _, cut, put = change(self._text, document)
            self._behind = document, max(cut, len(put))
        return self._behind[1]

    def remember(self, session: Session) -> None:
        """Store the file's path and the digest of its last known contents with the session."""
        if self.path is not None and session.sink is not None:
            named = {FILE: str(self.path.absolute()), WRITTEN: digest(self._text)}
            session.remember(**named)

    def write(self, path: Path, text: str) -> None:
        """Write `text` to `path`, which is the document's file from then on. Raises Trouble."""
        self._seen = write_text(path, text)
        self.path, self._text, self._behind = path, text, (text, 0)


def digest(text: str) -> str:
    """The SHA-256 of a text's bytes, by which a file's contents are recognised."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def write_text(path: Path, text: str) -> Seen:
    """Write `text` to `path` atomically, keeping the mode of an existing file.

    Raises Trouble with the reason. A symbolic link keeps its target.
    """
    try:
        with paths.replacing(path, sync=True) as file:
            file.write(text.encode("utf-8", "surrogateescape"))
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        missing = isinstance(error, OSError) and not path.exists()
        code = CANNOT_CREATE if missing else IO_ERROR
        raise Trouble(f"{path} cannot be written: {why}", code=code) from None
    return Seen.of(path)


def editor_command(env: Mapping[str, str] = os.environ) -> list[str]:
    """The person's editor and its arguments."""
    chosen = next((env[name] for name in EDITORS if env.get(name, "").strip()), FALLBACK_EDITOR)
    try:
        return shlex.split(chosen) or [FALLBACK_EDITOR]
    except ValueError:
        return [chosen]


def edit_outside(text: str, env: Mapping[str, str] = os.environ) -> str:
    """The text after editing in the person's editor; call it while the editor may use the terminal.

    The copy is in a private folder that is deleted, unless the editor returned at once without a
    change: it may have opened a window, so the copy is kept. A line feed that the editor appended
    is removed. Raises Trouble if the editor cannot be run, fails or returned at once; the text is
    then unchanged.
    """
    command = editor_command(env)
    folder = tempfile.mkdtemp(prefix="qwen-tui-")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        file = Path(folder, "document.txt")
        file.touch(mode=0o600)
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
        began = time.monotonic()
        try:
            code = subprocess.run([*command, str(file)], check=False).returncode
        except OSError as error:
            raise Trouble(
                f"{command[0]} cannot be run: {error.strerror}", hint="set EDITOR to your editor"
            ) from None
        if code:
            raise Trouble(f"{command[0]} ended with {code}; the document is as it was")
        try:
            edited = file.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Trouble(f"what {command[0]} left cannot be read: {error}") from None
        name = Path(command[0]).name
        window = name in WINDOWED and not set(command) & set(WAITS)
        if edited == text and (window or time.monotonic() - began < AT_ONCE_S):
            stack.pop_all()
            raise Trouble(
                f"{name} came back at once and changed nothing",
                hint=f"one that opens a window has to wait, as `VISUAL='{name} --wait'` makes "
                f"Visual Studio Code do; what is written there stays in {file}",
            )
    return edited[:-1] if edited == text + "\n" or _grew_an_end(text, edited) else edited


def _grew_an_end(text: str, edited: str) -> bool:
    return edited.endswith("\n") and not text.endswith("\n")
