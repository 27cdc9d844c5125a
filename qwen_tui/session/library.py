"""The library: the session files of this machine, listed, found by name, renamed, removed.

Law: reading changes nothing; `trash` moves a file, and only `purge` deletes one (the caller asks
first). Needs no model.
"""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from qwen_tui.journal import MAX_LINE, read
from qwen_tui.paths import ensure_folder, expanded, search_index, sessions_dir, trash_dir
from qwen_tui.session import drafts
from qwen_tui.session.identity import created, id_of, is_session, ulid
from qwen_tui.session.loader import Report, SessionLoader, load, open_regular
from qwen_tui.session.opening import OpenSession, lock_file, new_store, open_session
from qwen_tui.session.session import Session
from qwen_tui.session.session_file import Taken
from qwen_tui.session.state import MOST_TAGS, MOST_TITLE
from qwen_tui.session.tree import FOLDED
from qwen_tui.types import (
    NO_INPUT,
    TEMPORARY,
    USAGE,
    Added,
    Environment,
    Head,
    Titled,
    Trouble,
)

FRONT: Final = 64 * 1024
BACK: Final = 8 * 1024 * 1024
"""Bytes at a file's beginning and end that are read to list it."""
CHUNK: Final = 1024 * 1024
PREVIEW: Final = 200
"""Most characters of a text in a list."""
TRIES: Final = 100
"""Invalid `meta` records that are skipped to list a file."""
_META: Final = b'\n{"k":"meta"'
ADOPT_S: Final = 5.0
"""Most seconds spent on saving typing left by a killed program."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One session file as a list shows it. Times are Unix seconds; `preview` is the beginning of
    its first text, `model` that of its first completion ("": unknown). Titles, previews and models
    are untrusted text: show them through `visible`.
    """

    path: Path
    id: str
    title: str
    tags: tuple[str, ...]
    created: float
    modified: float
    size: int
    preview: str
    model: str = ""


def _front(file: BinaryIO) -> tuple[Head | None, str, str]:
    """The head, the beginning of the first visible text, and the model's name, from the first
    lines.
    """
    head, preview, model = None, "", ""
    for raw in file.read(FRONT).split(b"\n"):
        entry = read(raw).entry
        if isinstance(entry, Head):
            head = head or entry
        elif isinstance(entry, Added) and not preview and entry.role not in FOLDED:
            preview = entry.text[:PREVIEW] if entry.text.strip() else ""
        elif isinstance(entry, Environment):
            model = entry.model_name[:MOST_TITLE]
            break
    return head, preview, model


def _last_title(file: BinaryIO, size: int) -> Titled | None:
    """The newest `meta` record in the last `BACK` bytes that begins a line."""
    stop, overlap, tries = size, b"", TRIES
    while tries and stop > max(0, size - BACK):
        start = max(0, stop - CHUNK)
        file.seek(start)
        chunk = file.read(stop - start) + overlap
        at = len(chunk)
        while tries and (at := chunk.rfind(_META, 0, at)) >= 0:
            tries -= 1
            file.seek(start + at + 1)
            entry = read(file.readline(MAX_LINE + 2)).entry
            if isinstance(entry, Titled):
                return entry
        stop, overlap = start, chunk[: len(_META) - 1]
    return None


def listing(path: Path) -> Listing:
    """What a list shows of one file; reads only its beginning and end. Raises Trouble, OSError."""
    with os.fdopen(open_regular(path), "rb") as file:
        found = os.fstat(file.fileno())
        head, preview, model = _front(file)
        titled = _last_title(file, found.st_size)
    id = (head.id if head is not None else "") or id_of(path)
    title = titled.title if titled is not None else head.title if head is not None else ""
    tags = titled.tags[:MOST_TAGS] if titled is not None else ()
    return Listing(
        path,
        id[:MOST_TITLE],
        title[:MOST_TITLE],
        tuple(tag[:MOST_TITLE] for tag in tags),
        created(id) or found.st_mtime,
        found.st_mtime,
        found.st_size,
        preview,
        model,
    )


def files(folder: Path | None = None) -> list[Path]:
    """The session files of a folder (default: ours), newest name first."""
    place = sessions_dir() if folder is None else folder
    if not place.is_dir():
        return []
    found = (path for path in place.glob("*.jsonl") if not path.name.startswith("."))
    return sorted(found, key=lambda path: path.name, reverse=True)


def list_sessions(folder: Path | None = None) -> list[Listing]:
    """All sessions of a folder, last used first; unreadable ones are left out."""
    out = []
    for path in files(folder):
        try:
            out.append(listing(path))
        except (OSError, Trouble):
            continue
    return sorted(out, key=lambda entry: entry.modified, reverse=True)


