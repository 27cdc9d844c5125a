"""Guessing ahead: what is looked up, and when it is given up."""

from __future__ import annotations

import random
from collections.abc import Callable

from qwen_tui.backends.local.decoding.prompt_lookup import PAUSE, Appetite, Lookup


def test_what_followed_before_is_guessed_again() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 6, 7, 9, 9, 1, 2, 3, 4])
    assert lookup.draft(3) == [5, 6, 7]
    assert lookup.draft(9) == [5, 6, 7, 9, 9, 1, 2, 3, 4]


def test_the_latest_place_wins() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 6, 0, 1, 2, 3, 4])
    assert lookup.draft(1) == [6]


def test_a_text_that_was_thrown_away_is_a_source() -> None:
    lookup = Lookup([8, 1, 2, 3, 4], sources=[[1, 2, 3, 4, 5, 6]])
    assert lookup.draft(2) == [5, 6]
    lookup.push(5)
    assert lookup.draft(2) == [6]


def test_runs_do_not_reach_across_texts() -> None:
    assert Lookup([3, 4], sources=[[7, 3, 4, 1], [1, 2]]).draft(5) == [1]
    assert Lookup([], sources=[[1, 2, 3]]).draft(5) == []


def test_nothing_seen_before_is_no_guess() -> None:
    assert Lookup([1, 2, 3, 4, 5]).draft(4) == []
    assert Lookup([]).draft(4) == []


def test_weak_evidence_counts_only_when_asked() -> None:
    lookup = Lookup([1, 2, 3, 9, 1, 2])
    assert lookup.draft(2) == [3, 9]
    assert lookup.draft(2, weak=False) == []


def test_guesses_that_fail_are_given_up_and_tried_again_later() -> None:
    appetite = Appetite(4)
    steps = 0
    while bite := appetite.bite():
        appetite.learn(bite, 0)
        steps += 1
        assert steps < 100, "it never gave up"
    waited = 1
    while not appetite.bite():
        waited += 1
    assert waited == PAUSE


def test_guesses_that_come_true_are_made_as_long_as_allowed() -> None:
    appetite = Appetite(7)
    for _ in range(30):
        bite = appetite.bite()
        appetite.learn(bite, bite)
    assert appetite.bite() == 7
    assert appetite.trusting


def bites(appetite: Appetite, accepted: Callable[[int], int], steps: int = 40) -> list[int]:
    """How much is guessed step by step, and how much of it `accepted` says comes true."""
    found = []
    for _ in range(steps):
        found.append(bite := appetite.bite())
        if bite:
            appetite.learn(bite, accepted(bite))
    return found


def test_dear_guesses_are_made_one_by_one_or_not_at_all() -> None:
    """Three in four come true: many guesses pay where one more costs next to nothing, a single one
    where it costs half a step; one in three pays only where guesses are cheap.
    """
    dice = random.Random(0)

    def run(chance: float) -> Callable[[int], int]:
        return lambda bite: next((at for at in range(bite) if dice.random() > chance), bite)

    assert max(bites(Appetite(7, 0.05), run(0.75))) >= 5
    dear = bites(Appetite(7, 0.5), run(0.75))
    assert set(dear[5:]) <= {1, 2}
    assert 0 not in bites(Appetite(7, 0.05), run(0.33))
    assert bites(Appetite(7, 0.5), run(0.33)).count(0) > 20
