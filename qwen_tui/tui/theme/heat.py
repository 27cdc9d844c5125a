"""Log-probability → one of eight levels → the theme's style.

Law: the level depends on the probability alone, so the same colour always means the same
probability; styles are computed once.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

from rich.style import Style
from textual.color import Color

from qwen_tui.tui.theme.app_theme import HEAT_LEVELS, AppTheme, Palette

LEVEL_FLOORS: Final = (0.9, 0.7, 0.5, 0.25, 0.1, 0.03, 0.005)
"""The lowest probability of each level but the last; in bits 0.15, 0.5, 1, 2, 3.3, 5.1, 7.6."""

_DIM: Final = Style(dim=True)
_FADED_TEXT: Final = 0.65
"""How much of black or white the text over a faded background has."""

_EDGES: Final = tuple(-math.log(floor) for floor in LEVEL_FLOORS)
assert len(_EDGES) == HEAT_LEVELS - 1


def level_of(logprob: float | None) -> int | None:
    """The level 0 (certain) … 7 (surprising) of a natural log-probability; None for None and
    NaN.
    """
    if logprob is None or logprob != logprob:
        return None
    return bisect_right(_EDGES, -logprob - 1e-12)


@dataclass(frozen=True)
class Heat:
    """A theme's styles for painting tokens; hashable by content."""

    levels: tuple[Style, ...]
    palette: Palette
    faded: tuple[Style, ...] = ()
    """The levels of stale records, halfway to the background; without them they are dim."""

    @classmethod
    def of(cls, theme: AppTheme, *, colour: bool = True) -> Heat:
        """The styles of a theme; without `colour` by underline, bold and italic."""
        used = theme if colour else theme.without_colour()
        faded = tuple(_faded(style, used.theme.background) for style in used.heat)
        return cls(used.heat, used.palette, faded)

    def style(self, logprob: float | None, *, stale: bool = False) -> Style | None:
        """The style of a token; None if its probability is unknown."""
        level = level_of(logprob)
        if level is None or not stale:
            return None if level is None else self.levels[level]
        return self.faded[level] if self.faded else self.levels[level] + _DIM

    def legend(self) -> tuple[tuple[str, Style], ...]:
        """(label, style) of each level, sure first: `≥90%`, `70`, …, `rarer`."""
        labels = [f"≥{LEVEL_FLOORS[0]:.0%}"]
        labels += [f"{floor * 100:g}" for floor in LEVEL_FLOORS[1:]]
        return tuple(zip((*labels, "rarer"), self.levels, strict=True))


def _faded(style: Style, background: str | None) -> Style:
    """A style halfway to the background; without colours of its own, dim."""
    if style.bgcolor is None or background is None:
        return style + _DIM
    half = Color.from_rich_color(style.bgcolor).blend(Color.parse(background), 0.5)
    text = half + half.get_contrast_text(_FADED_TEXT)
    return style + Style(color=text.rich_color, bgcolor=half.rich_color)


def percent(logprob: float | None) -> str:
    """A probability for a person: `99.8%`, `42%`, `0.031%`, `<0.001%`; "" if unknown."""
    if logprob is None or logprob != logprob:
        return ""
    share = math.exp(min(logprob, 0.0)) * 100
    if share >= 99.95:
        return "100%"
    if share >= 99:
        return f"{share:.1f}%"
    if share >= 1:
        return f"{share:.0f}%"
    return f"{share:.2g}%" if share >= 0.001 else "<0.001%"


def bits(logprob: float | None) -> float | None:
    """Surprisal in bits of a natural log-probability."""
    return None if logprob is None or logprob != logprob else -logprob / math.log(2)
