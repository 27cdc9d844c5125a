"""What a person sets before a generation: the rows of the controls, and where a value stands.

Law: ranges come from `presets.DIALS`; nothing here knows a widget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

from qwen_tui import presets
from qwen_tui.presets import DIALS, Dial
from qwen_tui.types import Sampling

MAX_TOKENS: Final = Dial(
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
BRANCHES: Final = Dial(
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
}
PRESET, STOP, SEED = "preset", "stop", "seed"
ROWS: Final = (PRESET, *(dial.name for dial in DIALS), "max_tokens", "branches", STOP, SEED)
"""Every row, from the top."""
ROW_DIALS: Final = {**presets.DIAL, "max_tokens": MAX_TOKENS, "branches": BRANCHES}


@dataclass(frozen=True, slots=True)
class Controls:
    """Everything a person sets before a generation. `preset` is the name chosen last."""

    sampling: Sampling
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    branches: int = 1
    preset: str = presets.DEFAULT_PRESET

    def value(self, name: str) -> Any:
        """The value of a row by its name."""
        return getattr(self if name in ("max_tokens", "branches") else self.sampling, name)

    def with_value(self, name: str, value: Any) -> Controls:
        """The same controls with one value changed."""
        if name in ("max_tokens", "branches"):
            return replace(self, **{name: value})
        return replace(self, sampling=replace(self.sampling, **{name: value}))


def fraction(dial: Dial, value: float) -> float:
    """Where a value stands on its slider, 0 … 1; wide whole-number ranges are logarithmic."""
    low, high = dial.low, dial.usual
    if dial.integer and high - low > 64:
        return _unit(math.log1p(value - low) / math.log1p(high - low))
    return _unit((value - low) / (high - low))


def at_fraction(dial: Dial, part: float) -> int | float:
    """The value at a place of the slider, on the dial's grid of steps."""
    low, high = dial.low, dial.usual
    if dial.integer and high - low > 64:
        raw = low + math.expm1(_unit(part) * math.log1p(high - low))
        return dial.check(round(raw))
    raw = low + _unit(part) * (high - low)
    return dial.check(min(dial.high, max(dial.low, round(round(raw / dial.step) * dial.step, 6))))


def _unit(part: float) -> float:
    return min(1.0, max(0.0, part))
