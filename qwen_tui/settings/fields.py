"""The settings as one frozen value, and the table of what each of them may be.

Law: a check raises ValueError with a sentence for a person; nothing is read from anywhere here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final, Literal, TypeAlias

from qwen_tui import presets
from qwen_tui.context_window import Truncate
from qwen_tui.presets import Preset
from qwen_tui.types import DEFAULT_MODEL, MAX_STOP, Sampling

DTYPES: Final[Mapping[str, str]] = {
    "auto": "auto",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "fp16",
    "float16": "fp16",
    "half": "fp16",
    "fp32": "fp32",
    "float32": "fp32",
    "float": "fp32",
}
"""What a person may write for `dtype` (ours and torch's names) → the name we keep."""
MOST_GIB: Final = 1 << 20
QUANTS: Final = ("auto", "none", "int8", "int4", "nf4")

Layout: TypeAlias = Literal["panes", "inline"]
Source: TypeAlias = Literal["default", "preset", "user file", "project file", "environment", "flag"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: the layer, and in it the file and line, variable, flag or preset."""

    source: Source
    where: str = ""

    @property
    def explicit(self) -> bool:
        """Whether a person set this very value (not a default, not part of a preset)."""
        return self.source not in ("default", "preset")

    def __str__(self) -> str:
        return f"{self.source} {self.where}".rstrip()


@dataclass(frozen=True, slots=True)
class Settings:
    """All that can be set. `origin` has an entry for each field, and `sampling.<value>` for each
    sampling value.

    `draft` "": no model guesses ahead. `context` 0: as much as the checkpoint allows. `threads` 0:
    as the machine allows. `kv_disk`: in GiB. `max_tokens` -1: until eos or a full context.
    `truncate` None: refuse what does not fit. `keys`: action id → keys, comma separated. `backend`:
    a name of `backends.NAMES`.
    """

    model: str = DEFAULT_MODEL
    backend: str = "local"
    device: str = "auto"
    dtype: str = "auto"
    quant: str = "auto"
    context: int = 0
    threads: int = 0
    lookup: bool = True
    kv_disk: float = 4.0
    draft: str = ""
    preset: str = presets.DEFAULT_PRESET
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    branches: int = 1
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    special: bool = True
    truncate: Truncate | None = None
    choices: int = 10
    save: bool = True
    theme: str = "ember"
    heat: bool = True
    layout: Layout = "panes"
    mouse: bool = True
    keys: Mapping[str, str] = field(default_factory=dict)
    presets: Mapping[str, Preset] = field(default_factory=dict)
    origin: Mapping[str, Origin] = field(default_factory=dict, compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def explicit(self, name: str) -> bool:
        """Whether a person set it: `explicit("max_tokens")`, `explicit("sampling.top_p")`."""
        return name in self.origin and self.origin[name].explicit


# -- what each setting may be ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """One setting that is not a sampling value: how a value from outside becomes ours, and who may
    set it.
    """

    name: str
    help: str
    check: Callable[[object], Any]
    project: bool = False


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"a text is wanted, not {value!r}")
    return value


def _text_or_none(value: object) -> str:
    return "" if value == "" else _text(value)


def _switch(value: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    if not isinstance(value, bool):
        raise ValueError(f"true or false is wanted, not {value!r}")
    return value


def _whole(low: int, high: int) -> Callable[[object], int]:
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


def _size(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"a number of GiB is wanted, not {value!r}")
    try:
        size = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"a number of GiB is wanted, not {value!r}") from None
    if not 0 <= size <= MOST_GIB:
        raise ValueError(f"{value} is not from 0 to {MOST_GIB:,}")
    return size


def _one_of(names: Mapping[str, Any]) -> Callable[[object], Any]:
    def check(value: object) -> Any:
        if not isinstance(value, str) or value.lower() not in names:
            near = get_close_matches(str(value).lower(), names, 1)
            cure = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{value!r} is none of {', '.join(names)}{cure}")
        return names[value.lower()]

    return check


def _device(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?", value):
        raise ValueError(f"{value!r} is none of auto, cpu, cuda, cuda:0 …, mps, xpu")
    return value


def _stops(value: object) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else value
    if not isinstance(stops, list | tuple) or not all(isinstance(each, str) for each in stops):
        raise ValueError(f"a text or a list of texts is wanted, not {value!r}")
    if "" in stops:
        raise ValueError("an empty stop string would stop at once")
    if len(stops) > MAX_STOP:
        raise ValueError(f"{len(stops)} stop strings are more than {MAX_STOP}")
    return tuple(stops)


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


FIELDS: Final = (
    Field("model", "a hub id, a local folder, or `demo`", _text),
    Field("backend", "where tokens come from", _text),
    Field("device", "auto, cpu, cuda, cuda:N, mps, xpu", _device),
    Field("dtype", "auto, bf16, fp16, fp32, or torch's names", _one_of(DTYPES)),
    Field("quant", "auto, none, int8, int4, nf4", _one_of(_same(*QUANTS))),
    Field(
        "context", "most tokens of prompt and completion; 0: the model's", _whole(0, 2**31), True
    ),
    Field("threads", "CPU threads; 0: as the machine allows", _whole(0, 4096)),
    Field("lookup", "guess ahead from text that was seen before", _switch),
    Field("kv_disk", "most GiB kept on disk so that long texts resume at once; 0: none", _size),
    Field("draft", "a smaller model that guesses ahead: as `model`; empty: none", _text_or_none),
    Field("preset", "a named set of sampling values", _text, True),
    Field("max_tokens", "most tokens to generate; -1: until the end", _whole(-1, 2**31), True),
    Field("branches", "how many completions at once", _whole(1, 64), True),
    Field("stop", "texts that end a completion", _stops, True),
    Field("ignore_eos", "go on where the model would end", _switch, True),
    Field("special", "read special tokens' spellings as tokens", _switch),
    Field(
        "truncate",
        "what to do with a prompt that does not fit: refuse, left, middle",
        _one_of({"refuse": None, "left": "left", "middle": "middle"}),
        True,
    ),
    Field("choices", "candidates reported per token", _whole(0, 100), True),
    Field("save", "save sessions as they happen", _switch),
    Field("theme", "the name of a theme", _text, True),
    Field("heat", "colour the output by probability", _switch),
    Field(
        "layout",
        "where a completion is written: panes (beside the text), inline (in the text)",
        _one_of(_same("panes", "inline")),
        True,
    ),
    Field("mouse", "use the mouse", _switch),
)
FIELD: Final[Mapping[str, Field]] = {each.name: each for each in FIELDS}
