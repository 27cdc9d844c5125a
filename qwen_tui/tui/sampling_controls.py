"""The state of the sampling controls: rows, values and presets.

Law: ranges come from `numeric_settings`; nothing here knows a widget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from qwen_tui import presets
from qwen_tui.numeric_settings import (
    NUMERIC_SETTING,
    NUMERIC_SETTINGS,
    SWITCHES,
    NumericSetting,
    idle,
)
from qwen_tui.presets import Preset
from qwen_tui.safe_text import visible
from qwen_tui.types import DEFAULT_ORDER, Sampling, Trouble

MAX_TOKENS: Final = NumericSetting(
    "max_tokens",
    "max tokens",
    -1,
    10_000_000,
    8192,
    16,
    -1,
    True,
    "the most tokens one completion may have; -1 is until the end of text or a full context",
)
BRANCHES: Final = NumericSetting(
    "branches",
    "completions",
    1,
    16,
    8,
    1,
    1,
    True,
    "how many completions one generation makes, side by side",
)
SHORT: Final = {
    "repetition_penalty": "repetition",
    "presence_penalty": "presence",
    "frequency_penalty": "frequency",
    "repeat_last_n": "penalty window",
    "logit_bias": "logit bias",
}
PRESET, STOP, SEED = "preset", "stop", "seed"
MORE: Final = tuple(setting for setting in NUMERIC_SETTINGS if setting.on is not None)
"""The samplers that have no row until they are switched on."""
_ALWAYS: Final = (
    setting.name for setting in NUMERIC_SETTINGS if setting.on is None and not setting.of
)
ROWS: Final = (PRESET, *_ALWAYS, "max_tokens", "branches", STOP, SEED)
"""Every row that is always there, from the top."""
BIAS: Final = "logit_bias"
"""The row below them while there are logit biases; Del removes them all."""
_STAGES: Final = {setting: stage for stage, setting in SWITCHES.items()}
ROW_SETTINGS: Final = {**NUMERIC_SETTING, "max_tokens": MAX_TOKENS, "branches": BRANCHES}


@dataclass(frozen=True, slots=True)
class Controls:
    """Everything a person sets before a generation. `preset` is the name chosen last, `shown` the
    samplers that keep their row although they are off.
    """

    sampling: Sampling
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    branches: int = 1
    preset: str = presets.DEFAULT_PRESET
    shown: frozenset[str] = frozenset()

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows to show, from the top: the permanent ones, logit biases, and the samplers that
        were switched on with their parameters.
        """
        on = {each.name for each in MORE if not idle(self.sampling, each.name)} | self.shown
        more = (each.name for each in NUMERIC_SETTINGS if each.name in on or each.of in on)
        return (*ROWS, *((BIAS,) if self.sampling.logit_bias else ()), *more)

    def value(self, name: str) -> Any:
        """The value of a row by its name."""
        return getattr(self if name in ("max_tokens", "branches") else self.sampling, name)

    def with_value(self, name: str, value: Any) -> Controls:
        """The same controls with one value changed. A sampler that is switched on is added to the
        order if missing, and keeps its row when it is turned to neutral.
        """
        if name in ("max_tokens", "branches"):
            return replace(self, **{name: value})
        sampling = replace(self.sampling, **{name: value})
        stage = _STAGES.get(name)
        if stage is not None and stage not in sampling.order and not idle(sampling, name):
            sampling = replace(sampling, order=_with_stage(sampling.order, stage))
        shown = self.shown | {name} if any(each.name == name for each in MORE) else self.shown
        return replace(self, sampling=sampling, shown=shown)

    def switched_on(self, name: str) -> Controls:
        """The same controls with a sampler at the value it begins with, unless it is on."""
        value = NUMERIC_SETTING[name].on
        if value is None or not idle(self.sampling, name):
            return self
        return self.with_value(name, NUMERIC_SETTING[name].check(value))

    def stepped(self, name: str, steps: int) -> Controls:
        """The same controls with the value of one row moved by `steps`; a seed that is not fixed
        has no steps.
        """
        if name == SEED:
            seed = self.sampling.seed
            fixed = None if seed is None else min(presets.MAX_SEED, max(0, seed + steps))
            return self.with_value(SEED, fixed)
        setting = ROW_SETTINGS.get(name)
        return self.with_value(name, setting.moved(self.value(name), steps)) if setting else self


def _with_stage(order: tuple[str, ...], stage: str) -> tuple[str, ...]:
    """The order with a stage added, after those that come before it by default."""
    before = DEFAULT_ORDER[: DEFAULT_ORDER.index(stage)]
    place = max((at + 1 for at, each in enumerate(order) if each in before), default=0)
    return (*order[:place], stage, *order[place:])


