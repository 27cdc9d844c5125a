"""Files of KV blocks: their names, their format, and which are deleted first (LRU).

Law: a file is used only if its checksum, ids and name agree; anything else raises `DamagedBlock`.
Only files of these names are deleted. No torch here, since commands list and delete blocks too.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from qwen_tui.portable_os import is_ours, open_plain, process_runs

VERSION: Final = 1
"""Of the file format and of how block names are derived; files of another version are not used."""
MODEL_NAME_LENGTH: Final = 40
"""Characters of the model's name that its folder of blocks is named by."""
ROOT: Final = "0" * 20
"""The parent of a text's first block."""

_MAGIC: Final = b"qtui-kv\0"
_HEAD: Final = struct.Struct("<8sI24s20sIQI")
"""Magic, version, fingerprint, parent, how many ids, bytes of keys and values, their checksum."""
_SUM: Final = struct.Struct("<I")
_MOST_IDS: Final = 1 << 16
_MODEL: Final = re.compile(r"(?P<model>.+)-[0-9a-f]{24}", re.DOTALL)
_BLOCK: Final = re.compile(r"(?P<parent>[0-9a-f]{20})-(?P<own>[0-9a-f]{20})\.kv")
_PARTIAL: Final = re.compile(r"[0-9a-f]{20}-[0-9a-f]{20}\.(?P<writer>\d+)\.\d+\.partial")


class DamagedBlock(Exception):
    """A file that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class BlockFolder:
    """The folder of the blocks of one fingerprint; `position_bytes` is the size of one position."""

    path: Path
    fingerprint: str
    position_bytes: int

    @classmethod
    def of(cls, top: Path, model: str, fingerprint: str, position_bytes: int) -> BlockFolder:
        """The folder below `top` of the model of that name."""
        return cls(top / f"{model[:MODEL_NAME_LENGTH]}-{fingerprint}", fingerprint, position_bytes)

    def file(self, parent: str, own: str) -> Path:
        """A block's file."""
        return self.path / f"{parent}-{own}.kv"

    def blocks(self) -> dict[str, set[str]]:
        """The blocks that are there, by parent."""
        found: dict[str, set[str]] = {}
        with suppress(OSError):
            for file in self.path.iterdir():
                if named := _BLOCK.fullmatch(file.name):
                    found.setdefault(named["parent"], set()).add(named["own"])
        return found


@dataclass(frozen=True, slots=True)
class BlockFile:
    """One file; `used` is when it was last used, in nanoseconds since the epoch."""

    path: Path
    model: str
    bytes: int
    used: int


# -- one block -------------------------------------------------------------------------------------


def chained(parent: str, ids: Sequence[int]) -> str:
    """The name of the block of `ids` after the block `parent`: a hash of all ids up to its end, on
    which its keys and values depend.
    """
    return hashlib.sha256(parent.encode() + _packed(ids)).hexdigest()[:20]


def header(folder: BlockFolder, parent: str, ids: Sequence[int], data: memoryview) -> bytes:
    """The bytes of a file before its keys and values."""
    fields = (folder.fingerprint.encode(), parent.encode(), len(ids), len(data), zlib.crc32(data))
    head = _HEAD.pack(_MAGIC, VERSION, *fields) + _packed(ids)
    return head + _SUM.pack(zlib.crc32(head))


def ids_in(folder: BlockFolder, path: Path) -> list[int]:
    """The ids of a block; raises `DamagedBlock`, or OSError where it cannot be read."""
    with _opened(path) as stream:
        return _checked(stream, folder, path)[0]


def read(folder: BlockFolder, path: Path) -> tuple[list[int], bytearray]:
    """The ids of a block, and its keys and values; raises as `ids_in`.

    Read, not mapped: touching a map of a file that was truncated meanwhile kills the process.
    """
    with _opened(path) as stream:
        ids, checksum = _checked(stream, folder, path)
        data = bytearray(len(ids) * folder.position_bytes)
        if stream.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise DamagedBlock("it is cut short")
        if zlib.crc32(data) != checksum:
            raise DamagedBlock("its checksum differs")
    return ids, data


