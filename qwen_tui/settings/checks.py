"""Checks of settings from outside: each takes what was given and returns the value, or raises
ValueError with a sentence for a person.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from qwen_tui.types import MAX_STOP


def text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"a text is wanted, not {value!r}")
    return value


def text_or_none(value: object) -> str:
    return "" if value == "" else text(value)


def switch(value: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    if not isinstance(value, bool):
        raise ValueError(f"true or false is wanted, not {value!r}")
    return value


def whole(low: int, high: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if isinstance(value, str):
            try:
                value = int(value.replace("_", ""))
            except ValueError:
                raise ValueError(f"a whole number is wanted, not {value!r}") from None
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"a whole number is wanted, not {value!r}")
        if not low <= value <= high:
            raise ValueError(f"{value} is not from {low} to {high}")
        return value

    return check


def number(unit: str, most: int) -> Callable[[object], float]:
    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"a number of {unit} is wanted, not {value!r}")
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise ValueError(f"a number of {unit} is wanted, not {value!r}") from None
        if not 0 <= number <= most:
            raise ValueError(f"{value} is not from 0 to {most:,}")
        return number

    return check


def one_of(names: Mapping[str, Any]) -> Callable[[object], Any]:
    def check(value: object) -> Any:
        if not isinstance(value, str) or value.lower() not in names:
            near = get_close_matches(str(value).lower(), names, 1)
            cure = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{value!r} is none of {', '.join(names)}{cure}")
        return names[value.lower()]

    return check


def device(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?", value):
        raise ValueError(f"{value!r} is none of auto, cpu, cuda, cuda:0 …, mps, xpu")
    return value


def stops(value: object) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else value
    if not isinstance(stops, list | tuple) or not all(isinstance(each, str) for each in stops):
        raise ValueError(f"a text or a list of texts is wanted, not {value!r}")
    if "" in stops:
        raise ValueError("an empty stop string would stop at once")
    if len(stops) > MAX_STOP:
        raise ValueError(f"{len(stops)} stop strings are more than {MAX_STOP}")
    return tuple(stops)
