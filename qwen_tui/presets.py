"""Sampling values as data: the table of numeric ones (name, range, step, neutral, help) and the
named presets.

Law: the interface's controls, the command line's help and every check of a value read this table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from qwen_tui.types import BAD_DATA, DEFAULT_ORDER, USAGE, Sampling, Trouble

MAX_SEED: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Dial:
    """One numeric sampling value: what it may be, how a key press moves it, and the value that
    switches it off.

    `low` and `high` are the limits of what is accepted, both included; `usual` is where a slider
    ends.
    """

    name: str
    label: str
    low: float
    high: float
    usual: float
    step: float
    neutral: float
    integer: bool
    help: str

    @property
    def range(self) -> str:
        """The accepted range as a person reads it: `0 to 1`."""
        return f"{self.low:g} to {self.high:g}"

    def check(self, value: object) -> int | float:
        """`value` as this dial's type; ValueError with a sentence for a person when it is not one
        of its values.
        """
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{self.label} is a number from {self.range}, not {value!r}")
        if not math.isfinite(value) or not self.low <= value <= self.high:
            raise ValueError(f"{self.label} goes from {self.range}, not {value:g}")
        if not self.integer:
            return float(value)
        if value != int(value):
            raise ValueError(f"{self.label} is a whole number, not {value:g}")
        return int(value)

    def read(self, text: str) -> int | float:
        """What a person typed, checked; ValueError as `check`."""
        try:
            value = float(text.strip())
        except ValueError:
            raise ValueError(f"{self.label} is a number from {self.range}, not {text!r}") from None
        return self.check(value)

    def show(self, value: float) -> str:
        """The shortest text that `read` gives the same value for."""
        return str(int(value)) if self.integer else f"{value:.6g}"

    def moved(self, value: float, steps: int) -> int | float:
        """`value` moved by `steps` steps, onto the grid of steps, kept inside the range."""
        grid = round(value / self.step) + steps
        return self.check(min(self.high, max(self.low, round(grid * self.step, 6))))


DIALS: Final = (
    Dial(
        "temperature", "temperature", 0, 5, 2, 0.05, 1.0, False,
        "flattens (above 1) or sharpens (below 1) the distribution; 0 always takes the likeliest",
    ),
    Dial("top_k", "top-k", 0, 200_000, 200, 1, 0, True, "keeps the k likeliest tokens; 0 is off"),
    Dial(
        "top_p", "top-p", 0, 1, 1, 0.01, 1.0, False,
        "keeps the likeliest tokens whose probabilities add up to p; 1 is off",
    ),
    Dial(
        "min_p", "min-p", 0, 1, 1, 0.01, 0.0, False,
        "keeps tokens at least this fraction as likely as the likeliest; 0 is off",
    ),
    Dial(
        "typical_p", "typical-p", 0, 1, 1, 0.01, 1.0, False,
        "keeps tokens whose surprise is nearest the average, up to this mass; 1 is off",
    ),
    Dial(
        "repetition_penalty", "repetition penalty", 0.01, 10, 2, 0.01, 1.0, False,
        "divides the scores of tokens already in the window; 1 is off",
    ),
    Dial(
        "presence_penalty", "presence penalty", -2, 2, 2, 0.05, 0.0, False,
        "lowers the score of every token already in the window; 0 is off",
    ),
    Dial(
        "frequency_penalty", "frequency penalty", -2, 2, 2, 0.05, 0.0, False,
        "lowers a token's score for each time it stands in the window; 0 is off",
    ),
    Dial(
        "repeat_last_n", "repeat last n", -1, 10_000_000, 1024, 16, 64, True,
        "the penalties' window in tokens; -1 is the whole context, 0 switches them off",
    ),
)  # fmt: skip
"""Every numeric sampling value, in the order a person meets them."""

DIAL: Final[Mapping[str, Dial]] = {dial.name: dial for dial in DIALS}
NAMES: Final = tuple(each.name for each in fields(Sampling))
"""Every sampling value's name: the dials', then `logit_bias`, `order`, `seed`."""

STAGE_HELP: Final[Mapping[str, str]] = {
    "bias": "adds the logit biases",
    "penalties": "repetition, presence and frequency penalties",
    "top_k": DIAL["top_k"].help,
    "typical_p": DIAL["typical_p"].help,
    "top_p": DIAL["top_p"].help,
    "min_p": DIAL["min_p"].help,
    "temperature": DIAL["temperature"].help,
}
STAGES: Final = tuple(STAGE_HELP)
_STAGE_ALIASES: Final[Mapping[str, str]] = {
    "logit_bias": "bias",
    "typ_p": "typical_p",
    "typical": "typical_p",
    "temp": "temperature",
    "penalty": "penalties",
}


# -- checking values -------------------------------------------------------------------------------


def checked(name: str, value: object) -> Any:
    """`value` as `Sampling.<name>` wants it, from a number, a list or the text a person typed.

    ValueError with a sentence for a person when it cannot be that; KeyError when there is no such
    sampling value.
    """
    if name in DIAL:
        return DIAL[name].read(value) if isinstance(value, str) else DIAL[name].check(value)
    return {"seed": _seed, "order": _order, "logit_bias": _biases}[name](value)


def _seed(value: object) -> int | None:
    if isinstance(value, str):
        if value.strip().lower() in ("", "random", "none"):
            return None
        try:
            value = int(value, 0)
        except ValueError:
            raise ValueError(f"seed is a whole number or `random`, not {value!r}") from None
    if value is None or value == -1:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"seed is a whole number or `random`, not {value!r}")
    if not 0 <= value <= MAX_SEED:
        raise ValueError(f"seed goes from 0 to {MAX_SEED} (-1: a fresh one), not {value}")
    return value


def _order(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part for part in value.replace(",", ";").split(";") if part.strip()]
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"order is a list of stages, as `top_k;top_p;temperature`, not {value!r}")
    order = []
    for each in value:
        name = each.strip().lower().replace("-", "_")
        name = _STAGE_ALIASES.get(name, name)
        if name not in STAGES:
            near = get_close_matches(name, STAGES, 1)
            cure = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"there is no sampler {each!r}{cure} (there are {', '.join(STAGES)})")
        if name in order:
            raise ValueError(f"sampler {name} is named twice")
        order.append(name)
    return tuple(order)


def _biases(value: object) -> tuple[tuple[int, float], ...]:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple):
        raise ValueError(f"a logit bias is ID=VALUE, as `198=-1.5` or `198=-inf`, not {value!r}")
    biases = dict(_bias(each) for each in pairs)
    return tuple(sorted(biases.items()))


def _bias(pair: object) -> tuple[int, float]:
    """One bias from `(id, value)` or from `ID=VALUE`, also as llama.cpp's `ID+1`."""
    wrong = ValueError(f"a logit bias is ID=VALUE, as `198=-1.5` or `198=-inf`, not {pair!r}")
    if isinstance(pair, str):
        text = pair.strip()
        digits = len(text) - len(text.lstrip("0123456789"))
        rest = text[digits:]
        pair = (text[:digits], rest[1:] if rest[:1] in ("=", ":") else rest)
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise wrong
    try:
        token, bias = int(pair[0]), float(pair[1])
    except (TypeError, ValueError):
        raise wrong from None
    if token < 0 or math.isnan(bias) or bias == math.inf:
        raise wrong
    return token, bias


