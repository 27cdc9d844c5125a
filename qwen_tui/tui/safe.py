"""The last line of defence: no control character of any widget reaches the terminal.

Law: what `visible` would have shown is shown; text that is clean passes untouched.
"""

from __future__ import annotations

import re
from typing import Final

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from qwen_tui.visible import cells, visible

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


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
    """The text made visible, in the cells it was laid out for."""
    room = segment.cell_length
    shown = visible(segment.text.replace("\n", "␊").replace("\t", " "))
    if cells(shown) != room:
        shown = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", segment.text)
        while shown and cells(shown) > room:
            shown = shown[:-1]
    return shown + " " * (room - cells(shown))
