"""Line → record → entry.

Law: reading hostile bytes never raises: a line is an entry, or a reason why not.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from qwen_tui.journal.encode import MAX_ID, SURROGATE, Record, pieces, utf8
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
    Source,
    Stage,
    Started,
    Stats,
    Titled,
    Token,
    Unknown,
    Weighed,
)

MAX_LINE: Final = 16 * 1024 * 1024
"""Bytes of the longest line that is read."""
MAX_DEPTH: Final = 64

_CHECKSUM = re.compile(rb',"c":"([0-9a-f]{8})"\}$')
_MOST = 1e300
_STAMP = ("w", "n", "t", "c")


@dataclass(frozen=True, slots=True)
class Stamp:
    """Who wrote a line: the writer (one per opening), its counter, Unix milliseconds."""

    writer: str
    counter: int
    unix_ms: int


@dataclass(frozen=True, slots=True)
class Read:
    """What a line held. `entry` None: nothing usable. `ok`: the checksum is there and right.
    `why` says in words what is wrong, "" when nothing is.
    """

    entry: Entry | Progress | None
    stamp: Stamp | None = None
    ok: bool = False
    why: str = ""


class _Malformed(ValueError):
    pass


def _get(values: Record, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
    """The value of a key, of the right type; null and absent mean the default, if there is one."""
    value = values.get(key)
    if value is None:
        if default is None:
            raise _Malformed(f"no {key}")
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _Malformed(f"{key} is {type(value).__name__}")
    return value


def _text(values: Record, key: str, default: str | None = None) -> str:
    value: str = _get(values, key, str, default)
    return _clean(value)


def _clean(text: str) -> str:
    return SURROGATE.sub("\ufffd", text)


def _int(values: Record, key: str, default: int | None = None, top: int = 2**53) -> int:
    value: int = _get(values, key, int, default)
    if not 0 <= value <= top:
        raise _Malformed(f"{key} out of range")
    return value


def _number(values: Record, key: str, default: float = 0.0) -> float:
    value = float(_get(values, key, (int, float), default))
    if not math.isfinite(value):
        raise _Malformed(f"{key} is not finite")
    return value


def _list(values: Record, key: str) -> list[Any]:
    found: list[Any] = _get(values, key, list, [])
    return found


def _map(values: Record, key: str) -> Record:
    found: Record = _get(values, key, dict, {})
    return found


def _id(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value <= MAX_ID:
        raise _Malformed("a token id out of range")
    return value


def _logprob(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise _Malformed("a logprob that is no number")
    return float(value)


def _bytes(values: Record, text: str) -> bytes:
    coded = values.get("b64")
    if coded is None:
        return utf8(text)
    try:
        return base64.b64decode(coded, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise _Malformed("b64 cannot be decoded") from error


def _split(data: bytes, lens: list[Any], count: int) -> list[bytes]:
    """The bytes of each of `count` tokens; without usable `lens` the first has them all."""
    sound = len(lens) == count and all(
        isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in lens
    )
    if not sound or sum(lens) != len(data):
        if lens:
            raise _Malformed("lens do not fit the bytes")
        return [data] + [b""] * (count - 1)
    out, at = [], 0
    for size in lens:
        out.append(data[at : at + size])
        at += size
    return out


def _rows(values: Record, count: int) -> list[list[tuple[int, float]]]:
    rows = _list(values, "top")
    if len(rows) not in (0, count):
        raise _Malformed("top does not fit the tokens")
    if not all(isinstance(row, list) for row in rows):
        raise _Malformed("choices that are no list")
    return [[_pair(pair) for pair in row] for row in rows] or [[] for _ in range(count)]


def _pair(pair: Any) -> tuple[int, float]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise _Malformed("a choice that is no pair")
    id, lp = pair
    if type(id) is int and 0 <= id <= MAX_ID and type(lp) is float and -_MOST < lp < _MOST:
        return id, lp
    value = _logprob(pair[1])
    return _id(pair[0]), -math.inf if value is None else value


class Reader:
    """Reads lines in order, remembering how token ids are spelled, so that alternatives have their
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
                raise _Malformed("no JSON object")
            if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(values) > MAX_DEPTH:
                raise _Malformed(f"nested deeper than {MAX_DEPTH}")
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
                raise _Malformed("no kind")
            return Unknown({key: value for key, value in values.items() if key not in _STAMP})
        return parse(self, values)

    def _learn(self, values: Record) -> None:
        for key, value in _map(values, "spell").items():
            try:
                id = _id(int(key))
            except ValueError:
                continue
            if isinstance(value, str):
                self._spelled[id] = _clean(value).encode()
            elif isinstance(value, list) and len(value) == 1:
                self._spelled[id] = _bytes({"b64": value[0]}, "")

    def _tokens(self, values: Record) -> tuple[Token, ...]:
        ids = [_id(id) for id in _list(values, "ids")]
        data = _bytes(values, _text(values, "text", ""))
        if not ids and data:
            raise _Malformed("text without ids")
        lps = [_logprob(value) for value in _list(values, "lp")] or [None] * len(ids)
        if len(lps) != len(ids):
            raise _Malformed("lp does not fit the ids")
        runs = _split(data, _list(values, "lens"), len(ids)) if ids else []
        drafted = {index for index in _list(values, "drafted") if isinstance(index, int)}
        for id, run in zip(ids, runs, strict=True):
            if id >= 0:
                self._spelled.setdefault(id, run)
        # After the tokens: the bytes of one that a stop string cut are not how its id is spelled.
        self._learn(values)
        rows = _rows(values, len(ids))
        return tuple(
            Token(id, run, lp, self._choices(row), i in drafted)
            for i, (id, run, lp, row) in enumerate(zip(ids, runs, lps, rows, strict=True))
        )

    def _choices(self, row: list[tuple[int, float]]) -> tuple[Choice, ...]:
        spelled = self._spelled
        return tuple(Choice(id, spelled.get(id, b""), lp) for id, lp in row)

    def spelling(self, id: int) -> bytes:
        """The bytes of a token id as this file spelled it; b"" when it never did."""
        return self._spelled.get(id, b"")

    # one function per kind ------------------------------------------------------------------------

    def _head(self, values: Record) -> Head:
        return Head(
            id=_text(values, "id", ""),
            title=_text(values, "title", ""),
            app=_text(values, "app", ""),
            fmt=_text(values, "fmt"),
            v=_int(values, "v", 1),
            min=_int(values, "min", 1),
        )

    def _env(self, values: Record) -> Environment:
        return Environment(
            id=_text(values, "id"),
            engine=_text(values, "engine", ""),
            model=_map(values, "model"),
            dtype=_text(values, "dtype", ""),
            quant=_text(values, "quant", ""),
            attn=_text(values, "attn", ""),
            kernels=_text(values, "kernels", ""),
            threads=_int(values, "threads", 0),
            device=_text(values, "device", ""),
            vers={
                str(key): value
                for key, value in _map(values, "vers").items()
                if isinstance(value, str)
            },
        )

    def _added(self, values: Record) -> Added:
        source = _text(values, "src")
        role = values.get("role")
        text = _text(values, "text", "")
        data = _bytes(values, text)
        if values.get("ids") is None:
            tokens = pieces(text)
        else:
            ids = [_id(id) for id in _list(values, "ids")]
            if not ids and data:
                raise _Malformed("text without ids")
            runs = _split(data, _list(values, "lens"), len(ids)) if ids else []
            tokens = tuple(Token(id, run) for id, run in zip(ids, runs, strict=True))
            self._spelled.update((token.id, token.data) for token in tokens if token.id >= 0)
        return Added(
            id=_text(values, "id"),
            parent=None if values.get("parent") is None else _text(values, "parent"),
            at=_int(values, "at", 0),
            source=source if source in get_args(Source) else "import",  # type: ignore[arg-type]
            role=_clean(role) if isinstance(role, str) else None,
            text=text,
            tokens=tokens,
        )

    def _moved(self, values: Record) -> Moved:
        node = None if values.get("node") is None else _text(values, "node")
        return Moved(node, _int(values, "at", 0))

    def _started(self, values: Record) -> Started:
        nodes = _list(values, "nodes")
        if not all(isinstance(node, str) for node in nodes):
            raise _Malformed("a node that is no id")
        mode = values.get("mode")
        return Started(
            generation=_text(values, "gen"),
            nodes=tuple(_clean(node) for node in nodes),
            environment=_text(values, "env", ""),
            prompt=_map(values, "prompt"),
            params=_map(values, "params"),
            mode=mode if mode in ("complete", "chat", "infill") else "complete",
        )

    def _prefill(self, values: Record) -> Happened:
        event = Prefilled(
            _int(values, "prompt", 0), _int(values, "reused", 0), _number(values, "seconds")
        )
        return Happened(_text(values, "gen"), event)

    def _score(self, values: Record) -> Weighed | Unknown:
        if values.get("node") is None:
            return Unknown({key: value for key, value in values.items() if key not in _STAMP})
        lps = tuple(_logprob(value) for value in _list(values, "lp"))
        self._learn(values)
        rows = _rows(values, len(lps))
        return Weighed(
            node=_text(values, "node"),
            start=_int(values, "start", 0),
            logprobs=lps,
            choices=tuple(tuple(row) for row in rows) if any(rows) else (),
        )

    def _emitted(self, values: Record) -> Happened:
        event = Emitted(
            self._tokens(values),
            branch=_int(values, "branch", 0, 2**16),
            ms=_int(values, "ms", 0),
            index=_int(values, "i", 0, 2**31),
        )
        return Happened(_text(values, "gen"), event)

    def _finished(self, values: Record) -> Happened:
        reason = _text(values, "reason")
        known = reason in get_args(Reason)
        event = Finished(
            reason if known else "failed",  # type: ignore[arg-type]
            branch=_int(values, "branch", 0, 2**16),
            stats=_read_stats(_map(values, "stats")),
            stop=_text(values, "stop", ""),
            message=_text(values, "message", "") or ("" if known else reason),
            hint=_text(values, "hint", ""),
            schedule=_map(values, "schedule"),
        )
        return Happened(_text(values, "gen"), event)

    def _meta(self, values: Record) -> Titled:
        tags = tuple(_clean(tag) for tag in _list(values, "tags") if isinstance(tag, str))
        return Titled(_text(values, "title", ""), tags)

    def _mark(self, values: Record) -> Marked:
        on: bool = _get(values, "on", bool, True)
        return Marked(_text(values, "node"), on, _text(values, "label", ""))

    def _del(self, values: Record) -> Hidden:
        on: bool = _get(values, "on", bool, True)
        return Hidden(_text(values, "node"), on)

    def _progress(self, values: Record) -> Progress | Unknown:
        stage = _text(values, "stage")
        if stage not in get_args(Stage):
            return Unknown(dict(values))
        return Progress(
            stage,  # type: ignore[arg-type]
            _int(values, "done", 0),
            _int(values, "total", 0),
        )


