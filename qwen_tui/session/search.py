"""Full-text search over the session files, through a disposable index in the cache.

Law: the index may be deleted at any time; without a usable one the files are read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qwen_tui.paths import ensure_folder, search_index
from qwen_tui.session.library import files
from qwen_tui.session.loader import load
from qwen_tui.session.session import Session
from qwen_tui.types import Trouble, text_of

VERSION: Final = 1
AROUND: Final = 40
_GRAM = 3


@dataclass(frozen=True, slots=True)
class Hit:
    """One match: the session, the node ("" for the title), the match and the text around it.
    Untrusted text: show it through `visible`.
    """

    path: Path
    title: str
    node: str
    before: str
    match: str
    after: str


def search(
    words: str, folder: Path | None = None, *, limit: int = 100, index: Path | None = None
) -> list[Hit]:
    """The matches of `words`, ignoring letter case, newest session first; one per node."""
    if not words:
        return []
    found = files(folder)
    try:
        rows = _indexed(words, found, limit, search_index() if index is None else index)
    except (sqlite3.Error, OSError):
        rows = _scanned(words, found, limit)
    return [_hit(*row, words) for row in rows]


def _hit(path: str, title: str, node: str, body: str, words: str) -> Hit:
    low = body.lower()
    at = low.find(words.lower())
    if at < 0 or len(low) != len(body):
        at = max(0, body.find(words))
    stop = at + len(words)
    return Hit(
        Path(path),
        title,
        node,
        body[max(0, at - AROUND) : at],
        body[at:stop],
        body[stop : stop + AROUND],
    )


def _texts(path: Path) -> tuple[str, list[tuple[str, str]]]:
    """The title, with node "", and (node, text) of every visible node."""
    session = Session()
    try:
        for entry in load(path):
            session.apply(entry)
    except (Trouble, OSError):
        return "", []
    texts = [
        (node.id, text_of(node.tokens))
        for node in session.tree.nodes.values()
        if node.tokens and not node.hidden
    ]
    return session.title, [("", session.title), *texts]


def _scanned(words: str, found: list[Path], limit: int) -> list[tuple[str, str, str, str]]:
    wanted = words.lower()

    def rows() -> Iterator[tuple[str, str, str, str]]:
        for path in found:
            title, texts = _texts(path)
            for node, body in texts:
                if wanted in body.lower():
                    yield str(path), title, node, body

    return [row for row, _ in zip(rows(), range(limit), strict=False)]


def _indexed(
    words: str, found: list[Path], limit: int, place: Path
) -> list[tuple[str, str, str, str]]:
    ensure_folder(place.parent)
    try:
        return _query(words, found, limit, place)
    except sqlite3.DatabaseError:
        # Damaged, or another version's: it is rebuilt from the files.
        place.unlink(missing_ok=True)
        return _query(words, found, limit, place)


def _query(
    words: str, found: list[Path], limit: int, place: Path
) -> list[tuple[str, str, str, str]]:
    with closing(sqlite3.connect(place, timeout=2.0)) as base:
        place.chmod(0o600)
        _prepare(base)
        _refresh(base, found)
        if len(words) >= _GRAM:
            condition, value = "body MATCH ?", '"' + words.replace('"', '""') + '"'
        else:
            condition, value = "instr(lower(body), lower(?)) > 0", words
        rows = base.execute(
            f"SELECT path, title, node, body FROM texts JOIN files USING (path) WHERE {condition}",
            (value,),
        ).fetchall()
    order = {str(path): place for place, path in enumerate(found)}
    kept = [row for row in rows if row[0] in order]
    return sorted(kept, key=lambda row: order[row[0]])[:limit]


def _prepare(base: sqlite3.Connection) -> None:
    version = base.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        with base:
            base.executescript(
                "DROP TABLE IF EXISTS files; DROP TABLE IF EXISTS texts;"
                "CREATE TABLE files (path TEXT PRIMARY KEY, size INT, changed INT, title TEXT);"
                "CREATE VIRTUAL TABLE texts USING fts5"
                "(path UNINDEXED, node UNINDEXED, body, tokenize='trigram');"
                f"PRAGMA user_version = {VERSION};"
            )


def _refresh(base: sqlite3.Connection, found: list[Path]) -> None:
    """Read files again that changed since they were indexed; entries of other folders are kept."""
    known = {
        path: (size, at) for path, size, at in base.execute("SELECT path, size, changed FROM files")
    }
    for path in found:
        try:
            now = path.lstat()
        except OSError:
            continue
        key = (now.st_size, now.st_mtime_ns)
        if known.get(str(path)) == key:
            continue
        title, texts = _texts(path)
        with base:
            base.execute("DELETE FROM texts WHERE path = ?", (str(path),))
            base.execute("REPLACE INTO files VALUES (?, ?, ?, ?)", (str(path), *key, title))
            base.executemany(
                "INSERT INTO texts VALUES (?, ?, ?)",
                ((str(path), node, body) for node, body in texts),
            )
    for path_text in known:
        if not Path(path_text).exists():
            with base:
                base.execute("DELETE FROM texts WHERE path = ?", (path_text,))
                base.execute("DELETE FROM files WHERE path = ?", (path_text,))
