"""The store: one thread that appends a session's entries to its file and reports when they are
safe.

Law: no byte of a session file is ever truncated, rewritten or deleted; `saved` is true only after
fdatasync returned; while saving fails, everything stays in memory and the reason is reported.
"""

from __future__ import annotations

import errno
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from qwen_tui.journal import Scribe, seal
from qwen_tui.paths import ensure_folder
from qwen_tui.session.session_file import SessionFile, free_name, publish, reason_of, slug
from qwen_tui.session.tree import FOLDED
from qwen_tui.types import Added, Emitted, Entry, Happened, Head, Prefilled

BATCH_S: Final = 0.2
"""Longest time in seconds that a token waits for its batch; with the write it stays below 250
ms."""
BATCH_BYTES: Final = 64 * 1024
SYNC_S: Final = 1.0
RETRY_S: Final = 1.0
"""Seconds before a failed write is retried for the first time; writing a whole new file waits
longer each time."""
MAX_RETRY_S: Final = 30.0
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_COMMIT_S = 0.01


@dataclass(frozen=True, slots=True)
class Saving:
    """The state of saving.

    `saved`: all entries are on disk; `unsaved`: bytes that are not. `reason`: why saving fails, ""
    while it does not. `notice`: the new file that was begun instead.
    """

    path: Path | None
    saved: bool = True
    unsaved: int = 0
    reason: str = ""
    notice: str = ""


class _Flush:
    def __init__(self, folder: Path | None = None, *, end: bool = False) -> None:
        self.done = threading.Event()
        self.folder = folder
        self.end = end


class _Put(NamedTuple):
    entry: Entry
    unix_ms: int
    handed_at: float

    @property
    def streams(self) -> bool:
        """Whether it waits for a batch; any other entry is written and synced at once."""
        kept = self.entry
        return isinstance(kept, Happened) and isinstance(kept.event, Emitted | Prefilled)


