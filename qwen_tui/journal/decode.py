"""Line → record → entry.

Law: reading hostile bytes never raises: a line is an entry, or a reason why not.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from qwen_tui.journal.encode import Record, word_tokens
from qwen_tui.journal.fields import (
    Malformed,
    choice_rows,
    clean,
    exact_bytes,
    get,
    integer,
    list_at,
    logprob,
    map_at,
    number,
    probability,
    split_bytes,
    text_at,
    token_id,
)
from qwen_tui.types import (
    Added,
    Choice,
    Emitted,
    Entry,
    Environment,
    Finished,
    Happened,
    Head,
    Hidden,
    Marked,
    Moved,
    Prefilled,
    Progress,
    Reason,
    Remembered,
    Source,
    Stage,
    Started,
    Stats,
    Step,
    Titled,
    Token,
    Unknown,
    Weighed,
)

MAX_LINE: Final = 16 * 1024 * 1024
"""Bytes of the longest line that is read."""
MAX_DEPTH: Final = 64

_CHECKSUM = re.compile(rb',"c":"([0-9a-f]{8})"\}$')
_STAMP = ("w", "n", "t", "c")


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which line it is: the writer (one per opening), its counter, Unix milliseconds."""

    writer: str
    counter: int
    unix_ms: int


@dataclass(frozen=True, slots=True)
class Read:
    """The result of reading a line. `entry` None: nothing usable. `ok`: its checksum is right.
    `why` says what is wrong, "" if nothing is.
    """

    entry: Entry | Progress | None
    stamp: Stamp | None = None
    ok: bool = False
    why: str = ""


