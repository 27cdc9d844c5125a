"""Reads a session file, damaged or not: every intact record, and a report of the rest.

Law: never raises on content, never writes, connects or follows a path; a file is untrusted data.
"""

from __future__ import annotations

import os
import re
import stat
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypeAlias

from qwen_tui.journal import FORMAT, MAX_LINE, VERSION, Read, RecordReader
from qwen_tui.portable_os import is_ours, open_plain
from qwen_tui.types import BAD_DATA, NO_INPUT, NO_PERMISSION, Entry, Head, Progress, Trouble

MAX_RECORDS: Final = 10_000_000
MAX_NOTED: Final = 1_000
"""Most damaged lines a report lists one by one."""

Kind: TypeAlias = Literal[
    "torn", "checksum", "garbage", "conflict", "duplicate", "gap", "head", "newer", "record"
]

_START = re.compile(rb'\{"k":"')
_STOP = re.compile(rb',"c":"[0-9a-f]{8}"\}')
_CONFLICT = (b"<<<<<<<", b"=======", b">>>>>>>", b"|||||||")
_TRIES = 16


@dataclass(frozen=True, slots=True)
class Damage:
    """One damage in a file; `line` counts from 1, 0 for the whole file."""

    line: int
    kind: Kind
    text: str


@dataclass(slots=True)
class Report:
    """The result of reading a file. `records` were accepted; `damages` has at most `MAX_NOTED`."""

    records: int = 0
    lines: int = 0
    size: int = 0
    damages: list[Damage] = field(default_factory=list)
    counts: dict[Kind, int] = field(default_factory=dict)
    headless: bool = False
    newer: bool = False

    def note(self, line: int, kind: Kind, text: str) -> None:
        """Add one damage."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if len(self.damages) < MAX_NOTED:
            self.damages.append(Damage(line, kind, text))

    @property
    def clean(self) -> bool:
        """Whether no damage was found."""
        return not self.counts

    @property
    def sound(self) -> bool:
        """Whether no record was lost or altered: torn lines and duplicates alone lose nothing."""
        return not self.counts.keys() - {"torn", "duplicate"}

    def badges(self) -> list[str]:
        """One short line per kind of damage, for the status line."""
        words: dict[Kind, str] = {
            "torn": "the last write was cut short",
            "checksum": "altered records",
            "garbage": "unreadable lines",
            "conflict": "merge conflict markers",
            "duplicate": "repeated records",
            "gap": "lost records",
            "head": "no head",
            "newer": "written by a newer version",
            "record": "records that cannot be used",
        }
        return [
            text if self.counts[kind] == 1 else f"{text}: {self.counts[kind]}"
            for kind, text in words.items()
            if kind in self.counts
        ]


class _Counters:
    """The counters of one writer, as sorted ranges [first, last]."""

    __slots__ = ("firsts", "lasts")

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.lasts: list[int] = []

    def add(self, counter: int) -> bool:
        """Add a counter; False if it was there already."""
        at = bisect_right(self.firsts, counter) - 1
        if at >= 0 and counter <= self.lasts[at]:
            return False
        if at >= 0 and self.lasts[at] == counter - 1:
            self.lasts[at] = counter
        else:
            at += 1
            self.firsts.insert(at, counter)
            self.lasts.insert(at, counter)
        if at + 1 < len(self.firsts) and self.firsts[at + 1] == counter + 1:
            self.lasts[at] = self.lasts.pop(at + 1)
            del self.firsts[at + 1]
        return True

    def holes(self) -> int:
        """How many counters before the last one are missing."""
        have = sum(last - first + 1 for first, last in zip(self.firsts, self.lasts, strict=True))
        return self.lasts[-1] + 1 - have


class SessionLoader:
    """Turns lines into entries, in order, and keeps the report. Feed it line by line."""

    def __init__(self) -> None:
        self.report = Report()
        self.reader = RecordReader()
        self.head: Head | None = None
        self._seen: dict[str, _Counters] = {}

    def feed(self, raw: bytes, *, last: bool = False) -> list[Entry]:
        """The entries of one line; `last`: it had no line feed."""
        self.report.lines += 1
        self.report.size += len(raw)
        number = self.report.lines
        bare = raw.rstrip(b"\r\n")
        if not bare:
            return []
        read = self.reader.read(bare)
        if read.entry is not None:
            return self._take(number, read)
        if read.ok:
            self.report.note(number, "record", read.why)
            return []
        return self._salvage(number, bare, read, last)

    def finish(self) -> Report:
        """The report, once all lines were fed."""
        for writer, seen in self._seen.items():
            if lost := seen.holes():
                self.report.note(0, "gap", f"{lost} records of writer {writer} are lost")
        self.report.headless = self.head is None
        if self.report.headless and self.report.records:
            self.report.note(0, "head", "the head is missing")
        return self.report

    def _take(self, number: int, read: Read) -> list[Entry]:
        entry = read.entry
        if entry is None or isinstance(entry, Progress):
            return []
        if read.ok and read.stamp is not None:
            seen = self._seen.setdefault(read.stamp.writer, _Counters())
            if not seen.add(read.stamp.counter):
                self.report.note(number, "duplicate", "a record that is there already")
                return []
        if not read.ok:
            self.report.note(number, "checksum", read.why)
        if self.report.records >= MAX_RECORDS:
            self.report.note(number, "record", f"more than {MAX_RECORDS} records")
            return []
        if isinstance(entry, Head) and not self._heads(number, entry):
            return []
        self.report.records += 1
        return [entry]

    def _heads(self, number: int, head: Head) -> bool:
        if head.fmt != FORMAT:
            self.report.note(number, "record", f"a head of another format, {head.fmt[:40]!r}")
            return False
        if self.head is not None:
            if self.head.id != head.id:
                self.report.note(number, "head", f"another session's head, {head.id[:40]!r}")
            return self.head.id == head.id
        self.head = head
        if head.min > VERSION:
            self.report.newer = True
            self.report.note(number, "newer", f"needs a reader of version {head.min}")
        return True

    def _salvage(self, number: int, raw: bytes, read: Read, last: bool) -> list[Entry]:
        """Intact sealed records inside an invalid line, written before or after the damage. A
        record is looked for only between its end and the previous end, so that the work is linear
        in the line's length.
        """
        out: list[Entry] = []
        floor = earlier = last_stop = whole = 0
        starts = [found.start() for found in _START.finditer(raw)]
        for stop in _STOP.finditer(raw):
            floor, earlier, last_stop = max(floor, earlier), last_stop, stop.end()
            first, after = bisect_left(starts, floor), bisect_right(starts, stop.start())
            for start in reversed(starts[max(first, after - _TRIES) : after]):
                found = self.reader.read(raw[start : stop.end()])
                if found.ok:
                    out += self._take(number, found)
                    whole += stop.end() - start
                    floor = earlier = stop.end()
                    break
        if whole < len(raw):
            self._blame(number, raw, read.why, last, whole)
        return out

    def _blame(self, number: int, raw: bytes, why: str, last: bool, whole: int) -> None:
        if len(raw) > MAX_LINE:
            self.report.note(number, "record", why)
        elif raw.startswith(_CONFLICT):
            self.report.note(number, "conflict", "a merge conflict marker")
        elif last:
            self.report.note(number, "torn", "the last line is cut short")
        elif whole == 0 and raw.startswith(b'{"k":"') and not raw.endswith(b"}"):
            self.report.note(number, "torn", "a line that is cut short")
        else:
            self.report.note(number, "garbage", why or "not a record")


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file.

    Raises Trouble for a symbolic link, FIFO, device, folder, or a file of another user; OSError if
    it cannot be opened.
    """
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Trouble(f"there is no file {path}", code=NO_INPUT) from error
    if not stat.S_ISREG(found.st_mode):
        raise Trouble(f"{path} is not a regular file", code=BAD_DATA)
    fd = open_plain(path, flags)
    opened = os.fstat(fd)
    if not stat.S_ISREG(opened.st_mode) or not is_ours(opened):
        os.close(fd)
        raise Trouble(f"{path} belongs to someone else", code=NO_PERMISSION)
    return fd