@dataclass(frozen=True, slots=True)
class PresetChoices:
    """The available presets: a person's `own` by name, ours, and the model's recommended values
    (`checkpoint`; None until the model's card is read).
    """

    own: Mapping[str, Preset] = field(default_factory=dict)
    checkpoint: Sampling | None = None

    def label(self, controls: Controls) -> str:
        """The name of the preset whose values these are, or `custom`."""
        asked = self.checkpoint and replace(self.checkpoint, seed=controls.sampling.seed)
        if controls.preset == presets.CHECKPOINT and asked == controls.sampling:
            return "Checkpoint's"
        found = presets.matching(controls.sampling, dict(self.own))
        return found.label if found is not None else "custom"

    def taken(self, controls: Controls, name: str) -> Controls:
        """The controls with every sampling value of a preset except the seed; unchanged if there is
        no such preset.
        """
        try:
            found = presets.named(name, dict(self.own))
        except Trouble:
            return controls
        sampling = found.sampling or self.checkpoint
        if sampling is None:
            return controls
        sampling = replace(sampling, seed=controls.sampling.seed)
        return replace(controls, sampling=sampling, preset=found.name)

    def after(self, controls: Controls, steps: int) -> Controls:
        """The controls with the preset `steps` after the one chosen last."""
        names = [*self.own, *(each.name for each in presets.PRESETS)]
        if self.checkpoint is None:
            names.remove(presets.CHECKPOINT)
        place = names.index(controls.preset) if controls.preset in names else -1
        return self.taken(controls, names[(place + steps) % len(names)])


def row_help(row: str) -> str:
    """One line on a row: its range and neutral value, or how it is changed."""
    if row in ROW_SETTINGS:
        setting = ROW_SETTINGS[row]
        return f"{setting.range} · neutral {setting.show(setting.neutral)}"
    other = {SEED: "0 to 2⁶⁴−1 · Del: fresh", PRESET: "← → choose", BIAS: "Del: no bias"}
    return other.get(row, "Enter edits them")


def made_words(row: str, controls: Controls, made: Sampling | None) -> str:
    """The value of a row that the completion on the screen was `made` with, in words; empty where
    it is the row's own, or a fresh seed is.
    """
    if made is None or not hasattr(made, row):
        return ""
    value, now = getattr(made, row), controls.value(row)
    if value == now or (row == SEED and now is None):
        return ""
    if row in ROW_SETTINGS:
        return f"made with {ROW_SETTINGS[row].show(value)}"
    was = replace(controls, sampling=made)
    return f"made with {value if row == SEED else row_words(row, was, '', None)[0] or 'none'}"


def row_words(row: str, controls: Controls, preset: str, last_seed: int | None) -> tuple[str, bool]:
    """The value of a row without a slider, in words, and whether it has no effect. `preset` is the
    preset's label, `last_seed` the seed of the last generation.
    """
    if row == PRESET:
        return f"‹ {preset} ›", False
    if row == SEED:
        seed = controls.sampling.seed
        if seed is not None:
            return f"{seed} fixed", False
        return ("fresh" if last_seed is None else f"fresh · {last_seed}"), True
    if row == BIAS:
        return " ".join(f"{id}={bias:g}" for id, bias in controls.sampling.logit_bias), False
    stops = " ".join(visible(repr(each)[1:-1]).replace(" ", "␣") for each in controls.stop)
    return stops or "none", not stops


def read_value(row: str, text: str) -> Any:
    """The value of a row from typed text; ValueError with the reason if it is invalid."""
    return ROW_SETTINGS[row].read(text) if row in ROW_SETTINGS else presets.checked(row, text)


def fraction(setting: NumericSetting, value: float) -> float:
    """The position of a value on its slider, 0 … 1; wide integer ranges are logarithmic."""
    low, high = setting.low, setting.usual
    if setting.integer and high - low > 64:
        return _unit(math.log1p(value - low) / math.log1p(high - low))
    return _unit((value - low) / (high - low))


def at_fraction(setting: NumericSetting, part: float) -> int | float:
    """The value at a position of the slider, rounded to the setting's step."""
    low, high = setting.low, setting.usual
    if setting.integer and high - low > 64:
        raw = low + math.expm1(_unit(part) * math.log1p(high - low))
        return setting.check(round(raw))
    raw = low + _unit(part) * (high - low)
    return setting.check(
        min(setting.high, max(setting.low, round(round(raw / setting.step) * setting.step, 6)))
    )


def _unit(part: float) -> float:
    return min(1.0, max(0.0, part))