class RecordReader:
    """Reads lines in order and remembers the bytes of token ids, so that alternatives have their
    bytes without a vocabulary.
    """

    def __init__(self) -> None:
        self._spelled: dict[int, bytes] = {}

    def read(self, line: bytes) -> Read:
        """One line, with or without its line feed. Never raises on hostile input."""
        raw = line.rstrip(b"\r\n")
        if len(raw) > MAX_LINE:
            return Read(None, why=f"longer than {MAX_LINE >> 20} MiB")
        if not raw.strip():
            return Read(None, why="an empty line")
        found = _CHECKSUM.search(raw)
        ok = found is not None and int(found[1], 16) == zlib.crc32(raw[: found.start()])
        try:
            values = json.loads(raw)
            if not isinstance(values, dict):
                raise Malformed("no JSON object")
            if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(values) > MAX_DEPTH:
                raise Malformed(f"nested deeper than {MAX_DEPTH}")
            stamp = _stamp(values) if "c" in values else None
            entry = self._entry(values)
        except RecursionError:
            return Read(None, why=f"nested deeper than {MAX_DEPTH}")
        except UnicodeDecodeError:
            return Read(None, why="not UTF-8")
        except json.JSONDecodeError:
            return Read(None, why="not JSON")
        except (ValueError, OverflowError) as error:
            return Read(None, ok=ok, why=str(error))
        why = "" if ok else "no checksum" if found is None else "wrong checksum"
        return Read(entry, stamp, ok, why)

    def _entry(self, values: Record) -> Entry | Progress:
        kind = values.get("k")
        parse = _KINDS.get(kind) if isinstance(kind, str) else None
        if parse is None:
            if not isinstance(kind, str):
                raise Malformed("no kind")
            return Unknown({key: value for key, value in values.items() if key not in _STAMP})
        return parse(self, values)

    def _learn(self, values: Record) -> None:
        for key, value in map_at(values, "spell").items():
            try:
                id = token_id(int(key))
            except ValueError:
                continue
            if isinstance(value, str):
                self._spelled[id] = clean(value).encode()
            elif isinstance(value, list) and len(value) == 1:
                self._spelled[id] = exact_bytes({"b64": value[0]}, "")

    def _tokens(self, values: Record) -> tuple[Token, ...]:
        ids = [token_id(id) for id in list_at(values, "ids")]
        data = exact_bytes(values, text_at(values, "text", ""))
        if not ids and data:
            raise Malformed("text without ids")
        lps = [logprob(value) for value in list_at(values, "lp")] or [None] * len(ids)
        if len(lps) != len(ids):
            raise Malformed("lp does not fit the ids")
        runs = split_bytes(data, list_at(values, "lens"), len(ids)) if ids else []
        shares = [probability(value) for value in list_at(values, "share")] or [None] * len(ids)
        if len(shares) != len(ids):
            raise Malformed("share does not fit the ids")
        drafted = {index for index in list_at(values, "drafted") if isinstance(index, int)}
        for id, run in zip(ids, runs, strict=True):
            if id >= 0:
                self._spelled.setdefault(id, run)
        # After the tokens: the bytes of one that a stop string cut are not how its id is spelled.
        self._learn(values)
        rows = choice_rows(values, len(ids))
        return tuple(
            Token(id, run, lp, self._choices(row), i in drafted, share=share)
            for i, (id, run, lp, row, share) in enumerate(
                zip(ids, runs, lps, rows, shares, strict=True)
            )
        )

    def _choices(self, row: list[tuple[int, float]]) -> tuple[Choice, ...]:
        spelled = self._spelled
        return tuple(Choice(id, spelled.get(id, b""), lp) for id, lp in row)

    def spelling(self, id: int) -> bytes:
        """The bytes of a token id as this file spelled it; b"" if it never did."""
        return self._spelled.get(id, b"")

    # one function per kind ------------------------------------------------------------------------

    def _head(self, values: Record) -> Head:
        return Head(
            id=text_at(values, "id", ""),
            title=text_at(values, "title", ""),
            app=text_at(values, "app", ""),
            fmt=text_at(values, "fmt"),
            v=integer(values, "v", 1),
            min=integer(values, "min", 1),
        )

    def _env(self, values: Record) -> Environment:
        return Environment(
            id=text_at(values, "id"),
            engine=text_at(values, "engine", ""),
            model=map_at(values, "model"),
            dtype=text_at(values, "dtype", ""),
            quant=text_at(values, "quant", ""),
            attn=text_at(values, "attn", ""),
            kernels=text_at(values, "kernels", ""),
            threads=integer(values, "threads", 0),
            device=text_at(values, "device", ""),
            vers={
                str(key): value
                for key, value in map_at(values, "vers").items()
                if isinstance(value, str)
            },
        )

    def _added(self, values: Record) -> Added:
        source = text_at(values, "src")
        role = values.get("role")
        text = text_at(values, "text", "")
        data = exact_bytes(values, text)
        if values.get("ids") is None:
            tokens = word_tokens(text)
        else:
            ids = [token_id(id) for id in list_at(values, "ids")]
            if not ids and data:
                raise Malformed("text without ids")
            runs = split_bytes(data, list_at(values, "lens"), len(ids)) if ids else []
            tokens = tuple(Token(id, run) for id, run in zip(ids, runs, strict=True))
            self._spelled.update((token.id, token.data) for token in tokens if token.id >= 0)
        return Added(
            id=text_at(values, "id"),
            parent=None if values.get("parent") is None else text_at(values, "parent"),
            at=integer(values, "at", 0),
            source=source if source in get_args(Source) else "import",  # type: ignore[arg-type]
            role=clean(role) if isinstance(role, str) else None,
            text=text,
            tokens=tokens,
        )

    def _moved(self, values: Record) -> Moved:
        node = None if values.get("node") is None else text_at(values, "node")
        return Moved(node, integer(values, "at", 0), _step(values))

    def _started(self, values: Record) -> Started:
        nodes = list_at(values, "nodes")
        if not all(isinstance(node, str) for node in nodes):
            raise Malformed("a node that is no id")
        mode = values.get("mode")
        return Started(
            generation=text_at(values, "gen"),
            nodes=tuple(clean(node) for node in nodes),
            environment=text_at(values, "env", ""),
            prompt=map_at(values, "prompt"),
            params=map_at(values, "params"),
            mode=mode if mode in ("complete", "chat", "infill") else "complete",
        )

    def _prefill(self, values: Record) -> Happened:
        event = Prefilled(
            integer(values, "prompt", 0), integer(values, "reused", 0), number(values, "seconds")
        )
        return Happened(text_at(values, "gen"), event)

    def _score(self, values: Record) -> Weighed | Unknown:
        if values.get("node") is None:
            return Unknown({key: value for key, value in values.items() if key not in _STAMP})
        lps = tuple(logprob(value) for value in list_at(values, "lp"))
        self._learn(values)
        rows = choice_rows(values, len(lps))
        return Weighed(
            node=text_at(values, "node"),
            start=integer(values, "start", 0),
            logprobs=lps,
            choices=tuple(tuple(row) for row in rows) if any(rows) else (),
        )

    def _emitted(self, values: Record) -> Happened:
        event = Emitted(
            self._tokens(values),
            branch=integer(values, "branch", 0, 2**16),
            ms=integer(values, "ms", 0),
            index=integer(values, "i", 0, 2**31),
        )
        return Happened(text_at(values, "gen"), event)

    def _finished(self, values: Record) -> Happened:
        reason = text_at(values, "reason")
        known = reason in get_args(Reason)
        event = Finished(
            reason if known else "failed",  # type: ignore[arg-type]
            branch=integer(values, "branch", 0, 2**16),
            stats=_read_stats(map_at(values, "stats")),
            stop=text_at(values, "stop", ""),
            message=text_at(values, "message", "") or ("" if known else reason),
            hint=text_at(values, "hint", ""),
            schedule=map_at(values, "schedule"),
        )
        return Happened(text_at(values, "gen"), event)

    def _meta(self, values: Record) -> Titled:
        tags = tuple(clean(tag) for tag in list_at(values, "tags") if isinstance(tag, str))
        return Titled(text_at(values, "title", ""), tags)

    def _mark(self, values: Record) -> Marked:
        on: bool = get(values, "on", bool, True)
        return Marked(text_at(values, "node"), on, text_at(values, "label", ""))

    def _del(self, values: Record) -> Hidden:
        on: bool = get(values, "on", bool, True)
        return Hidden(text_at(values, "node"), on, _step(values))

    def _prefs(self, values: Record) -> Remembered:
        return Remembered(map_at(values, "values"))

    def _progress(self, values: Record) -> Progress | Unknown:
        stage = text_at(values, "stage")
        if stage not in get_args(Stage):
            return Unknown(dict(values))
        return Progress(
            stage,  # type: ignore[arg-type]
            integer(values, "done", 0),
            integer(values, "total", 0),
        )


