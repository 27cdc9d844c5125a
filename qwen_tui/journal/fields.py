"""Checked values out of a record: of the right type and in range, or `Malformed` says why not."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any, Final

from qwen_tui.journal.encode import MAX_ID, SURROGATE, Record, utf8

_MOST: Final = 1e300


class Malformed(ValueError):
    pass


def get(values: Record, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
    """The value of a key, of the right type; null and absent mean the default, if there is one."""
    value = values.get(key)
    if value is None:
        if default is None:
            raise Malformed(f"no {key}")
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Malformed(f"{key} is {type(value).__name__}")
    return value


def text_at(values: Record, key: str, default: str | None = None) -> str:
    value: str = get(values, key, str, default)
    return clean(value)


def clean(text: str) -> str:
    return SURROGATE.sub("\ufffd", text)


def integer(values: Record, key: str, default: int | None = None, top: int = 2**53) -> int:
    value: int = get(values, key, int, default)
    if not 0 <= value <= top:
        raise Malformed(f"{key} out of range")
    return value


def number(values: Record, key: str, default: float = 0.0) -> float:
    value = float(get(values, key, (int, float), default))
    if not math.isfinite(value):
        raise Malformed(f"{key} is not finite")
    return value


def list_at(values: Record, key: str) -> list[Any]:
    found: list[Any] = get(values, key, list, [])
    return found


def map_at(values: Record, key: str) -> Record:
    found: Record = get(values, key, dict, {})
    return found


def token_id(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value <= MAX_ID:
        raise Malformed("a token id out of range")
    return value


def logprob(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise Malformed("a logprob that is no number")
    return float(value)


def probability(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
        raise Malformed("a share that is no probability")
    return float(value)


def exact_bytes(values: Record, text: str) -> bytes:
    coded = values.get("b64")
    if coded is None:
        return utf8(text)
    try:
        return base64.b64decode(coded, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise Malformed("b64 cannot be decoded") from error


def split_bytes(data: bytes, lens: list[Any], count: int) -> list[bytes]:
    """The bytes of each of `count` tokens; without usable `lens` the first has them all."""
    sound = len(lens) == count and all(
        isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in lens
    )
    if not sound or sum(lens) != len(data):
        if lens:
            raise Malformed("lens do not fit the bytes")
        return [data] + [b""] * (count - 1)
    out, at = [], 0
    for size in lens:
        out.append(data[at : at + size])
        at += size
    return out


def choice_rows(values: Record, count: int) -> list[list[tuple[int, float]]]:
    rows = list_at(values, "top")
    if len(rows) not in (0, count):
        raise Malformed("top does not fit the tokens")
    if not all(isinstance(row, list) for row in rows):
        raise Malformed("choices that are no list")
    return [[_pair(pair) for pair in row] for row in rows] or [[] for _ in range(count)]


def _pair(pair: Any) -> tuple[int, float]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise Malformed("a choice that is no pair")
    id, lp = pair
    if type(id) is int and 0 <= id <= MAX_ID and type(lp) is float and -_MOST < lp < _MOST:
        return id, lp
    value = logprob(pair[1])
    return token_id(pair[0]), -math.inf if value is None else value
