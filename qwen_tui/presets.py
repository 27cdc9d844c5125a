"""Sampling values from outside, checked by the table of numeric settings, and the named presets.

Law: an invalid value is refused with a sentence for a person.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from qwen_tui.numeric_settings import NUMERIC_SETTING
from qwen_tui.sampling import DRY_BREAKERS
from qwen_tui.types import BAD_DATA, DEFAULT_ORDER, USAGE, Sampling, Trouble

MAX_SEED: Final = 2**64 - 1


NAMES: Final = tuple(each.name for each in fields(Sampling))
"""Every sampling value's name."""
STAGES: Final = DEFAULT_ORDER
_STAGE_ALIASES: Final[Mapping[str, str]] = {
    "logit_bias": "bias",
    "typ_p": "typical_p",
    "typical": "typical_p",
    "temp": "temperature",
    "penalty": "penalties",
    "top_nsigma": "top_n_sigma",
    "tfs_z": "tfs",
    "tail_free": "tfs",
    "epsilon_cutoff": "epsilon",
    "eta_cutoff": "eta",
    "dynamic_temperature": "temperature",
    "quadratic_sampling": "smoothing",
    "adaptive": "adaptive_p",
}


# -- checking values -------------------------------------------------------------------------------


def checked(name: str, value: object) -> Any:
    """`value` converted to the type of `Sampling.<name>`, from a number, a list or typed text.

    ValueError with a sentence for a person if it is invalid; KeyError for an unknown name.
    """
    if name in NUMERIC_SETTING:
        return (
            NUMERIC_SETTING[name].read(value)
            if isinstance(value, str)
            else NUMERIC_SETTING[name].check(value)
        )
    checks: Mapping[str, Callable[[object], Any]] = {
        "seed": _seed, "order": _order, "logit_bias": _biases, "dry_sequence_breakers": _breakers,
    }  # fmt: skip
    return checks[name](value)


def _breakers(value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(each, str) for each in texts):
        raise ValueError(f"a sequence breaker is a text, not {value!r}")
    if "" in texts:
        raise ValueError("an empty sequence breaker would stand everywhere")
    return () if list(texts) == ["none"] else tuple(texts)


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
    "bias", "penalties", "dry", "no_repeat_ngram", "smoothing", "temperature", "top_h", "top_k",
    "top_p", "min_p", "typical_p", "epsilon", "eta", "top_n_sigma", "tfs", "top_a", "xtc",
    "mirostat", "adaptive_p",
)  # fmt: skip
"""transformers' order (generation/utils.py, `_get_logits_processor`): temperature before the
truncations; stages it lacks come after similar ones."""


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
    """Every stage neutral; seed and order are kept."""
    return replace(RAW, seed=sampling.seed, order=sampling.order)


def is_neutral(sampling: Sampling, name: str) -> bool:
    """Whether a value has no effect."""
    value = getattr(sampling, name)
    if name in NUMERIC_SETTING:
        return bool(value == NUMERIC_SETTING[name].neutral)
    neutral = {
        "logit_bias": (),
        "order": DEFAULT_ORDER,
        "seed": None,
        "dry_sequence_breakers": DRY_BREAKERS,
    }
    return bool(value == neutral[name])


def matching(sampling: Sampling, own: Mapping[str, Preset] | None = None) -> Preset | None:
    """The preset with these values, ignoring the seed; None if there is none."""
    for each in [*(own or {}).values(), *PRESETS]:
        if each.sampling is not None and replace(each.sampling, seed=sampling.seed) == sampling:
            return each
    return None


def checkpoint(folder: Path) -> Sampling:
    """The sampling in a snapshot's `generation_config.json`, as transformers reads it.

    There a missing `do_sample` means greedy and a missing `top_k` 50
    (generation/configuration_utils.py). A missing file gives the `hf` preset; Trouble (65) names a
    file or value that cannot be read.
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
