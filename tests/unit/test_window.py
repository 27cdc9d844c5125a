"""A prompt that does not fit is refused with the numbers, or cut as the person chose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tui.context_window import Truncate, dropped_note, fit
from qwen_tui.types import BAD_DATA, Token, Trouble


def _prompt(length: int) -> tuple[Token, ...]:
    return tuple(Token(id, b"%d " % id) for id in range(length))


def test_what_fits_is_left_alone() -> None:
    assert fit(_prompt(10), 20, 30, explicit=True) == (_prompt(10), 20)
    assert fit(_prompt(10), 20, 30, "left", explicit=True) == (_prompt(10), 20)
    assert fit((), 5, 30) == ((), 5)


def test_the_default_length_is_cut_to_what_the_context_leaves() -> None:
    assert fit(_prompt(90), 256, 100).max_tokens == 10


def test_without_an_end_the_completion_fills_the_context() -> None:
    assert fit(_prompt(90), -1, 100, explicit=True).max_tokens == 10


def test_an_explicit_length_that_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(Trouble) as refused:
        fit(_prompt(1_000), 500, 1_200, explicit=True)
    said = refused.value
    assert said.code == BAD_DATA
    for number in ("1,000", "500", "1,500", "300", "1,200"):
        assert number in said.message
    assert "-n 200" in said.hint
    assert "--truncate" in said.hint


@pytest.mark.parametrize(("length", "words"), [(1_200, "as many as"), (1_300, "100 more than")])
@pytest.mark.parametrize("max_tokens", [-1, 256])
def test_a_prompt_that_leaves_no_room_is_refused(length: int, words: str, max_tokens: int) -> None:
    with pytest.raises(Trouble, match=words) as refused:
        fit(_prompt(length), max_tokens, 1_200)
    assert f"{length:,}" in refused.value.message
    assert "--truncate" in refused.value.hint


def test_scoring_alone_needs_room_for_the_prompt_only() -> None:
    assert fit(_prompt(100), 0, 100) == (_prompt(100), 0)
    with pytest.raises(Trouble):
        fit(_prompt(101), 0, 100)


def test_left_drops_the_oldest() -> None:
    prompt, max_tokens = fit(_prompt(100), 30, 80, "left", explicit=True)
    assert prompt == _prompt(100)[50:]
    assert max_tokens == 30
    assert dropped_note(100, len(prompt), "left") == (
        "prompt truncated: 50 of 100 tokens dropped from the beginning"
    )


def test_middle_keeps_head_and_tail() -> None:
    whole = _prompt(100)
    prompt, _ = fit(whole, 30, 80, "middle", explicit=True)
    assert prompt == (*whole[:25], *whole[75:])
    assert "from the middle" in dropped_note(100, len(prompt), "middle")
    assert dropped_note(50, 50, "middle") == ""


def test_a_completion_as_long_as_the_context_is_refused_even_so() -> None:
    with pytest.raises(Trouble, match="no room for a prompt"):
        fit(_prompt(10), 80, 80, "left", explicit=True)


def test_a_cut_leaves_no_half_character_in_front() -> None:
    fox = tuple(Token(7, bytes([byte])) for byte in "🦊".encode())
    prompt, _ = fit((*fox, *_prompt(8)), 2, 13, "left", explicit=True)
    assert prompt == _prompt(8)
    prompt, _ = fit((*fox, *_prompt(8)), 2, 14, "left", explicit=True)
    assert prompt == (*fox, *_prompt(8))


def test_an_unknown_context_limits_nothing() -> None:
    assert fit(_prompt(10), -1, 0) == (_prompt(10), -1)


@given(
    st.integers(0, 60),
    st.integers(-1, 60),
    st.integers(1, 50),
    st.sampled_from([None, "left", "middle"]),
    st.booleans(),
)
def test_whatever_comes_out_fits(
    length: int, asked: int, context: int, truncate: Truncate | None, explicit: bool
) -> None:
    try:
        prompt, max_tokens = fit(_prompt(length), asked, context, truncate, explicit)
    except Trouble:
        assert truncate is None or asked >= context or context < 2
        assert truncate is not None or length + max(asked, 1) > context or length == context
        return
    assert len(prompt) + max_tokens <= context
    assert max_tokens >= (0 if asked == 0 else 1)
    if truncate is None:
        assert len(prompt) == length
    if explicit and asked >= 0:
        assert max_tokens == asked
    if len(prompt) == length:
        assert prompt == _prompt(length)
    assert prompt[-1:] == _prompt(length)[-1:]
