"""Detects a text's indentation, and computes the next and previous step.

Law: the text's own style is continued: tabs or its number of spaces.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from typing import Final

USUAL: Final = 4
"""Spaces of a step if the text has no indentation."""
MOST_LINES: Final = 2000
"""Lines that are examined."""
_LINE: Final = re.compile(r"^[ \t]*(?=\S)", re.MULTILINE)


def step_of(text: str) -> str:
    """One step of indentation in this text: a tab, or a number of spaces.

    Spaces are counted where a line is deeper than the one before it.
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
    """The characters that indent to the next step after `before`, the beginning of the line."""
    if step == "\t":
        return step
    return " " * (len(step) - len(before.expandtabs(8)) % len(step))


def outdent(line: str, step: str) -> int:
    """How many characters to remove from a line's start for one step less."""
    if line.startswith("\t"):
        return 1
    return min(len(line) - len(line.lstrip(" ")), len(step) if step != "\t" else USUAL)
