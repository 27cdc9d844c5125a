"""Typing that is not committed yet, kept in one file per session, like an editor's swap file.

Law: at most a second of typing is lost; a draft is restored only onto the text it was typed on.
This file may be emptied and removed: committed text is in the session's file.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qwen_tui.journal import read, seal
from qwen_tui.paths import drafts_dir, ensure_folder
from qwen_tui.portable_os import lock, open_plain, read_at, remove_and_close
from qwen_tui.session.loader import lines, open_regular
from qwen_tui.session.tree import Place
from qwen_tui.types import Trouble, Unknown
from qwen_tui.vocab.alignment import shared_length

PAUSE_S: Final = 0.5
"""Shortest time in seconds between two writes."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""A draft file larger than this is emptied when the next text is begun."""


@dataclass(frozen=True, slots=True)
class Typed:
    """The editor's contents: the place in the session it was typed at, the text, the cursor's
    offset.
    """

    base: Place
    before: str
    text: str
    cursor: int


@dataclass(frozen=True, slots=True)
class Orphan:
    """A draft whose session never got a file."""

    path: Path
    id: str
    text: str
    cursor: int
    modified: float


def change(before: str, after: str) -> tuple[int, int, str]:
    """(from, cut, put): `after` is `before` with `cut` characters at `from` replaced by `put`."""
    start = shared_length(before, after)
    tail = shared_length(before[start:][::-1], after[start:][::-1])
    return start, len(before) - start - tail, after[start : len(after) - tail]


def _mark(base: Place, text: str) -> dict[str, Any]:
    data = text.encode("utf-8", "surrogatepass")
    return {"node": base.node, "at": base.at, "size": len(text), "crc": zlib.crc32(data)}


