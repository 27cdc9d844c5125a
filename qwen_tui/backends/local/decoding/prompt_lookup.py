"""Prompt lookup: drafts the ids that followed an earlier occurrence of the last few ids.

Law: a draft never changes the text: the model verifies every drafted id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MATCH_LENGTHS: Final = (4, 2)
"""Lengths of the matches that are looked for, longest first. A match of two is weak evidence, used
only while drafts are being accepted."""
INDEXED_IDS: Final = 65_536
"""Most ids of a source that are indexed, counted from its end."""


class PromptLookup:
    """Prompt lookup decoding (Saxena 2023; "n-gram speculation" in vLLM) over a growing context and
    any number of finished texts.

    A later occurrence is preferred to an earlier one, and the context to other texts: what was
    written last is the most likely to be repeated.
    """

    def __init__(self, context: Sequence[int], sources: Sequence[Sequence[int]] = ()) -> None:
        """`sources` are other texts as ids, the most likely one last."""
        self._texts: list[list[int]] = []
        self._places: list[dict[tuple[int, ...], tuple[int, int]]] = [{} for _ in MATCH_LENGTHS]
        for source in (*sources, context):
            self._texts.append([])
            for each in source[-INDEXED_IDS:]:
                self.push(each)

    def push(self, token_id: int) -> None:
        """Append one id to the context."""
        text = self._texts[-1]
        # A run is indexed only when something follows it: it must not find itself.
        for length, places in zip(MATCH_LENGTHS, self._places, strict=True):
            if len(text) >= length:
                places[tuple(text[-length:])] = (len(self._texts) - 1, len(text))
        text.append(token_id)

    def draft(self, most: int, *, weak: bool = True) -> list[int]:
        """Up to `most` ids that may come next; none without a match. `weak` allows matches of two
        ids.
        """
        context = self._texts[-1]
        for length, places in zip(MATCH_LENGTHS, self._places, strict=True):
            if length < MATCH_LENGTHS[0] and not weak:
                break
            found = places.get(tuple(context[-length:])) if len(context) >= length else None
            if found is not None:
                text, place = found
                return self._texts[text][place : place + most]
        return []