def resolve(name: str, folder: Path | None = None) -> Path:
    """The file that SESSION means: a path, an id or its unique prefix, or a title. A session of
    that name takes precedence over another file of that name here.

    Raises Trouble if there is none or several, naming the nearest.
    """
    path = expanded(name)
    lies_here = os.path.lexists(path) and not path.is_dir()
    if lies_here and (os.sep in name or is_session(path)):
        return path
    if not name or os.sep in name:
        raise Trouble(f"there is no session file {name!r}", code=NO_INPUT)
    found = files(folder)
    if exact := [each for each in found if name in (each.name, each.stem)]:
        return exact[0]
    by_id = [each for each in found if id_of(each).startswith(name.upper())]
    if len(by_id) == 1:
        return by_id[0]
    plain = [each for each in by_id if "." not in each.stem]
    if len(name) == 26 and len(plain) == 1:
        return plain[0]
    listed = list_sessions(folder)
    titled = [each for each in listed if each.title.casefold() == name.casefold()]
    if len(titled) == 1:
        return titled[0].path
    if several := [each.name for each in by_id] or [each.path.name for each in titled]:
        some = ", ".join(several[:4]) + (", …" if len(several) > 4 else "")
        raise Trouble(
            f"{name!r} means {len(several)} sessions", hint=f"say which: {some}", code=USAGE
        )
    if lies_here:
        return path
    words = [each.title for each in listed if each.title] + [each.id for each in listed]
    near = difflib.get_close_matches(name, words, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "see them with: qwen-tui sessions list"
    raise Trouble(f"there is no session {name!r}", hint=hint, code=NO_INPUT)


def adopt_orphans(*, app: str = "") -> list[Path]:
    """Turn typing that killed programs left in sessions without a file into sessions; returns their
    files, newest first.
    """
    found = []
    for orphan in drafts.orphans(id_of(path) for path in files()):
        with drafts.claimed(orphan) as free:
            if free:
                session = Session.new(app=app)
                store = new_store(session)
                session.commit(orphan.text)
                if not store.close(ADOPT_S):
                    raise Trouble("what was typed before could not be saved", hint=str(store.path))
                found.append(store.path)
    return found


def fork(
    session: Session,
    *,
    title: str = "",
    typed: str | None = None,
    clock: Callable[[], float] = time.time,
) -> Session:
    """A new session with all entries of another one, and with text that was `typed` over its
    document but not committed. Save it with `new_store`.
    """
    random = int.from_bytes(os.urandom(10), "big")
    head = Head(
        ulid(int(clock() * 1000), random),
        title=title or (f"{session.title} (fork)" if session.title else ""),
        app=session.app,
    )
    copy = Session(vocab=session.vocab)
    copy.apply(head)
    for entry in list(session.entries):
        if isinstance(entry, Titled):
            entry = replace(entry, title=head.title)
        if not isinstance(entry, Head):
            copy.apply(entry)
    if typed is not None:
        copy.commit_typing(typed)
    return copy


def for_file(file: Path, folder: Path | None = None) -> Path | None:
    """The session last used on a text file: one whose title is the file's name and whose values
    (`Session.remember`) name its absolute path. None if there is none.
    """
    for each in list_sessions(folder):
        if each.title == file.name:
            session = Session()
            for entry in load(each.path):
                session.apply(entry)
            if session.remembered.get("file") == str(file.absolute()):
                return each.path
    return None


def verify(path: Path) -> Report:
    """Read every line of a file; `report.sound` False means exit 65. Raises Trouble."""
    loader = SessionLoader()
    for _ in load(path, loader):
        pass
    return loader.finish()


# -- changing --------------------------------------------------------------------------------------


def rename(
    path: Path, title: str, tags: Iterable[str] | None = None, *, opened: OpenSession | None = None
) -> None:
    """Give a session a title, by a `meta` record; the file keeps its name. `opened` is this
    program's open session: if `path` is its file, it is renamed through it. Raises Trouble.
    """
    kept = None if tags is None else tuple(tags)
    if opened is not None and opened.holds(path):
        opened.session.rename(title, kept)
        return
    other = open_session(path)
    try:
        if other.store is None:
            raise Trouble(f"cannot rename: {other.read_only}", code=TEMPORARY)
        other.session.rename(title, kept)
    finally:
        saved = other.close()
    if not saved and other.store is not None:
        raise Trouble(f"cannot rename: {other.store.state.reason}", code=TEMPORARY)


def trash(path: Path, *, opened: OpenSession | None = None) -> Path:
    """Move a session file to the trash; returns its new path.

    `opened` is this program's open session: if `path` is its file it is closed, and the caller
    opens another one. Raises Trouble if the file is open in another program or could not be saved
    completely.
    """
    if opened is not None and opened.holds(path) and not opened.close(committed=True):
        assert opened.store is not None
        raise Trouble(f"not all of it is saved: {opened.store.state.reason}", code=TEMPORARY)
    locked, why = lock_file(path)
    if isinstance(why, Taken):
        raise why
    try:
        place = ensure_folder(trash_dir())
        target, number = place / path.name, 1
        while os.path.lexists(target):
            target = place / f"{path.stem}.{number}{path.suffix}"
            number += 1
        _move(path, target)
    finally:
        if locked is not None:
            locked.close()
    return target


def _move(path: Path, target: Path) -> None:
    try:
        path.rename(target)
    except OSError as error:
        raise Trouble(f"{path.name} cannot be moved: {error.strerror}") from error


def trashed() -> list[Path]:
    """The session files in the trash."""
    return files(trash_dir())


def list_trash() -> list[Listing]:
    """The sessions in the trash as a list shows them, last used first."""
    return list_sessions(trash_dir())


def restore(path: Path) -> Path:
    """Move a session file out of the trash; returns its new path. Raises Trouble if it is not in
    the trash or its name is taken.
    """
    if path.parent.resolve() != trash_dir().resolve():
        raise Trouble(f"{path} is not in the trash", code=USAGE)
    target = ensure_folder(sessions_dir()) / path.name
    if os.path.lexists(target):
        raise Trouble(f"there is a session {path.name} already")
    _move(path, target)
    return target


def purge(paths: Iterable[Path] | None = None) -> int:
    """Delete session files from the trash (default: all of them); returns how many. The only place
    where a session's bytes are deleted: ask first.
    """
    place = trash_dir()
    count = 0
    for path in trashed() if paths is None else paths:
        if path.parent.resolve() != place.resolve():
            raise Trouble(f"{path} is not in the trash", code=USAGE)
        path.unlink()
        count += 1
    # The index has their text too; it is rebuilt from the remaining files.
    search_index().unlink(missing_ok=True)
    return count
