"""How many ids to draft in a step of speculative decoding, going by the acceptance so far.

Law: it depends on what was drafted and accepted, never on time.
"""

from __future__ import annotations

from typing import Final

MIN_OBSERVED: Final = 6
"""Drafted ids, faded, whose acceptance must be known before drafting that does not pay pauses."""
MIN_GAIN: Final = 1.02
"""Ids a step with drafts must bring, in what steps without would bring, for drafting to go on."""
CONFIDENT: Final = 0.5
"""Acceptance from which a match of two ids is evidence enough."""
PAUSE: Final = 48
"""Steps of plain decoding before drafting is tried again."""
FADE: Final = 0.95
"""The weight of a step's outcome after one more step."""


class DraftLength:
    """The draft length that is expected to pay best (Leviathan et al. 2023, section 3.4).

    A step that verifies k drafted ids costs 1 + k·cost plain steps; with acceptance p it brings
    1 + p + … + p^k ids. Where no k pays, drafting pauses, and is tried again later.
    """

    def __init__(self, most: int, cost: float = 0.1) -> None:
        """At most `most` ids a step; `cost` is what one adds to the step, in plain steps."""
        self._most, self._cost = most, cost
        self._tried = 0.0
        self._accepted = 0.0
        self._pause = 0

    @property
    def acceptance(self) -> float:
        """How often an id was accepted lately, those before it having been; one half at first."""
        return (self._accepted + 1) / (self._tried + 2)

    @property
    def confident(self) -> bool:
        """Whether a short match is worth a try."""
        return self.acceptance >= CONFIDENT

    def next(self) -> int:
        """How many ids to draft in this step; asked once a step."""
        if self._pause:
            self._pause -= 1
            return 0
        return max(range(1, self._most + 1), key=self._gain, default=0)

    def observe(self, drafted: int, accepted: int) -> None:
        """The outcome of a step: nothing is learnt of ids behind the first rejected one."""
        self._tried = self._tried * FADE + accepted + (accepted < drafted)
        self._accepted = self._accepted * FADE + accepted
        best = max(map(self._gain, range(1, self._most + 1)))
        if self._tried >= MIN_OBSERVED and best < MIN_GAIN:
            self._pause, self._tried, self._accepted = PAUSE, 0.0, 0.0

    def _gain(self, drafted: int) -> float:
        """Ids that a step with so many drafted ids brings for each id of plain steps."""
        expected = sum(self.acceptance**index for index in range(drafted + 1))
        return expected / (1 + drafted * self._cost)