class Drafts:
    """Writes one session's typing on a thread of its own.

    Raises nothing after construction: if a draft cannot be written there is none, and `reason` says
    why.
    """

    def __init__(self, session_id: str, folder: Path | None = None) -> None:
        self.path = (drafts_dir() if folder is None else folder) / f"{session_id}.jsonl"
        self.reason = ""
        self._fd = -1
        self._counter = 0
        self._base: Place | None = None
        self._written = ""
        self._queue: queue.SimpleQueue[Typed | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="drafts", daemon=True)
        self._thread.start()

    def note(self, base: Place, before: str, text: str, cursor: int) -> None:
        """Record that the editor contains `text`, typed over the document `before` whose head is
        `base`.
        """
        self._queue.put(Typed(base, before, text, cursor))

    def flush(self, timeout: float) -> bool:
        """Write the latest record; True if done within `timeout` seconds. Safe in a signal
        handler.
        """
        done = threading.Event()
        self._queue.put(done)
        return done.wait(timeout) and not self.reason

    def close(self, timeout: float = 1.0, *, discard: bool = False) -> None:
        """End the thread; `discard` removes the file, once everything typed is committed."""
        self._queue.put(None)
        self._thread.join(timeout)
        if discard:
            self.path.unlink(missing_ok=True)

    # -- the drafts' thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._round():
                pass
        finally:
            if self._fd >= 0:
                os.close(self._fd)

    def _round(self) -> bool:
        """Wait for typing, then for its pause, then write the newest. False when asked to end."""
        newest: Typed | None = None
        flushes: list[threading.Event] = []
        until: float | None = None
        going = True
        while going and not flushes:
            left = None if until is None else until - time.monotonic()
            try:
                item = self._queue.get(timeout=left) if left is None or left > 0 else None
            except queue.Empty:
                break
            if left is not None and left <= 0:
                break
            if isinstance(item, Typed):
                newest = item
                until = until or time.monotonic() + PAUSE_S
            elif item is None:
                going = False
            else:
                flushes.append(item)
        if newest is not None:
            self._write(newest)
        for done in flushes:
            done.set()
        return going

    def _write(self, typed: Typed) -> None:
        try:
            if self._fd < 0:
                self._open()
            data = b""
            if typed.base != self._base:
                if os.fstat(self._fd).st_size > MAX_BYTES:
                    os.ftruncate(self._fd, 0)
                data += self._line({"k": "base", **_mark(typed.base, typed.before)})
                self._base, self._written = typed.base, typed.before
            start, cut, put = change(self._written, typed.text)
            data += self._line(
                {"k": "typed", "from": start, "cut": cut, "put": put, "cursor": typed.cursor}
            )
            while data:
                data = data[os.write(self._fd, data) :]
            getattr(os, "fdatasync", os.fsync)(self._fd)
            self._written = typed.text
            self.reason = ""
        except (OSError, Trouble) as error:
            self.reason = str(error)
            self._base = None

    def _open(self) -> None:
        ensure_folder(self.path.parent)
        fd = open_plain(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            lock(fd)
            size = os.fstat(fd).st_size
            if size and read_at(fd, 1, size - 1) != b"\n":
                os.write(fd, b"\n")
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def _line(self, record: dict[str, Any]) -> bytes:
        self._counter += 1
        return seal(record, "draft", self._counter, int(time.time() * 1000))


class _DraftReader:
    """Reads a draft file line by line: the text typed on each base, newest last."""

    def __init__(self) -> None:
        self.base: dict[str, Any] | None = None
        self.changes: list[dict[str, Any]] = []

    def feed(self, raw: bytes) -> None:
        found = read(raw)
        if not found.ok or not isinstance(found.entry, Unknown):
            # A lost change makes all later ones on this base meaningless.
            self.changes.append({})
            return
        values = dict(found.entry.record)
        if values.pop("k") == "base":
            self.base, self.changes = values, []
        else:
            self.changes.append(values)

    def applied(self, text: str) -> tuple[str, int] | None:
        """The last text that can be reconstructed from `text`; None if nothing was typed."""
        cursor = None
        for values in self.changes:
            try:
                start, cut = int(values["from"]), int(values["cut"])
                put, where = str(values["put"]), int(values["cursor"])
            except (KeyError, TypeError, ValueError):
                break
            if not 0 <= start <= start + cut <= len(text):
                break
            text, cursor = text[:start] + put + text[start + cut :], where
        return None if cursor is None else (text, max(0, min(cursor, len(text))))


def _replays(path: Path) -> Iterable[_DraftReader]:
    """What was typed on each base of a draft file, in order; nothing if it cannot be read."""
    try:
        fd = open_regular(path)
    except (OSError, Trouble):
        return
    replay = _DraftReader()
    with os.fdopen(fd, "rb") as file:
        for raw, _ in lines(file):
            if b'{"k":"base"' in raw[:16] and replay.base is not None:
                yield replay
                replay = _DraftReader()
            replay.feed(raw)
    if replay.base is not None:
        yield replay


def restore(
    session_id: str, base: Place, before: str, folder: Path | None = None
) -> tuple[str, int] | None:
    """(text, cursor) of uncommitted typing on the document `before` at `base`; None if there is
    none or it equals the document.
    """
    path = (drafts_dir() if folder is None else folder) / f"{session_id}.jsonl"
    wanted = _mark(base, before)
    found = None
    for replay in _replays(path):
        if replay.base == wanted:
            found = replay.applied(before) or found
    return found if found is not None and found[0] != before else None


def orphans(known: Iterable[str], folder: Path | None = None) -> list[Orphan]:
    """Drafts whose session never got a file and that no running program has open, newest first.

    `known` are the ids of the sessions that have one.
    """
    place = drafts_dir() if folder is None else folder
    ids = set(known)
    out = []
    for path in place.glob("*.jsonl") if place.is_dir() else ():
        if path.stem in ids or _is_locked(path):
            continue
        for replay in reversed(list(_replays(path))):
            empty = replay.base == _mark(Place(None, 0), "")
            typed = replay.applied("") if empty else None
            if typed is not None and typed[0]:
                out.append(Orphan(path, path.stem, *typed, path.lstat().st_mtime))
                break
    return sorted(out, key=lambda orphan: -orphan.modified)


@contextmanager
def claimed(orphan: Orphan) -> Iterator[bool]:
    """A context in which this program alone has an orphan's draft, and after which its file is
    deleted, unless an exception ended it. Yields False if another program was faster.
    """
    try:
        fd = open_regular(orphan.path)
    except (OSError, Trouble):
        yield False
        return
    try:
        lock(fd)
        free = orphan.path.exists()
    except OSError:
        free = False
    try:
        yield free
    except BaseException:
        os.close(fd)
        raise
    if free:
        remove_and_close(fd, orphan.path)
    else:
        os.close(fd)


def _is_locked(path: Path) -> bool:
    try:
        fd = open_regular(path)
    except (OSError, Trouble):
        return True
    try:
        lock(fd, shared=True)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