_KINDS: Final[Mapping[str, Callable[[RecordReader, Record], Entry | Progress]]] = {
    "head": RecordReader._head,
    "env": RecordReader._env,
    "node": RecordReader._added,
    "move": RecordReader._moved,
    "gen": RecordReader._started,
    "prefill": RecordReader._prefill,
    "score": RecordReader._score,
    "tok": RecordReader._emitted,
    "end": RecordReader._finished,
    "meta": RecordReader._meta,
    "mark": RecordReader._mark,
    "del": RecordReader._del,
    "prefs": RecordReader._prefs,
    "progress": RecordReader._progress,
}


def _step(values: Record) -> Step:
    step = values.get("as")
    return step if step in ("new", "undo", "redo") else ""


def _read_stats(values: Record) -> Stats:
    return Stats(
        prompt=integer(values, "prompt", 0),
        reused=integer(values, "reused", 0),
        emitted=integer(values, "emitted", 0),
        drafted=integer(values, "drafted", 0),
        accepted=integer(values, "accepted", 0),
        prefill_s=number(values, "prefill_s"),
        ttft_s=number(values, "ttft_s"),
        decode_s=number(values, "decode_s"),
        peak_bytes=integer(values, "peak_bytes", 0),
    )


def _stamp(values: Record) -> Stamp | None:
    writer, counter, unix_ms = values.get("w"), values.get("n"), values.get("t")
    if not isinstance(writer, str) or type(counter) is not int or type(unix_ms) is not int:
        return None
    return Stamp(clean(writer), counter, unix_ms) if 0 <= counter < 2**53 else None


def _depth(value: Any) -> int:
    """The nesting depth of lists and objects, computed level by level, without recursion."""
    level, depth = [value], 0
    while level:
        depth += 1
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, dict | list)
        ]
    return depth


def read(line: bytes) -> Read:
    """One line by itself: alternatives it does not spell have no bytes (see `RecordReader`)."""
    return RecordReader().read(line)
