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
TRIAL: Final = 6
"""Guesses whose end was seen, fading, after which guessing that does not pay is paused."""
WORTH: Final = 1.02
"""What guessing must bring for it to go on."""
GOOD: Final = 0.5
"""Chance from which a run of two is evidence enough."""
PAUSE: Final = 48
"""Steps of plain decoding before guessing is tried again."""
FADE: Final = 0.95
"""What an older step counts for."""


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
    """How far to guess ahead: as far as it pays, going by what became of guesses lately.

    A step with k guesses costs 1 + k·price steps without; with a chance p for each guess to come
    true it brings 1 + p + … + p^k ids. Where no k pays, guessing pauses, and is tried again later.
    """

    def __init__(self, most: int, price: float = 0.1) -> None:
        """At most `most` guesses a step; `price` is what one adds to the step's cost."""
        self._most, self._price = most, price
        self._tried = 0.0
        self._true = 0.0
        self._waits = 0

    @property
    def chance(self) -> float:
        """How often a guess came true lately, once all before it had; one half while nothing is
        known.
        """
        return (self._true + 1) / (self._tried + 2)

    @property
    def trusting(self) -> bool:
        """Whether weak evidence is worth a try."""
        return self.chance >= GOOD

    def bite(self) -> int:
        """How many ids to guess in this step; asked once a step."""
        if self._waits:
            self._waits -= 1
            return 0
        return max(range(1, self._most + 1), key=self._gain, default=0)

    def learn(self, drafted: int, accepted: int) -> None:
        """What became of a step's guesses: behind the first wrong one nothing is learnt."""
        self._tried = self._tried * FADE + accepted + (accepted < drafted)
        self._true = self._true * FADE + accepted
        if self._tried >= TRIAL and max(map(self._gain, range(1, self._most + 1))) < WORTH:
            self._waits, self._tried, self._true = PAUSE, 0.0, 0.0

    def _gain(self, guesses: int) -> float:
        """Ids a step of so many guesses brings, in what steps without guesses would bring."""
        brings = sum(self.chance**index for index in range(guesses + 1))
        return brings / (1 + guesses * self._price)
