"""Finding a string in a text; the matches are counted, so that a bar can say `2 of 7`."""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

MATCHES_MOST: Final = 10_000
"""Matches that are found in one text; later ones are left out."""


def find_all(text: str, needle: str) -> list[int]:
    """The offsets in characters where `needle` begins, upper and lower case alike; matches do not
    overlap. An empty needle is found nowhere.
    """
    if not needle:
        return []
    found = re.finditer(re.escape(needle), text, re.IGNORECASE)
    return [match.start() for match in islice(found, MATCHES_MOST)]