# -- presets ---------------------------------------------------------------------------------------

RAW: Final = Sampling(min_p=0.0)
"""Every stage neutral: the model's own distribution."""

HF_ORDER: Final = (
    "bias", "penalties", "temperature", "top_k", "top_p", "min_p", "typical_p",
)  # fmt: skip
"""transformers' order (generation/utils.py, `_get_logits_processor`): temperature before the
truncations.
"""


@dataclass(frozen=True, slots=True)
class Preset:
    """A named set of sampling values. `sampling` None: it is read from the checkpoint
    (`checkpoint`).
    """

    name: str
    label: str
    help: str
    sampling: Sampling | None


CHECKPOINT: Final = "checkpoint"
DEFAULT_PRESET: Final = "balanced"

PRESETS: Final = (
    Preset("raw", "Raw", "everything neutral: the model's own distribution", RAW),
    Preset(
        CHECKPOINT,
        "Checkpoint's",
        "what the model's makers wrote into its generation_config.json",
        None,
    ),
    # min-p at 0.05–0.1 keeps text coherent without touching the shape of what remains (arXiv
    # 2407.01082).
    Preset("balanced", "Balanced", "temperature 1, min-p 0.05: the default", Sampling()),
    # The pair that paper recommends for creative writing; temperature runs last, so what is kept
    # does not depend on it.
    Preset(
        "creative",
        "Creative",
        "temperature 1.5 with min-p 0.1: surprising, yet coherent",
        Sampling(temperature=1.5, min_p=0.1),
    ),
    # Codex samples code at temperature 0.2, top-p 0.95 when one attempt must be right (arXiv
    # 2107.03374).
    Preset(
        "precise",
        "Precise",
        "temperature 0.2 with top-p 0.95: code and facts",
        Sampling(temperature=0.2, top_p=0.95, min_p=0.0),
    ),
    Preset(
        "deterministic",
        "Deterministic",
        "greedy: always the likeliest token",
        replace(RAW, temperature=0.0),
    ),
    # common/common.h, common_params_sampling.
    Preset(
        "llama.cpp",
        "llama.cpp defaults",
        "temperature 0.8, top-k 40, top-p 0.95, min-p 0.05",
        Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, repeat_last_n=64),
    ),
    # generation/configuration_utils.py; its penalty sees the whole context.
    Preset(
        "hf",
        "HF defaults",
        "transformers with do_sample: temperature 1 first, top-k 50",
        replace(RAW, top_k=50, repeat_last_n=-1, order=HF_ORDER),
    ),
)

