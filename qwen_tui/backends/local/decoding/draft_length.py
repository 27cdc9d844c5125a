"""How many ids to draft in a step of speculative decoding, from the acceptance so far.

Law: it depends on what was drafted and accepted, never on time.
"""

from __future__ import annotations

from typing import Final

MIN_OBSERVED: Final = 6
"""Observations (drafted ids, weighted by `FADE`) needed before drafting may be paused."""
MIN_GAIN: Final = 1.02
"""Drafting pauses unless a step with drafts yields this many times the ids of plain decoding in the
same time."""
CONFIDENT: Final = 0.5
"""Acceptance from which a match of two ids is used."""
PAUSE: Final = 48
"""Steps of plain decoding before drafting is tried again."""
FADE: Final = 0.95
"""The factor by which older observations lose weight with every step."""


class DraftLength:
    """The draft length with the highest expected gain (Leviathan et al. 2023, section 3.4).

    A step that verifies k drafted ids costs 1 + k·cost plain steps; with acceptance p it yields 1 +
    p + … + p^k ids. If no k gains, drafting pauses and is tried again later.
    """

    def __init__(self, most: int, cost: float = 0.1) -> None:
        """At most `most` ids a step; `cost` is what one id adds to a step, in plain steps."""
        self._most, self._cost = most, cost
        self._tried = 0.0
        self._accepted = 0.0
        self._pause = 0

    @property
    def acceptance(self) -> float:
        """The recent rate at which a drafted id was accepted, given that those before it were; one
        half at first.
        """
        return (self._accepted + 1) / (self._tried + 2)

    @property
    def confident(self) -> bool:
        """Whether acceptance is high enough to use a short match."""
        return self.acceptance >= CONFIDENT

    def next(self) -> int:
        """How many ids to draft in this step; asked once a step."""
        if self._pause:
            self._pause -= 1
            return 0
        return max(range(1, self._most + 1), key=self._gain, default=0)

    def observe(self, drafted: int, accepted: int) -> None:
        """Record the outcome of a step; ids after the first rejected one count for nothing."""
        self._tried = self._tried * FADE + accepted + (accepted < drafted)
        self._accepted = self._accepted * FADE + accepted
        best = max(map(self._gain, range(1, self._most + 1)))
        if self._tried >= MIN_OBSERVED and best < MIN_GAIN:
            self._pause, self._tried, self._accepted = PAUSE, 0.0, 0.0

    def _gain(self, drafted: int) -> float:
        """Ids per unit of time with so many drafted ids, relative to plain decoding."""
        expected = sum(self.acceptance**index for index in range(drafted + 1))
        return expected / (1 + drafted * self._cost)
