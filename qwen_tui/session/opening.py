"""An open session: its file read, followed, saved and closed.

Law: a file is written only under its lock; if it cannot be, `read_only` says why and nothing is
written.
"""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qwen_tui.journal import VERSION
from qwen_tui.paths import sessions_dir
from qwen_tui.portable_os import read_at
from qwen_tui.session.drafts import Drafts
from qwen_tui.session.identity import id_of
from qwen_tui.session.loader import Report, SessionLoader, load, open_regular
from qwen_tui.session.session import Session
from qwen_tui.session.session_file import SessionFile, Taken, file_name
from qwen_tui.session.store import Saving, Store
from qwen_tui.types import NO_INPUT, Entry, Head, Trouble

if TYPE_CHECKING:
    from qwen_tui.vocab import Vocab

MAX_POLL: Final = 8 * 1024 * 1024
"""Most bytes of another process that are read at a time."""


class Follower:
    """Reads what another process appends to a session file; `poll` it several times a second."""

    def __init__(self, path: Path, loader: SessionLoader) -> None:
        self._loader = loader
        self._offset = loader.report.size
        self._fd = open_regular(path)
        self.lost = False
        """The file became shorter, so it is another one now."""

    def poll(self) -> list[Entry]:
        """The entries appended since the last call, from at most `MAX_POLL` bytes."""
        if self._fd < 0 or self.lost:
            return []
        if os.fstat(self._fd).st_size < self._offset:
            self.lost = True
            return []
        data = read_at(self._fd, MAX_POLL, self._offset)
        whole = data[: data.rfind(b"\n") + 1]
        if not whole and len(data) == MAX_POLL:
            whole = data
        self._offset += len(whole)
        return [entry for raw in whole.splitlines(True) for entry in self._loader.feed(raw)]

    def close(self) -> None:
        """Stop following."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(slots=True)
class OpenSession:
    """A session in use and what belongs to it.

    store: writes it; None when nothing is saved.
    file: the file it was read from; None for a session that began here.
    report: what reading that file found.
    read_only: why a session that has a file is not written; "" when it is.
    follower: gives what another process is writing to the file.
    drafts: keeps typing that is not committed; None where nobody types.
    """

    session: Session
    store: Store | None = None
    file: Path | None = None
    report: Report = field(default_factory=Report)
    read_only: str = ""
    follower: Follower | None = None
    drafts: Drafts | None = None

    @property
    def path(self) -> Path | None:
        """The file it is saved in, or was read from; None when it has none."""
        return self.store.path if self.store is not None else self.file

    def holds(self, path: Path) -> bool:
        """Whether this session is saved in that file."""
        own = self.store.path if self.store is not None and self.store.exists else None
        return own is not None and path.exists() and path.samefile(own)

    @property
    def damage(self) -> list[str]:
        """What is damaged in the file and what of it is not shown, in short lines."""
        out = self.report.badges()
        if left_out := self.session.tree.left_out:
            out.append(f"{left_out:,} lost tokens are not shown")
        return out

    @property
    def badges(self) -> list[str]:
        """Short lines for the status line: damage, interrupted generations, why it is read-only."""
        out = self.damage
        if waiting := len(self.session.interrupted()):
            out.append("an interrupted generation" if waiting == 1 else f"{waiting} interrupted")
        return out + ([self.read_only] if self.read_only else [])

    def flush(self, timeout: float = 1.0) -> bool:
        """Write everything to the disk; any thread, also in a signal handler."""
        if self.drafts is not None:
            self.drafts.flush(timeout / 2)
        return self.store.flush(timeout) if self.store is not None else True

    def close(self, timeout: float = 2.0, *, committed: bool = False) -> bool:
        """Flush, close the file and release its lock; True when all is saved. `committed`: there is
        no uncommitted typing, so the draft is deleted.
        """
        if self.drafts is not None:
            self.drafts.close(timeout / 2, discard=committed)
        if self.follower is not None:
            self.follower.close()
        return self.store.close(timeout) if self.store is not None else True


def open_session(
    path: Path,
    *,
    vocab: Vocab | None = None,
    read_only: bool = False,
    confirmed: bool = False,
    on_state: Callable[[Saving], None] | None = None,
) -> OpenSession:
    """Read a session file and, unless `read_only`, keep saving to it.

    A file that another program has open, that is not writable, from a newer version or without its
    head (until `confirmed`) is opened read-only, and `read_only` says why. Raises Trouble when
    there is nothing to open.
    """
    locked, why = (None, "read-only") if read_only else lock_file(path)
    loader = SessionLoader()
    session = Session(vocab=vocab)
    try:
        with _without_garbage_collection():
            for entry in load(path, loader, ended=isinstance(why, Taken)):
                session.apply(entry)
    except BaseException:
        if locked is not None:
            locked.close()
        raise
    report = loader.finish()
    reason = str(why) if why else _unsafe(report, confirmed)
    loaded = OpenSession(session, file=path, report=report, read_only=reason)
    session.id = session.id or id_of(path) or path.stem
    if isinstance(why, Taken):
        session.followed = True
        loaded.follower = Follower(path, loader)
    if reason or locked is None:
        if locked is not None:
            locked.close()
        return loaded
    loaded.store = Store(locked, entries=session.entries, on_state=on_state)
    session.sink = loaded.store.put
    if report.headless:
        session.apply(head := Head(session.id))
        loaded.store.put(head)
    return loaded


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Switch garbage collection off: reading creates millions of objects but no garbage, and
    collections would take as long as the reading itself.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def lock_file(path: Path) -> tuple[SessionFile | None, str | Taken]:
    """The file, locked for writing, and ""; or None and why it cannot be written.

    Raises Trouble if it cannot be opened.
    """
    try:
        return SessionFile.open_locked(path), ""
    except Taken as taken:
        return None, taken
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Trouble(f"{path} cannot be opened: {error.strerror}", code=NO_INPUT) from error
        return None, f"{path.name} cannot be written"


def _unsafe(report: Report, confirmed: bool) -> str:
    if report.newer:
        return f"written by a newer version (this one knows format {VERSION})"
    if report.headless and report.records and not confirmed:
        return "the head of the file is missing"
    return ""


def new_store(
    session: Session,
    folder: Path | None = None,
    *,
    on_state: Callable[[Saving], None] | None = None,
) -> Store:
    """Save a session that has no file: to a new one in `folder` (default: ours), created with the
    next entry, or at once when the session has text already.
    """
    place = sessions_dir() if folder is None else folder
    path = place / file_name(session.id, session.title)
    store = Store(path, entries=session.entries, lazily=not len(session.tree), on_state=on_state)
    session.sink = store.put
    return store