_KINDS: Final[Mapping[str, Callable[[Reader, Record], Entry | Progress]]] = {
    "head": Reader._head,
    "env": Reader._env,
    "node": Reader._added,
    "move": Reader._moved,
    "gen": Reader._started,
    "prefill": Reader._prefill,
    "score": Reader._score,
    "tok": Reader._emitted,
    "end": Reader._finished,
    "meta": Reader._meta,
    "mark": Reader._mark,
    "del": Reader._del,
    "progress": Reader._progress,
}


def _read_stats(values: Record) -> Stats:
    return Stats(
        prompt=_int(values, "prompt", 0),
        reused=_int(values, "reused", 0),
        emitted=_int(values, "emitted", 0),
        drafted=_int(values, "drafted", 0),
        accepted=_int(values, "accepted", 0),
        prefill_s=_number(values, "prefill_s"),
        ttft_s=_number(values, "ttft_s"),
        decode_s=_number(values, "decode_s"),
        peak_bytes=_int(values, "peak_bytes", 0),
    )


def _stamp(values: Record) -> Stamp | None:
    writer, counter, unix_ms = values.get("w"), values.get("n"), values.get("t")
    if not isinstance(writer, str) or type(counter) is not int or type(unix_ms) is not int:
        return None
    return Stamp(_clean(writer), counter, unix_ms) if 0 <= counter < 2**53 else None


def _depth(value: Any) -> int:
    """How deep lists and objects stand in each other, level by level, without recursion."""
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
    """One line by itself: alternatives it does not spell have no bytes. Files: use a `Reader`."""
    return Reader().read(line)
