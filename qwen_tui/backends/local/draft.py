"""Guess ahead by looking back: what followed the last few ids the last time they stood somewhere.

Law: a guess changes the work, never the text. Every position is sampled from the model itself, and
a drafted id stays only where it is what was sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MATCH: Final = (4, 2)
"""Lengths of the runs that are looked up, longest first. A run of two is weak evidence, and is used
only while drafts are being accepted."""
REMEMBERED: Final = 65_536
"""Most ids of a source that are indexed, counted from its end."""
TRIAL: Final = 24
"""Drafted ids after which a poor share of acceptance pauses the guessing."""
POOR: Final = 0.25
"""Share of drafted ids that must be accepted for guessing to go on."""
GOOD: Final = 0.5
"""Share from which a run of two is evidence enough."""
PAUSE: Final = 48
"""Steps of plain decoding before guessing is tried again."""
FADE: Final = 0.9
"""What an older step counts for in the share of acceptance."""


class Lookup:
    """Prompt lookup decoding (Saxena 2023, also known as n-gram speculation in vLLM) over one
    growing context and any number of finished texts.

    A later place wins over an earlier one, and the context over the other texts: what was rewritten
    last is the likeliest to be written again.
    """

    def __init__(self, context: Sequence[int], sources: Sequence[Sequence[int]] = ()) -> None:
        """`sources` are other texts, the likeliest last."""
        self._texts: list[list[int]] = []
        self._places: list[dict[tuple[int, ...], tuple[int, int]]] = [{} for _ in MATCH]
        for source in (*sources, context):
            self._texts.append([])
            for each in source[-REMEMBERED:]:
                self.push(each)

    def push(self, token_id: int) -> None:
        """The context grows by one id."""
        text = self._texts[-1]
        # The run that ends here is indexed when something follows it: a run must not find itself.
        for length, places in zip(MATCH, self._places, strict=True):
            if len(text) >= length:
                places[tuple(text[-length:])] = (len(self._texts) - 1, len(text))
        text.append(token_id)

    def draft(self, most: int, *, weak: bool = True) -> list[int]:
        """Up to `most` ids that may come next; none where nothing like it was seen. `weak` lets
        short runs count as evidence.
        """
        context = self._texts[-1]
        for length, places in zip(MATCH, self._places, strict=True):
            if length < MATCH[0] and not weak:
                break
            found = places.get(tuple(context[-length:])) if len(context) >= length else None
            if found is not None:
                text, place = found
                return self._texts[text][place : place + most]
        return []


class Appetite:
    """How far to guess ahead: as far as guesses have paid lately, up to `most` ids a step.

    The expected cost of a wrong guess is small where a forward of a few rows costs as much as one
    of one row, but it is never nothing; so guessing pauses when less than a quarter is accepted.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._drafted = 0.0
        self._accepted = 0.0
        self._waits = 0

    @property
    def share(self) -> float:
        """The share of drafted ids accepted lately; one half while nothing is known."""
        return (self._accepted + 2) / (self._drafted + 4)

    @property
    def trusting(self) -> bool:
        """Whether weak evidence is worth a try."""
        return self.share >= GOOD

    def bite(self) -> int:
        """How many ids to guess in this step; asked once a step."""
        if self._waits:
            self._waits -= 1
            return 0
        # With share s the run of accepted ids has mean s / (1 − s): twice that is rarely reached.
        share = min(self.share, 0.95)
        return max(1, min(self._most, round(2 * share / (1 - share))))

    def learn(self, drafted: int, accepted: int) -> None:
        """What became of a step's guesses."""
        self._drafted = self._drafted * FADE + drafted
        self._accepted = self._accepted * FADE + accepted
        if self._drafted >= min(TRIAL, 2 * self._most) and self.share < POOR:
            self._waits, self._drafted, self._accepted = PAUSE, 0.0, 0.0