_PRESET_ALIASES: Final[Mapping[str, str]] = {
    "checkpoint's": CHECKPOINT,
    "checkpoints": CHECKPOINT,
    "greedy": "deterministic",
    "neutral": "raw",
    "llamacpp": "llama.cpp",
    "llama-cpp": "llama.cpp",
    "transformers": "hf",
}


def named(name: str, own: Mapping[str, Preset] | None = None) -> Preset:
    """The preset of that name (a person's `own` first, then the shipped); Trouble (2) names the
    nearest.
    """
    own = own or {}
    if name in own:
        return own[name]
    wanted = name.strip().lower()
    known = {each.name: each for each in PRESETS} | {each.label.lower(): each for each in PRESETS}
    wanted = _PRESET_ALIASES.get(wanted, wanted)
    if wanted in known:
        return known[wanted]
    names = [*own, *(each.name for each in PRESETS)]
    near = get_close_matches(wanted, names, 1)
    raise Trouble(
        f"there is no preset {name!r}" + (f"; did you mean {near[0]}?" if near else ""),
        hint=f"presets: {', '.join(names)}",
        code=USAGE,
    )


def neutralise(sampling: Sampling) -> Sampling:
    """Every stage neutral; the seed and the order stay, for they cut nothing."""
    return replace(RAW, seed=sampling.seed, order=sampling.order)


def is_neutral(sampling: Sampling, name: str) -> bool:
    """Whether the value of that name changes nothing."""
    value = getattr(sampling, name)
    if name in DIAL:
        return bool(value == DIAL[name].neutral)
    return bool(value == {"logit_bias": (), "order": DEFAULT_ORDER, "seed": None}[name])


def matching(sampling: Sampling, own: Mapping[str, Preset] | None = None) -> Preset | None:
    """The preset whose values these are, whatever the seed; None when they are nobody's."""
    for each in [*(own or {}).values(), *PRESETS]:
        if each.sampling is not None and replace(each.sampling, seed=sampling.seed) == sampling:
            return each
    return None


def checkpoint(folder: Path) -> Sampling:
    """What `generation_config.json` of a snapshot asks for, as transformers would read it.

    No `do_sample` is greedy there, and a missing `top_k` is 50 (generation/configuration_utils.py).
    A missing file gives the `hf` preset; Trouble (65) names a file or value that cannot be read.
    """
    file = folder / "generation_config.json"
    defaults = named("hf").sampling
    assert defaults is not None
    try:
        asked = json.loads(file.read_bytes())
    except FileNotFoundError:
        return defaults
    except (OSError, ValueError, RecursionError) as error:
        raise Trouble(f"{file} cannot be read: {error}", code=BAD_DATA) from None
    if not isinstance(asked, dict):
        raise Trouble(f"{file} does not hold an object", code=BAD_DATA)
    wanted = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
    try:
        values = {
            name: checked(name, asked[name]) for name in wanted if asked.get(name) is not None
        }
    except ValueError as error:
        raise Trouble(f"{file}: {error}", code=BAD_DATA) from None
    if asked.get("do_sample") is not True:
        penalty = values.get("repetition_penalty", 1.0)
        return replace(defaults, temperature=0.0, top_k=0, repetition_penalty=penalty)
    return replace(defaults, **values)
