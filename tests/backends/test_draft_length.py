"""How far ahead is drafted, and when drafting pauses."""

from __future__ import annotations

import random
from collections.abc import Callable

from qwen_tui.backends.local.decoding.draft_length import PAUSE, DraftLength


def test_guesses_that_fail_are_given_up_and_tried_again_later() -> None:
    length = DraftLength(4)
    steps = 0
    while drafted := length.next():
        length.observe(drafted, 0)
        steps += 1
        assert steps < 100, "it never gave up"
    waited = 1
    while not length.next():
        waited += 1
    assert waited == PAUSE


def test_guesses_that_come_true_are_made_as_long_as_allowed() -> None:
    length = DraftLength(7)
    for _ in range(30):
        drafted = length.next()
        length.observe(drafted, drafted)
    assert length.next() == 7
    assert length.confident


def drafts(length: DraftLength, accepted: Callable[[int], int], steps: int = 40) -> list[int]:
    """How much is guessed step by step, and how much of it `accepted` says comes true."""
    found = []
    for _ in range(steps):
        found.append(drafted := length.next())
        if drafted:
            length.observe(drafted, accepted(drafted))
    return found


def test_dear_guesses_are_made_one_by_one_or_not_at_all() -> None:
    """Three in four come true: many guesses pay where one more costs next to nothing, a single one
    where it costs half a step; one in three pays only where guesses are cheap.
    """
    dice = random.Random(0)

    def run(chance: float) -> Callable[[int], int]:
        return lambda drafted: next(
            (at for at in range(drafted) if dice.random() > chance), drafted
        )

    assert max(drafts(DraftLength(7, 0.05), run(0.75))) >= 5
    dear = drafts(DraftLength(7, 0.5), run(0.75))
    assert set(dear[5:]) <= {1, 2}
    assert 0 not in drafts(DraftLength(7, 0.05), run(0.33))
    assert drafts(DraftLength(7, 0.5), run(0.33)).count(0) > 20
