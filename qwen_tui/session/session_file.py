"""A session's file on disk: its name, its lock, appending whole lines to it.

Law: an existing byte is never overwritten, truncated or deleted, and a file is never replaced by
another.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from qwen_tui.portable_os import lock, open_plain, read_at, sync_folder
from qwen_tui.session.loader import open_regular
from qwen_tui.types import TEMPORARY, Trouble

_RENAMED = re.compile(r"\.(?:conflict|rescue)-\d+$")


class Taken(Trouble):
    """Another process has the session's lock: follow it, or fork the session."""


def slug(title: str) -> str:
    """A title as a part of a file's name: ASCII words joined by "-", at most 40 characters."""
    words = re.findall(r"[a-z0-9]+", title.lower())
    text = ""
    for word in words:
        if len(text) + 1 + len(word) > 40:
            break
        text = f"{text}-{word}" if text else word
    return text or (words[0][:40] if words else "session")


def free_name(path: Path, kind: str) -> Path:
    """The first free name `STEM.KIND-n.jsonl` in the same folder; kind is conflict or rescue."""
    stem = _RENAMED.sub("", path.stem)
    number = 1
    while (there := path.with_name(f"{stem}.{kind}-{number}.jsonl")).exists():
        number += 1
    return there


def file_name(id: str, title: str = "") -> str:
    """`<ULID>-<slug>.jsonl`; without a title the store adds the slug of the first text."""
    return f"{id}-{slug(title)}.jsonl" if title else f"{id}.jsonl"


def _sync(fd: int) -> None:
    """Sync; the file's bytes and length are on disk when it returns."""
    getattr(os, "fdatasync", os.fsync)(fd)


def _lock(fd: int, path: Path) -> None:
    """Take the lock or raise Taken; on a file system without locks do nothing."""
    try:
        lock(fd)
    except BlockingIOError as error:
        raise Taken(
            f"{path.name} is open elsewhere",
            hint="it opens read-only here; fork it to go on",
            code=TEMPORARY,
        ) from error


class SessionFile:
    """An open, locked, append-only file. `size` is its expected size, `torn` whether its last line
    lacks its line feed.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path
        found = os.fstat(fd)
        self.size = found.st_size
        self._inode = (found.st_dev, found.st_ino)
        self.torn = self.size > 0 and read_at(fd, 1, self.size - 1) != b"\n"

    @classmethod
    def open_locked(cls, path: Path) -> SessionFile:
        """Open an existing file for appending and take its lock; nothing is written.

        Raises Taken, Trouble (not a regular file of ours), OSError (permissions, read-only disk).
        """
        fd = open_regular(path, os.O_RDWR | os.O_APPEND)
        try:
            _lock(fd, path)
            return cls(fd, path)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def create(cls, path: Path) -> SessionFile:
        """Create a new file, mode 0600, locked, its directory synced. Raises OSError."""
        fd = open_plain(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        try:
            _lock(fd, path)
            _sync(fd)
            sync_folder(path.parent)
            return cls(fd, path)
        except BaseException:
            os.close(fd)
            raise

    def untouched(self) -> bool:
        """Whether the path still names this file, with the expected size."""
        try:
            found = self.path.lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._inode and found.st_size == self.size

    def append(self, data: bytes) -> int:
        """One write of whole lines, begun on a fresh line; returns how many bytes of `data` were
        written.
        """
        lead = b"\n" if self.torn else b""
        written = os.write(self.fd, lead + data)
        self.size += written
        if written:
            self.torn = (lead + data)[written - 1 : written] != b"\n"
        return max(0, written - len(lead))

    def append_all(self, data: bytes) -> None:
        """All of `data`, in as many writes as it takes."""
        while data:
            written = os.write(self.fd, data)
            self.size += written
            data = data[written:]

    def sync(self) -> None:
        """fdatasync. Raises OSError: the descriptor must not be used again then."""
        _sync(self.fd)

    def close(self) -> None:
        """Release the lock and close."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def publish(temporary: Path, path: Path) -> Path:
    """Give a finished file its name, or a free one in the same folder, without replacing any. The
    directory is synced when it returns.
    """
    while True:
        try:
            os.link(temporary, path)
            temporary.unlink()
        except FileExistsError:
            path = free_name(path, "rescue")
            continue
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            # No hard links on this file system: the name was free a moment ago.
            temporary.rename(path)
        sync_folder(path.parent)
        return path


def reason_of(error: OSError) -> str:
    """Why a write failed, for a person."""
    words = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the disk is read-only",
        errno.EACCES: "no permission to write",
        errno.EPERM: "no permission to write",
        errno.EIO: "the disk reports an I/O error",
    }
    return words.get(error.errno or 0, error.strerror or str(error))