def lines(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """(line, whether it is last and has no line feed); of a line that is too long only the
    beginning.
    """
    while raw := file.readline(MAX_LINE + 2):
        if raw.endswith(b"\n"):
            yield raw, False
            continue
        if len(raw) <= MAX_LINE:
            yield raw, True
            return
        while (more := file.readline(MAX_LINE)) and not more.endswith(b"\n"):
            pass
        yield raw, False


def load(
    path: Path, loader: SessionLoader | None = None, *, ended: bool = False
) -> Iterator[Entry]:
    """The entries of a file, in order; `loader.finish()` then gives the report.

    `ended` leaves a last line without a line feed alone: another process may be writing it.
    Raises Trouble when the file cannot be opened or is no session file at all.
    """
    loader = SessionLoader() if loader is None else loader
    try:
        fd = open_regular(path)
    except PermissionError as error:
        raise Trouble(f"{path} cannot be read", code=NO_PERMISSION) from error
    first = b""
    with os.fdopen(fd, "rb") as file:
        for raw, last in lines(file):
            first = first or raw[:16]
            if last and ended:
                break
            yield from loader.feed(raw, last=last)
    if not loader.report.records and first.strip():
        raise Trouble(f"{path} is not a session file: it begins with {first!r}", code=BAD_DATA)
