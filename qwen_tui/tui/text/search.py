"""Finds a string in a text, with a bounded number of matches."""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

MATCHES_MOST: Final = 10_000
"""Most matches found in one text; later ones are ignored."""


def find_all(text: str, needle: str) -> list[int]:
    """The character offsets where `needle` begins, ignoring case; matches do not overlap. An empty
    needle has no matches.
    """
    if not needle:
        return []
    found = re.finditer(re.escape(needle), text, re.IGNORECASE)
    return [match.start() for match in islice(found, MATCHES_MOST)]
