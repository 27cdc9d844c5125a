"""Prompt lookup: which ids are drafted."""

from __future__ import annotations

from qwen_tui.backends.local.decoding.prompt_lookup import PromptLookup


def test_what_followed_before_is_guessed_again() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 5, 6, 7, 9, 9, 1, 2, 3, 4])
    assert lookup.draft(3) == [5, 6, 7]
    assert lookup.draft(9) == [5, 6, 7, 9, 9, 1, 2, 3, 4]


def test_the_latest_place_wins() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 6, 0, 1, 2, 3, 4])
    assert lookup.draft(1) == [6]


def test_a_text_that_was_thrown_away_is_a_source() -> None:
    lookup = PromptLookup([8, 1, 2, 3, 4], sources=[[1, 2, 3, 4, 5, 6]])
    assert lookup.draft(2) == [5, 6]
    lookup.push(5)
    assert lookup.draft(2) == [6]


def test_runs_do_not_reach_across_texts() -> None:
    assert PromptLookup([3, 4], sources=[[7, 3, 4, 1], [1, 2]]).draft(5) == [1]
    assert PromptLookup([], sources=[[1, 2, 3]]).draft(5) == []


def test_nothing_seen_before_is_no_guess() -> None:
    assert PromptLookup([1, 2, 3, 4, 5]).draft(4) == []
    assert PromptLookup([]).draft(4) == []


def test_weak_evidence_counts_only_when_asked() -> None:
    lookup = PromptLookup([1, 2, 3, 9, 1, 2])
    assert lookup.draft(2) == [3, 9]
    assert lookup.draft(2, weak=False) == []
