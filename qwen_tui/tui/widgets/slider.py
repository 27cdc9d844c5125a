"""A slider of line characters: the position of a value in its range, and its distance from
neutral.
"""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from qwen_tui.numeric_settings import NumericSetting
from qwen_tui.tui.sampling_controls import fraction

LEAST_CELLS = 3
"""The smallest width at which a slider is drawn."""


def slider(
    setting: NumericSetting, value: float, cells: int, *, track: Style, fill: Style, knob: Style
) -> list[Segment]:
    """The slider in so many cells, filled between the neutral value and the knob."""
    if cells < LEAST_CELLS:
        return []
    place = round(fraction(setting, value) * (cells - 1))
    rest = round(fraction(setting, setting.neutral) * (cells - 1))
    low, high = min(place, rest), max(place, rest)
    parts = [
        ("─" * low, track),
        ("━" * (high - low + 1), fill),
        ("─" * (cells - 1 - high), track),
    ]
    line = Strip([Segment(text, style) for text, style in parts if text])
    before, _, after = line.divide([place, place + 1, cells])
    return [*before, Segment("●", knob), *after]
