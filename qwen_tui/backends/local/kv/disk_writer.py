"""The thread that writes KV blocks to disk.

Law: a file is written whole or not at all, and no temporary file is left; a failed write costs one
line in the log. No torch here: a daemon thread must not be inside it when the process ends.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qwen_tui import paths
from qwen_tui.backends.local.kv import block_file
from qwen_tui.portable_os import open_plain

SPARE: Final = 1 << 30
SPARE_SHARE: Final = 0.05
"""Bytes of the disk, or share of a small one, that are left free."""
SLICE: Final = 1 << 20
"""Bytes written between two checks of the time: a block of a large model takes a while."""
POLL_S: Final = 0.05
"""Seconds between two checks of whether a wait was cancelled."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class QueuedBlock:
    """Keys and values to be written; `used` is when they were last used, in nanoseconds."""

    parent: str
    own: str
    ids: list[int]
    data: memoryview
    used: int


class _Late(Exception):
    """The program is ending and there is no time left for this block."""


class _Full(Exception):
    """No room: the remaining blocks were used more recently than this one."""


class BlockWriter:
    """Writes blocks below `top`, within `budget` bytes over all models there."""

    def __init__(self, top: Path, folder: block_file.BlockFolder, budget: int) -> None:
        self.broken = False
        self._top, self._folder, self._budget = top, folder, budget
        self._changed = threading.Condition()
        self._waiting: list[QueuedBlock] = []
        self._deadline = 0.0
        self._closed = False
        self._thread: threading.Thread | None = None

    def names(self) -> set[tuple[str, str]]:
        """Parent and name of every block not yet written."""
        with self._changed:
            return {(block.parent, block.own) for block in self._waiting}

    def size(self) -> int:
        """Bytes of all blocks not yet written."""
        with self._changed:
            return sum(len(block.data) for block in self._waiting)

    def put(self, block: QueuedBlock) -> None:
        """Queue a block to be written."""
        with self._changed:
            if self.broken or self._closed:
                return
            self._waiting.append(block)
            self._changed.notify_all()
            if self._thread is None:
                thread = threading.Thread(target=self._serve, name="kv-writer", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    self._give_up(str(error))
                    return
                self._thread = thread

    def wait(self, seconds: float, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until everything is written; False if `seconds` pass or `stopped` returns True
        first.
        """
        end = time.monotonic() + seconds
        with self._changed:
            while self._waiting:
                left = end - time.monotonic()
                if left <= 0 or stopped():
                    return False
                self._changed.wait(min(left, POLL_S))
        return True

    def close(self, seconds: float) -> None:
        """Write what can be written within `seconds`, and end the thread."""
        with self._changed:
            self._closed = True
            self._deadline = time.monotonic() + seconds
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    # -- on the thread -----------------------------------------------------------------------------

    def _serve(self) -> None:
        while batch := self._batch():
            try:
                stored = sum(
                    each.bytes for each in block_file.everything(paths.ensure_folder(self._top))
                )
                for block in batch:
                    stored = self._make_room(stored, block) + len(block.data)
                    self._write(block)
                    with self._changed:
                        self._waiting.remove(block)
                        self._changed.notify_all()
            except _Late:
                self._give_up()
            except _Full:
                self._pass_over(batch)
            except OSError as error:
                self._give_up(error.strerror or str(error))
            except MemoryError:
                self._give_up("memory ran out")

    def _batch(self) -> list[QueuedBlock]:
        """Wait for blocks and return all that are queued; empty when closed and all are written."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return list(self._waiting)

    def _pass_over(self, batch: list[QueuedBlock]) -> None:
        with self._changed:
            self._waiting = [block for block in self._waiting if block not in batch]
            self._changed.notify_all()

    def _give_up(self, why: str = "") -> None:
        if why:
            log.warning("long texts are no longer kept on disk: %s", why)
        with self._changed:
            self.broken = True
            self._waiting.clear()
            self._changed.notify_all()

    def _make_room(self, stored: int, block: QueuedBlock) -> int:
        """Delete the least recently used blocks until `block` fits beside the `stored` bytes,
        within the budget and the disk's free space; returns the bytes stored then. OSError if the
        disk is too full, `_Full` if the rest was used more recently.
        """
        wanted = len(block.data)
        disk = shutil.disk_usage(self._top)
        spare = min(SPARE, int(disk.total * SPARE_SHARE))
        room = min(self._budget, stored + disk.free - spare)
        if room < wanted:
            raise OSError(errno.ENOSPC, "the disk has too little room left")
        if stored + wanted <= room:
            return stored
        stored = block_file.trimmed(self._top, room - wanted, before=block.used)
        if stored + wanted > room:
            raise _Full
        return stored

    def _write(self, block: QueuedBlock) -> None:
        file = self._folder.file(block.parent, block.own)
        mark = f".{os.getpid()}.{threading.get_native_id()}.partial"
        partial = file.with_suffix(mark)
        try:
            with os.fdopen(_created(partial), "wb", buffering=0) as stream:
                self._pour(
                    stream.write,
                    block_file.header(self._folder, block.parent, block.ids, block.data),
                )
                self._pour(stream.write, block.data)
                os.fsync(stream.fileno())
            os.utime(partial, ns=(block.used, block.used))
            partial.replace(file)
        finally:
            with suppress(FileNotFoundError):
                partial.unlink()
        self._supersede(block)

    def _pour(self, write: Callable[[memoryview], int | None], data: bytes | memoryview) -> None:
        view = memoryview(data)
        while len(view):
            if self._closed and time.monotonic() > self._deadline:
                raise _Late
            view = view[write(view[:SLICE]) or 0 :]

    def _supersede(self, block: QueuedBlock) -> None:
        """Delete blocks that are a prefix of this one."""
        for own in self._folder.blocks().get(block.parent, set()) - {block.own}:
            older = self._folder.file(block.parent, own)
            with suppress(OSError, block_file.DamagedBlock):
                ids = block_file.ids_in(self._folder, older)
                if ids == block.ids[: len(ids)]:
                    older.unlink()


def _created(file: Path) -> int:
    """The descriptor of a new file; its folder is created again if another process deletes it while
    it is empty.
    """

    def create() -> int:
        paths.ensure_folder(file.parent)
        return open_plain(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    try:
        return create()
    except (FileNotFoundError, NotADirectoryError):
        return create()
