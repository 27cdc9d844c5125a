"""The part of an edited text that is encoded anew: from a word's start before the edit to one
behind it.

Law: a place counts only where old and new text have the same words around it and old tokens end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from qwen_tui.types import Token
from qwen_tui.vocab.alignment import SURROGATE, TokenText, shared_length

WINDOW: Final = 256
"""Characters that are searched for word starts first; then four times as many, and so on."""
MARGIN: Final = 64
"""Characters at a window's end that may look otherwise than in the whole text: as long as the
spelling of an added token."""
MOST_TRIED: Final = 16
"""Word starts behind the edit that are tried in one window."""


class Edit:
    """An old text and the new one it becomes; their first `shared` characters are the same.
    `starts` gives the word starts in a text, both its ends included.
    """

    def __init__(
        self, old: TokenText, text: str, shared: int, starts: Callable[[str], set[int]]
    ) -> None:
        self._old = old
        self._text = text
        self._shared = shared
        self._starts = starts

    def begin(self, stands_alone: Callable[[Token], bool]) -> tuple[int, int]:
        """The last place (character offset, tokens before it) before the edit up to which both
        texts have the same words. `stands_alone`: an added token, around which words end.
        """
        old, shared, width = self._old, self._shared, WINDOW
        while True:
            start = max(0, shared - width)
            floor, kept = old.last_of(stands_alone, start, shared)
            start = max(floor, start)
            first = start if start == floor else start + width // 4
            before = self._window(old.text, start, shared + width)
            after = self._window(self._text, start, shared + width)
            last = min(shared, min(before ^ after, default=shared))
            for at in sorted((at for at in before & after if first <= at <= last), reverse=True):
                if (tokens := old.token_at(at)) is not None:
                    return at, tokens
            if start == floor:
                return floor, kept
            width *= 4

    def end(self, begin: int) -> tuple[int, int]:
        """The first place (character offset in the new text, old tokens before it) behind the edit
        from which on both texts are the same and have the same words; the ends if there is none.
        Words are counted from `begin`, a word's start in both.
        """
        old, text = self._old, self._text
        ends = len(text), len(old.tokens)
        shift = len(old.text) - len(text)
        tail = shared_length(text[self._shared :][::-1], old.text[self._shared :][::-1])
        first, width = len(text) - tail, WINDOW
        while tail:
            until = first + width
            words = self._window(text, begin, until)
            last = until - MARGIN if until < len(text) else len(text) - 1
            both = words & {at - shift for at in self._window(old.text, begin, until + shift)}
            for at in sorted(at for at in both if first <= at <= last)[:MOST_TRIED]:
                tokens = old.token_at(at + shift)
                if tokens is not None and self._ends_a_word(begin, at, words):
                    return at, tokens
            if until >= len(text):
                break
            width *= 4
        return ends

    def _ends_a_word(self, begin: int, at: int, words: set[int]) -> bool:
        """Whether the text up to `at` has, by itself, the words it has within the whole."""
        alone = self._window(self._text[:at], begin, at)
        return alone == {start for start in words if start <= at}

    def _window(self, text: str, start: int, end: int) -> set[int]:
        """The word starts in a part of the text; the part's ends count only if they are the
        text's.
        """
        piece = SURROGATE.sub(lambda run: "\ufffd" * len(run[0]), text[start:end])
        starts = {start + at for at in self._starts(piece)}
        return starts if end >= len(text) else starts - {start + len(piece)}