class Store:
    """Appends entries to one session file from a thread of its own.

    `place` is a locked file, or the path of a file to be created with the first entry (at once
    if not `lazily`). `entries` is the session's own list, which only grows: those in it now are in
    the locked file, or, for a path, are written first; with it a conflict or rescue file is whole.
    `on_state` is called on the store's thread whenever `state` changes. Not usable after `close`.
    """

    def __init__(
        self,
        place: SessionFile | Path,
        *,
        entries: list[Entry],
        lazily: bool = True,
        on_state: Callable[[Saving], None] | None = None,
        retry_s: float = RETRY_S,
        clock: Callable[[], float] = time.time,
        writers: Callable[[], str] = lambda: secrets.token_hex(4),
    ) -> None:
        locked = place if isinstance(place, SessionFile) else None
        self._file = locked
        self._path = place.path if isinstance(place, SessionFile) else place
        self._entries = entries
        self._times: list[int] = []
        """When each entry arrived, Unix milliseconds."""
        self._on_state = on_state
        self._clock = clock
        self._writers = writers
        self._queue: queue.SimpleQueue[_Put | _Flush] = queue.SimpleQueue()
        self._handed = self._taken = self._durable = 0
        self._fresh_scribe()
        self._lines: deque[bytes] = deque()
        self._bytes = self._unsynced = 0
        self._begun = locked is not None or not lazily
        self._broken = ""
        self._pause_s = retry_s
        self._retry_s = retry_s
        self._retry_at = 0.0
        self._synced_at = time.monotonic()
        self._state = Saving(self._path)
        now = int(clock() * 1000)
        if locked is not None:
            self._times = [now] * len(entries)
        else:
            for entry in entries:
                self._keep(entry, now)
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    # -- any thread --------------------------------------------------------------------------------

    def put(self, entry: Entry) -> None:
        """Add the session's next entry, as its `sink`. Returns at once, never raises."""
        self._handed += 1
        self._queue.put(_Put(entry, int(self._clock() * 1000), time.monotonic()))

    @property
    def state(self) -> Saving:
        """The current state of saving."""
        state = self._state
        return replace(state, saved=state.saved and self._durable >= self._handed)

    @property
    def path(self) -> Path:
        """The file that is written, or will be created."""
        return self._path

    @property
    def exists(self) -> bool:
        """Whether the file exists."""
        return self._file is not None

    def flush(self, timeout: float) -> bool:
        """Write and sync all entries; True if they are on disk within `timeout` seconds. Safe in a
        signal handler.
        """
        return self._ask(_Flush(), timeout)

    def relocate(self, folder: Path, timeout: float = 5.0) -> bool:
        """Continue in another folder: the whole session is written to a new file there."""
        return self._ask(_Flush(folder), timeout)

    def close(self, timeout: float = 2.0) -> bool:
        """Flush, release the lock and end the thread. True if everything is saved."""
        saved = self._ask(_Flush(end=True), timeout)
        self._thread.join(timeout)
        return saved

    def _ask(self, flush: _Flush, timeout: float) -> bool:
        if self._thread.is_alive():
            self._queue.put(flush)
            flush.done.wait(timeout)
        return self.state.saved

    # -- the store's thread ------------------------------------------------------------------------

    def _run(self) -> None:
        ended = False
        try:
            while not ended:
                ended = self._round()
        finally:
            if self._file is not None:
                self._file.close()
            if not ended:
                self._report("the store stopped; this is a defect")

    def _round(self) -> bool:
        """Gather a batch, write it, sync when due. True when asked to end."""
        items = self._gather()
        flushes = [item for item in items if isinstance(item, _Flush)]
        # What could not be saved before is synced as soon as it can be.
        urgent = bool(flushes or self._state.reason)
        for item in items:
            if isinstance(item, _Put):
                self._taken += 1
                self._keep(item.entry, item.unix_ms)
                self._begun = True
                urgent = urgent or not item.streams
        for flush in flushes:
            if flush.folder is not None:
                self._restart(flush.folder / self._name().name)
        if self._begun:
            self._write(now=bool(flushes))
        if self._unsynced and (urgent or time.monotonic() - self._synced_at >= SYNC_S):
            self._make_durable()
        self._settle()
        for flush in flushes:
            flush.done.set()
        return any(flush.end for flush in flushes)

    def _gather(self) -> list[_Put | _Flush]:
        """The next items: those that arrive within a batch's time of the first."""
        waiting = self._begun and bool(self._lines or self._unsynced or self._broken)
        try:
            items = [self._queue.get(timeout=self._pause_s if waiting else None)]
        except queue.Empty:
            return []
        until = float("inf")
        while isinstance(last := items[-1], _Put) and len(items) < 4096:
            until = min(until, last.handed_at + (BATCH_S if last.streams else _COMMIT_S))
            left = until - time.monotonic()
            try:
                items.append(self._queue.get(timeout=left) if left > 0 else self._queue.get(False))
            except queue.Empty:
                break
        return items

    def _fresh_scribe(self) -> None:
        self._scribe = Scribe()
        self._writer = self._writers()
        self._counter = 0

    def _keep(self, entry: Entry, unix_ms: int) -> None:
        """Record when an entry arrived, and its line until it is in the file."""
        self._times.append(unix_ms)
        line = self._line(entry, unix_ms)
        self._bytes += len(line)
        if not self._broken:
            self._lines.append(line)

    def _line(self, entry: Entry, unix_ms: int) -> bytes:
        line = seal(self._scribe.record(entry), self._writer, self._counter, unix_ms)
        self._counter += 1
        return line

    def _write(self, *, now: bool) -> None:
        """Write all lines, batch by batch; on failure keep the rest for later."""
        if self._broken:
            if now or time.monotonic() >= self._retry_at:
                self._restart(free_name(self._path, "rescue"))
            return
        if self._lines and self._file is None and not self._create():
            return
        while self._lines and self._file is not None:
            if not self._file.untouched():
                self._abandon("conflict", "was changed by another program")
                return
            try:
                self._append(self._file)
            except OSError as error:
                if error.errno in FULL:
                    self._report(f"{reason_of(error)}; kept in memory, trying again")
                else:
                    self._abandon("rescue", reason_of(error))
                return

    def _append(self, file: SessionFile) -> None:
        """Write one batch: as many whole lines as fit; what was not written is kept."""
        batch: list[bytes] = []
        size = 0
        for line in self._lines:
            if batch and size + len(line) > BATCH_BYTES:
                break
            batch.append(line)
            size += len(line)
        arrived = file.append(b"".join(batch))
        for line in batch:
            if arrived < len(line):
                break
            arrived -= len(line)
            self._lines.popleft()
            self._bytes -= len(line)
            self._unsynced += len(line)

    def _name(self) -> Path:
        """The path, with the slug of the first text when it has none."""
        if self._file is not None or "-" in self._path.stem:
            return self._path
        first = next(
            (
                entry.text
                for entry in self._entries
                if isinstance(entry, Added) and entry.role not in FOLDED and entry.text.strip()
            ),
            "",
        )
        return self._path.with_name(f"{self._path.stem}-{slug(first[:200])}.jsonl")

    def _create(self) -> bool:
        self._path = self._name()
        try:
            ensure_folder(self._path.parent)
            self._file = SessionFile.create(self._path)
        except FileExistsError:
            self._abandon("conflict", "is there already")
            return False
        except OSError as error:
            self._report(f"{self._path.parent}: {reason_of(error)}; working in memory")
            return False
        return True

    def _make_durable(self) -> None:
        if self._file is None:
            return
        try:
            self._file.sync()
        except OSError as error:
            # What a failed sync dropped is unknown: nothing in this file is trusted any more.
            self._abandon("rescue", reason_of(error))
            return
        self._synced_at = time.monotonic()
        self._unsynced = 0

    def _abandon(self, kind: str, why: str) -> None:
        """Leave the file as it is and write the whole session to a new one."""
        self._broken = f"{self._path.name}: {why}"
        self._retry_s = self._pause_s
        self._restart(free_name(self._path, kind))

    def _restart(self, path: Path) -> None:
        """Write every entry to a new file under a temporary name, sync it, give it its name."""
        self._broken = self._broken or f"{self._path.name} was left"
        self._bytes += self._unsynced
        self._unsynced = 0
        self._lines.clear()
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            ensure_folder(path.parent)
            file = SessionFile.create(temporary)
        except OSError as error:
            self._failed(error)
            return
        try:
            self._write_whole(file)
            file.path = publish(temporary, path)
        except OSError as error:
            file.close()
            temporary.unlink(missing_ok=True)
            self._failed(error)
            return
        if self._file is not None:
            self._file.close()
        self._file, self._path = file, file.path
        self._state = replace(self._state, notice=f"{self._broken}; saving to {file.path}")
        self._broken = ""
        self._bytes = 0
        self._synced_at = time.monotonic()
        self._retry_s = self._pause_s

    def _write_whole(self, file: SessionFile) -> None:
        self._fresh_scribe()
        batch = b""
        taken = zip(self._entries, self._times, strict=False)
        for entry, unix_ms in sorted(taken, key=lambda kept: not isinstance(kept[0], Head)):
            batch += self._line(entry, unix_ms)
            if len(batch) >= BATCH_BYTES:
                file.append_all(batch)
                batch = b""
        file.append_all(batch)
        file.sync()

    def _failed(self, error: OSError) -> None:
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, MAX_RETRY_S)
        self._report(f"{self._broken}; {reason_of(error)}; kept in memory, trying again")

    # -- the state that is published ---------------------------------------------------------------

    def _report(self, reason: str) -> None:
        self._publish(replace(self._state, saved=False, reason=reason))

    def _settle(self) -> None:
        """Publish what is on disk now."""
        unsaved = self._bytes + self._unsynced if self._begun else 0
        saved = not unsaved and not self._broken
        if saved:
            self._durable = self._taken
        failing = self._broken or (self._begun and self._lines)
        reason = self._state.reason if failing else ""
        self._publish(Saving(self._path, saved, unsaved, reason, self._state.notice))

    def _publish(self, state: Saving) -> None:
        if state == self._state:
            return
        self._state = state
        if self._on_state is not None:
            try:
                self._on_state(state)
            except RuntimeError:
                # The listener's event loop is closed; saving does not need it.
                self._on_state = None