def _opened(path: Path) -> BinaryIO:
    """The opened file; raises unless it is a plain file of this user, no link or pipe."""
    try:
        descriptor = open_plain(path, os.O_RDONLY)
    except OSError:
        if path.is_symlink():
            raise DamagedBlock("it is a link") from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or not is_ours(status):
        os.close(descriptor)
        raise DamagedBlock("it is no plain file of this user")
    return os.fdopen(descriptor, "rb")


def _checked(stream: BinaryIO, folder: BlockFolder, path: Path) -> tuple[list[int], int]:
    """The ids of a block, and the checksum its keys and values must have."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise DamagedBlock("it is cut short")
    magic, version, fingerprint, raw_parent, count, size, checksum = _HEAD.unpack(head)
    parent = raw_parent.decode("ascii", "replace")
    if magic != _MAGIC or version != VERSION or fingerprint != folder.fingerprint.encode():
        raise DamagedBlock("it is of another kind or model")
    if not 0 < count <= _MOST_IDS or size != count * folder.position_bytes:
        raise DamagedBlock("its sizes make no sense")
    tail = stream.read(4 * count + _SUM.size)
    ids_end = _HEAD.size + 4 * count
    if os.fstat(stream.fileno()).st_size != ids_end + _SUM.size + size:
        raise DamagedBlock("it has not the length it should have")
    head += tail[: 4 * count]
    if len(head) != ids_end or zlib.crc32(head) != _SUM.unpack(tail[4 * count :])[0]:
        raise DamagedBlock("its head is damaged")
    ids = list(struct.unpack(f"<{count}I", head[_HEAD.size :]))
    if path != folder.file(parent, chained(parent, ids)):
        raise DamagedBlock("its name is not its own")
    return ids, checksum


def _packed(ids: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(ids)}I", *ids)


# -- all of them -----------------------------------------------------------------------------------


def everything(top: Path) -> Iterator[BlockFile]:
    """Every block of every model."""
    for folder, model in _folders(top):
        for name, status in _plain_files(folder):
            if _BLOCK.fullmatch(name):
                yield BlockFile(folder / name, model, status.st_size, status.st_mtime_ns)


def trimmed(top: Path, room: int, before: int | None = None) -> int:
    """Delete the least recently used files until the rest fits into `room` bytes; returns the size
    of the rest. Files used at `before` (nanoseconds) or later are kept.
    """
    found = sorted(everything(top), key=lambda each: each.used)
    total = sum(each.bytes for each in found)
    for each in found:
        if total <= room or (before is not None and each.used >= before):
            break
        delete([each])
        total -= each.bytes
    return total


def delete(files: Iterable[BlockFile]) -> int:
    """Delete files, and folders that are empty then; returns how many bytes were freed."""
    freed = 0
    for each in files:
        with suppress(OSError):
            each.path.unlink()
            freed += each.bytes
        with suppress(OSError):
            each.path.parent.rmdir()
    return freed


def sweep(top: Path) -> None:
    """Delete the temporary files of processes that have ended."""
    for folder, _ in _folders(top):
        for name, _ in _plain_files(folder):
            named = _PARTIAL.fullmatch(name)
            if named and not process_runs(int(named["writer"])):
                with suppress(OSError):
                    (folder / name).unlink()


def _folders(top: Path) -> Iterator[tuple[Path, str]]:
    with suppress(OSError):
        for folder in sorted(top.iterdir()):
            named = _MODEL.fullmatch(folder.name)
            if named and not folder.is_symlink():
                yield folder, named["model"]


def _plain_files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_file(follow_symlinks=False):
                    yield entry.name, entry.stat(follow_symlinks=False)
