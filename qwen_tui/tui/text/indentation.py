"""How a text is indented, and where its next and last steps of indentation are.

Law: what a file does is gone on with: its tabs stay tabs, its spaces come in its own number.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from typing import Final

USUAL: Final = 4
"""Spaces of a step where the text shows none."""
MOST_LINES: Final = 2000
"""Lines that are looked at."""
_LINE: Final = re.compile(r"^[ \t]*(?=\S)", re.MULTILINE)


def step_of(text: str) -> str:
    """What one step of indentation is in this text: a tab, or so many spaces.

    Spaces are counted where a line stands deeper than the one before it.
    """
    tabs, deeper, last = 0, Counter[int](), 0
    for found in islice(_LINE.finditer(text), MOST_LINES):
        if found[0].startswith("\t"):
            tabs += 1
            continue
        if (by := len(found[0]) - last) > 1:
            deeper[by] += 1
        last = len(found[0])
    if tabs > sum(deeper.values()):
        return "\t"
    likeliest = max(deeper, key=lambda by: (deeper[by], -by)) if deeper else USUAL
    return " " * min(likeliest, 8)


def indent(before: str, step: str) -> str:
    """What brings the cursor from behind `before`, the start of its line, to the next step."""
    if step == "\t":
        return step
    return " " * (len(step) - len(before.expandtabs(8)) % len(step))


def outdent(line: str, step: str) -> int:
    """How many characters a line loses at its start to stand one step less deep."""
    if line.startswith("\t"):
        return 1
    return min(len(line) - len(line.lstrip(" ")), len(step) if step != "\t" else USUAL)
