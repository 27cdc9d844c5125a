"""Entry → record → line.

Law: keys are in the format's order; a line is compact JSON without control, bidi or separator
characters, and writing one never fails.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from qwen_tui.types import (
    Added,
    Choice,
    Emitted,
    Entry,
    Environment,
    Event,
    Finished,
    Happened,
    Head,
    Hidden,
    Marked,
    Moved,
    Prefilled,
    Progress,
    Remembered,
    Scored,
    Started,
    Stats,
    Step,
    Titled,
    Token,
    Unknown,
    Weighed,
    joined,
)

FORMAT: Final = "qwen-tui.session"
VERSION: Final = 1
"""The newest format this program writes, and the newest `min` it reads safely."""
MAX_ID: Final = 2**32 - 1

Record: TypeAlias = dict[str, Any]

_ESCAPED = re.compile(
    "[\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
SURROGATE = re.compile("[\ud800-\udfff]")
_PIECE = re.compile(rb"[ \t\r\n]{0,16}[^ \t\r\n]{1,48}|[ \t\r\n]{1,16}")


def utf8(text: str) -> bytes:
    """The bytes of a text; lone surrogates become U+FFFD."""
    return SURROGATE.sub("\ufffd", text).encode()


def word_tokens(text: str) -> tuple[Token, ...]:
    """The tokens of a text without a tokenizer: words of at most 64 bytes, ids -1.

    The split depends on the text alone, so a file without ids gives the same tokens on every
    machine.
    """
    return tuple(Token(-1, piece) for piece in _PIECE.findall(utf8(text)))


def ids_bytes(tokens: Iterable[Token]) -> bytes:
    """The ids as little-endian u32 (-1 as 0xffffffff), the input of the hashes."""
    return b"".join((token.id & MAX_ID).to_bytes(4, "little") for token in tokens)


def ids_sha256(tokens: Iterable[Token]) -> str:
    """SHA-256 in hex over the little-endian u32 ids."""
    return hashlib.sha256(ids_bytes(tokens)).hexdigest()


def environment_id(env: Environment) -> str:
    """The value of `Environment.id`: 16 hex digits of SHA-256 over all its other values."""
    values = record(env)
    del values["k"], values["id"]
    text = json.dumps(_finite(values), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# -- numbers ---------------------------------------------------------------------------------------


def _single(value: float | None) -> float | None:
    """The shortest decimal that is the same float32; None for values that JSON lacks."""
    if value is None or not math.isfinite(value):
        return None
    try:
        packed = struct.pack("<f", value)
    except OverflowError:
        return value
    for digits in (6, 7, 8, 9):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == packed:
            return short
    return value


def _finite(value: Any) -> Any:
    """A JSON value with every NaN and infinity spelled as a string."""
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_finite(item) for item in value]
    return value


# -- entry → record --------------------------------------------------------------------------------


def spelling(data: bytes) -> str | list[str]:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return [base64.b64encode(data).decode("ascii")]


def _exact(text: str, data: bytes) -> Record:
    """The `b64` key if the text alone does not determine the bytes."""
    if utf8(text) == data:
        return {}
    return {"b64": base64.b64encode(data).decode("ascii")}


def _top(choices: Sequence[Choice]) -> list[list[Any]]:
    return [[choice.id, _single(choice.logprob)] for choice in choices]


def _node(entry: Added) -> Record:
    out: Record = {
        "k": "node",
        "id": entry.id,
        "parent": entry.parent,
        "at": entry.at,
        "src": entry.source,
        "role": entry.role,
    }
    if entry.source == "model":
        return out
    data = joined(entry.tokens) if entry.tokens else utf8(entry.text)
    text = data.decode("utf-8", "replace")
    known = bool(entry.tokens) and all(token.id >= 0 for token in entry.tokens)
    out["text"] = text
    out["ids"] = [token.id for token in entry.tokens] if known else None
    out["lens"] = [len(token.data) for token in entry.tokens] if known else None
    if not known and entry.tokens and entry.tokens != word_tokens(text):
        out["ids"] = [token.id for token in entry.tokens]
        out["lens"] = [len(token.data) for token in entry.tokens]
    return out | _exact(text, data)


def _tok(generation: str | None, event: Emitted, index: int | None, text: str | None) -> Record:
    data = joined(event.tokens)
    shown = data.decode("utf-8", "ignore") if text is None else text
    out: Record = {
        "k": "tok",
        "gen": generation,
        "branch": event.branch,
        "i": event.index if index is None else index,
        "ids": [token.id for token in event.tokens],
        "lp": [_single(token.logprob) for token in event.tokens],
        "ms": event.ms,
        "top": [_top(token.choices) for token in event.tokens],
        "drafted": [i for i, token in enumerate(event.tokens) if token.drafted],
        "text": shown,
    } | _exact(shown, data)
    if any(token.share is not None for token in event.tokens):
        out["share"] = [token.share for token in event.tokens]
    if len(event.tokens) != 1:
        out["lens"] = [len(token.data) for token in event.tokens]
    return out


def _stats(stats: Stats) -> Record:
    return {
        "prompt": stats.prompt,
        "reused": stats.reused,
        "emitted": stats.emitted,
        "drafted": stats.drafted,
        "accepted": stats.accepted,
        "prefill_s": round(stats.prefill_s, 6),
        "ttft_s": round(stats.ttft_s, 6),
        "decode_s": round(stats.decode_s, 6),
        "tok_s": round(stats.tok_s, 3),
        "peak_bytes": stats.peak_bytes,
    }


def _end(generation: str | None, event: Finished) -> Record:
    out: Record = {
        "k": "end",
        "gen": generation,
        "branch": event.branch,
        "n": event.stats.emitted,
        "reason": event.reason,
        "stop": event.stop,
        "stats": _stats(event.stats),
        "ids_sha256": None,
        "message": event.message,
        "hint": event.hint,
    }
    if event.schedule:
        out["schedule"] = dict(event.schedule)
    return out


def _event(generation: str | None, event: Event, index: int | None, text: str | None) -> Record:
    match event:
        case Progress():
            return {
                "k": "progress",
                "stage": event.stage,
                "done": event.done,
                "total": event.total,
            }
        case Prefilled():
            return {
                "k": "prefill",
                "gen": generation,
                "prompt": event.prompt,
                "reused": event.reused,
                "seconds": round(event.seconds, 6),
            }
        case Scored():
            return {
                "k": "score",
                "node": None,
                "start": event.start,
                "lp": [_single(token.logprob) for token in event.tokens],
                "top": [_top(token.choices) for token in event.tokens],
            }
        case Emitted():
            return _tok(generation, event, index, text)
        case Finished():
            return _end(generation, event)


def _env(entry: Environment) -> Record:
    return {
        "k": "env",
        "id": entry.id,
        "engine": entry.engine,
        "model": dict(entry.model),
        "dtype": entry.dtype,
        "quant": entry.quant,
        "attn": entry.attn,
        "kernels": entry.kernels,
        "threads": entry.threads,
        "device": entry.device,
        "vers": dict(entry.vers),
    }


def _gen(entry: Started) -> Record:
    return {
        "k": "gen",
        "gen": entry.generation,
        "nodes": list(entry.nodes),
        "env": entry.environment,
        "prompt": dict(entry.prompt),
        "params": dict(entry.params),
        "schedule": None,
        "mode": entry.mode,
    }


def record(
    entry: Entry | Event,
    *,
    index: int | None = None,
    generation: str | None = None,
    text: str | None = None,
) -> Record:
    """The flat record of one entry, keys in the format's order, without a stamp.

    A bare event (for `--json`) takes its `gen` from `generation`. `index` overrides a `tok`'s `i`.
    `text` is the characters this `tok` completes; only a `Scribe`, which remembers the branch,
    knows them across records: prefer its `record`.
    """
    match entry:
        case Happened():
            return _event(entry.generation, entry.event, index, text)
        case Progress() | Prefilled() | Scored() | Emitted() | Finished():
            return _event(generation, entry, index, text)
        case Unknown():
            return dict(entry.record)
        case Added():
            return _node(entry)
        case Environment():
            return _env(entry)
        case Started():
            return _gen(entry)
        case _:
            return _small(entry)


def _step(step: Step) -> Record:
    return {"as": step} if step else {}


def _small(entry: Head | Moved | Weighed | Titled | Marked | Hidden | Remembered) -> Record:
    match entry:
        case Head():
            return {
                "k": "head",
                "fmt": entry.fmt,
                "v": entry.v,
                "min": entry.min,
                "id": entry.id,
                "app": entry.app,
                "title": entry.title,
            }
        case Moved():
            return {"k": "move", "node": entry.node, "at": entry.at} | _step(entry.step)
        case Weighed():
            return {
                "k": "score",
                "node": entry.node,
                "start": entry.start,
                "lp": [_single(value) for value in entry.logprobs],
                "top": [[[id, _single(lp)] for id, lp in row] for row in entry.choices],
            }
        case Titled():
            return {"k": "meta", "title": entry.title, "tags": list(entry.tags)}
        case Marked():
            return {"k": "mark", "node": entry.node, "on": entry.on, "label": entry.label}
        case Hidden():
            return {"k": "del", "node": entry.node, "on": entry.on} | _step(entry.step)
        case Remembered():
            return {"k": "prefs", "values": dict(entry.values)}


# -- record → line ---------------------------------------------------------------------------------


def _compact(values: Any) -> str:
    # A value JSON has no form for is kept as its repr: saving a session must not fail over one.
    return json.dumps(
        values, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=repr
    )


def _dump(values: Mapping[str, Any]) -> str:
    try:
        text = _compact(values)
    except ValueError:
        text = _compact(_finite(values))
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def line(record: Mapping[str, Any]) -> bytes:
    r"""The record as one compact line of JSON ending in `\n`, no stamp: what `--json` prints.

    DEL, C1, U+2028/9, bidi controls and lone surrogates are escaped; an infinity or NaN becomes a
    string.
    """
    return _dump(record).encode() + b"\n"


def seal(record: Mapping[str, Any], writer: str, counter: int, unix_ms: int) -> bytes:
    r"""The record as a line of a session file, ending in `\n`: stamped with `w`, `n`, `t` and,
    last, `c`, the CRC-32 of the bytes before `,"c"`.
    """
    bare = {_unstamped(key): value for key, value in record.items() if key not in ("w", "t", "c")}
    body = _dump(bare | {"w": writer, "n": counter, "t": unix_ms})[:-1].encode()
    return body + b',"c":"%08x"}\n' % zlib.crc32(body)


def _unstamped(key: str) -> str:
    """A key without a clash with the stamp, which owns `n` in a file: an `end`'s number of tokens
    is `count` there.
    """
    return "count" if key == "n" else key
