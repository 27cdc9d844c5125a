"""The thread that brings blocks of keys and values to the disk.

Law: a file appears whole or not at all, and nothing but it is left; what cannot be written costs
one line in the log, and nothing else. No torch here: a daemon thread must not die inside of it.
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

SPARE: Final = 1 << 30
SPARE_SHARE: Final = 0.05
"""So many bytes of the disk, or this share of a small one, stay free for everybody else."""
SLICE: Final = 1 << 20
"""Bytes written between two looks at the time: a block of a large model takes a while."""
ASK_EVERY: Final = 0.05
"""Seconds between two looks at whether somebody who waits still wants to."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Keys and values on their way to the disk; `used` is when they were of use, in nanoseconds."""

    parent: str
    own: str
    ids: list[int]
    data: memoryview
    used: int


class _Late(Exception):
    """There is no time left to write this."""


class _Full(Exception):
    """What stands in the way of this was of use more recently."""


class Writer:
    """Writes blocks below `top`, within `budget` bytes over all models there."""

    def __init__(self, top: Path, place: block_file.Place, budget: int) -> None:
        self.broken = False
        self._top, self._place, self._budget = top, place, budget
        self._changed = threading.Condition()
        self._waiting: list[Block] = []
        self._deadline = 0.0
        self._closed = False
        self._thread: threading.Thread | None = None

    def names(self) -> set[tuple[str, str]]:
        """Parents and names of what is on its way."""
        with self._changed:
            return {(block.parent, block.own) for block in self._waiting}

    def size(self) -> int:
        """How many bytes are on their way."""
        with self._changed:
            return sum(len(block.data) for block in self._waiting)

    def put(self, block: Block) -> None:
        """Write it soon."""
        with self._changed:
            if self.broken or self._closed:
                return
            self._waiting.append(block)
            self._changed.notify_all()
            if self._thread is None:
                thread = threading.Thread(target=self._serve, name="archive", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    self._give_up(str(error))
                    return
                self._thread = thread

    def wait(self, seconds: float, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until all is written; False when it is not by then, or somebody said stop."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._waiting:
                left = end - time.monotonic()
                if left <= 0 or stopped():
                    return False
                self._changed.wait(min(left, ASK_EVERY))
        return True

    def close(self, seconds: float) -> None:
        """Write what can be written within `seconds`, and end."""
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
                held = sum(each.bytes for each in block_file.everything(paths.made(self._top)))
                for block in batch:
                    held = self._room_made(held, block) + len(block.data)
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

    def _batch(self) -> list[Block]:
        """What waits, as soon as something does; nothing when that was all."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return list(self._waiting)

    def _pass_over(self, batch: list[Block]) -> None:
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

    def _room_made(self, held: int, block: Block) -> int:
        """Delete what was of no use the longest, so that `block` beside the `held` bytes fits into
        the budget and the disk keeps what it must; how many are held then. OSError where the disk
        has not so much, `_Full` where only what is as new could go.
        """
        wanted = len(block.data)
        disk = shutil.disk_usage(self._top)
        spare = min(SPARE, int(disk.total * SPARE_SHARE))
        room = min(self._budget, held + disk.free - spare)
        if room < wanted:
            raise OSError(errno.ENOSPC, "the disk has too little room left")
        if held + wanted <= room:
            return held
        held = block_file.trimmed(self._top, room - wanted, before=block.used)
        if held + wanted > room:
            raise _Full
        return held

    def _write(self, block: Block) -> None:
        file = self._place.file(block.parent, block.own)
        mark = f".{os.getpid()}.{threading.get_native_id()}.partial"
        partial = file.with_suffix(mark)
        try:
            with os.fdopen(_created(partial), "wb", buffering=0) as stream:
                self._pour(
                    stream.write, block_file.front(self._place, block.parent, block.ids, block.data)
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

    def _supersede(self, block: Block) -> None:
        """Delete the blocks that are only the beginning of this one."""
        for own in self._place.blocks().get(block.parent, set()) - {block.own}:
            older = self._place.file(block.parent, own)
            with suppress(OSError, block_file.Unusable):
                ids = block_file.ids_in(self._place, older)
                if ids == block.ids[: len(ids)]:
                    older.unlink()


def _created(file: Path) -> int:
    """A new file's descriptor. Another process may delete the folder, empty as it is, between its
    making and the file's: then once more.
    """

    def create() -> int:
        paths.made(file.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(file, flags, 0o600)

    try:
        return create()
    except (FileNotFoundError, NotADirectoryError):
        return create()
