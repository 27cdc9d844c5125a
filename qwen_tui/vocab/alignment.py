"""Maps between the tokens and characters of an old text, and how far a new text agrees with it.

Law: offsets are characters of the decoded text, in which each bad UTF-8 sequence is one U+FFFD.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final

from qwen_tui.types import Token

SURROGATE: Final = re.compile(r"[\ud800-\udfff]+")
_ESCAPED: Final = range(0xDC80, 0xDD00)
"""The code points by which `surrogateescape` represents bytes 0x80 … 0xff."""


def to_bytes(text: str) -> bytes:
    """UTF-8; bytes that `surrogateescape` escaped come out as they were, and other lone surrogates
    become U+FFFD.
    """
    if not SURROGATE.search(text):
        return text.encode("utf-8")
    valid = SURROGATE.sub(
        lambda run: "".join(c if ord(c) in _ESCAPED else "\ufffd" for c in run[0]), text
    )
    return valid.encode("utf-8", "surrogateescape")


class TokenText:
    """The text of a run of tokens, and the mapping from its characters to the tokens."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        pieces = [token.data for token in tokens]
        self.tokens = tokens
        self._ends = list(accumulate(map(len, pieces), initial=0))
        self._bad: list[tuple[int, int]] = []
        self.text = "".join(self._decoded(b"".join(pieces)))

    def _decoded(self, data: bytes) -> Iterator[str]:
        """The text piece by piece; records as (character, byte) where each bad sequence ends."""
        escaped = data.decode("utf-8", "surrogateescape")
        at = byte = character = 0
        for run in SURROGATE.finditer(escaped):
            good, bad = escaped[at : run.start()], run[0].encode("utf-8", "surrogateescape")
            byte, character = byte + len(good.encode("utf-8")), character + len(good)
            shown = 0
            for length in _bad_lengths(bad):
                byte, character, shown = byte + length, character + 1, shown + 1
                self._bad.append((character, byte))
            yield good + "\ufffd" * shown
            at = run.end()
        yield escaped[at:]

    def byte_at(self, character: int) -> int:
        """The byte offset of a character offset."""
        place = bisect_right(self._bad, (character, self._ends[-1]))
        before, at = self._bad[place - 1] if place else (0, 0)
        return at + len(self.text[before:character].encode("utf-8"))

    def token_at(self, character: int) -> int | None:
        """How many tokens end exactly at a character, those without bytes included; None inside a
        token.
        """
        byte = self.byte_at(character)
        place = bisect_right(self._ends, byte) - 1
        return place if self._ends[place] == byte else None

    def last_of(self, wanted: Callable[[Token], bool], start: int, end: int) -> tuple[int, int]:
        """The end of the last wanted token that ends in `start` … `end`, as (character
        offset, tokens before it); (0, 0) if there is none.
        """
        least = self.byte_at(start)
        place = bisect_right(self._ends, self.byte_at(end)) - 1
        while place and self._ends[place] >= least:
            if wanted(self.tokens[place - 1]):
                return self._character_at(self._ends[place], start), place
            place -= 1
        return 0, 0

    def _character_at(self, byte: int, low: int) -> int:
        """The character offset, not below `low`, of the byte where a token ends."""
        high = len(self.text)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.byte_at(middle) < byte else (low, middle)
        return low


def _bad_lengths(bad: bytes) -> Iterator[int]:
    """How many bytes each U+FFFD replaces, for bytes none of which can be decoded."""
    at = 0
    while at < len(bad):
        try:
            bad[at : at + 4].decode("utf-8")
        except UnicodeDecodeError as error:
            yield error.end - error.start
            at += error.end - error.start


def shared_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """The length of the longest common prefix of two texts, lists or tuples of the same type;
    slices are compared, so it costs microseconds.
    """
    if second[: len(first)] == first:
        return len(first)
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
