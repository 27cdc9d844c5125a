"""Filters of painted lines: no control characters, and no colour if it is refused.

Law: controls are shown as `visible` shows them; without colour, a background becomes reverse video.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter

from qwen_tui.safe_text import visible

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def colour_refused(env: Mapping[str, str] | None = None) -> bool:
    """Whether `NO_COLOR` is set and not empty (no-color.org)."""
    return bool((os.environ if env is None else env).get("NO_COLOR"))


class NoControls(LineFilter):
    """Replaces control and bidi characters in painted text, keeping each segment's width."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The segments, made safe."""
        if not any(_CONTROL.search(text) for text, _, control in segments if not control):
            return segments
        return [
            segment
            if segment.control or not _CONTROL.search(segment.text)
            else Segment(_same_width(segment), segment.style)
            for segment in segments
        ]


def _same_width(segment: Segment) -> str:
    """The text made visible, in the same number of cells."""
    room = segment.cell_length
    shown = visible(segment.text.replace("\n", "␊").replace("\t", " "))
    if cell_len(shown) != room:
        shown = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", segment.text)
        while shown and cell_len(shown) > room:
            shown = shown[:-1]
    return shown + " " * (room - cell_len(shown))


class NoColours(LineFilter):
    """Removes every colour; a background becomes reverse video, so that selections still show."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The segments without colours."""
        return [
            Segment(text, None if style is None else _colourless(style), control)
            for text, style, control in segments
        ]


@lru_cache(maxsize=1024)
def _colourless(style: Style) -> Style:
    standing_out = style.bgcolor is not None and not style.bgcolor.is_default
    return Style(
        bold=style.bold,
        dim=style.dim,
        italic=style.italic,
        underline=style.underline,
        strike=style.strike,
        reverse=bool(style.reverse) != standing_out,
        meta=style.meta or None,
    )
