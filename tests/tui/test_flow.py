"""Laying out tokens: whatever comes in whatever pieces, rows are whole and every cell is owned."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from qwen_tui.safe_text import graphemes
from qwen_tui.tui.text import line_layout, token_layout
from qwen_tui.tui.text.token_layout import TokenLayout

SCRAPS = (
    *(
        "a",
        "word ",
        " and",
        "  ",
        "\n",
        "\t",
        "é",
        "e\u0301",
        "日本",
        "語。",
        "ｱ",
        "👩‍👩‍👧",
        "🇩🇪",
        "👍🏽",
    ),
    *("क्षि", "שלום", "نص", "\u202e", "\x1b[31m", "\r\n", "\x00", "\u200b", "x" * 30, "❤️", "한국"),
)
TEXT = st.lists(st.sampled_from(SCRAPS), max_size=25).map("".join)


def laid(text: str, width: int, cuts: list[int]) -> tuple[TokenLayout, list[bytes]]:
    """The text's bytes as tokens cut anywhere, even inside characters."""
    data = text.encode()
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    tokens = [data[a:b] for a, b in pairwise(places)]
    made = TokenLayout(width)
    for index, token in enumerate(tokens):
        made.add(index, token)
    return made, tokens


CUTS = st.lists(st.integers(0, 500), max_size=30)


def picture(made: TokenLayout) -> list[str]:
    return [made.shown(y) for y in range(made.height)]


@given(TEXT, st.integers(1, 40), CUTS)
def test_the_picture_does_not_depend_on_how_text_comes(
    text: str, width: int, cuts: list[int]
) -> None:
    made, _ = laid(text, width, cuts)
    whole, _ = laid(text, width, [])
    assert picture(made) == picture(whole)
    assert made.raw(None, None) == text


@given(TEXT, st.integers(1, 40), st.integers(1, 40), CUTS)
def test_another_width_gives_what_a_fresh_layout_gives(
    text: str, width: int, other: int, cuts: list[int]
) -> None:
    made, _ = laid(text, width, cuts)
    fresh, _ = laid(text, other, cuts)
    made.rewrap(other)
    assert [made.runs(y) for y in range(made.height)] == [
        fresh.runs(y) for y in range(fresh.height)
    ]


@given(TEXT, st.integers(10, 40), CUTS)
def test_rows_fit_and_no_grapheme_is_cut(text: str, width: int, cuts: list[int]) -> None:
    made, _ = laid(text, width, cuts)
    pieces = []
    for y in range(made.height):
        row = made.shown(y)
        assert cell_len(row) <= width + (line_layout.TAB_STOP if "\t" in text else 1)
        pieces += graphemes(row)
    assert "".join(pieces) == "".join(picture(made))
    whole = [c for line in "".join(picture(unwrapped(text))).split("\n") for c in graphemes(line)]
    assert pieces == whole


def unwrapped(text: str) -> TokenLayout:
    """Laid out so wide that nothing wraps."""
    return laid(text, 10_000, [])[0]


@given(TEXT, st.integers(2, 40), CUTS)
def test_every_token_is_found_where_it_stands(text: str, width: int, cuts: list[int]) -> None:
    made, tokens = laid(text, width, cuts)
    for index, token in enumerate(tokens):
        place = made.place(index)
        assert 0 <= place.y <= place.last_y < made.height
        runs = [run for y in (place.y, place.last_y) for run in made.runs(y)]
        if token and index < (made.pending_since if made.pending else len(tokens)):
            assert any(run.first <= index <= run.last for run in runs)


@given(TEXT, st.integers(2, 40), CUTS)
def test_every_cell_belongs_to_a_token_in_order(text: str, width: int, cuts: list[int]) -> None:
    made, tokens = laid(text, width, cuts)
    last = 0
    for y in range(made.height):
        for run in made.runs(y):
            assert last <= run.last < max(1, len(tokens))
            assert run.first <= run.last
            last = run.last


def test_bytes_of_one_character_are_one_grapheme_of_many_tokens() -> None:
    made = TokenLayout(20)
    for index, byte in enumerate("a日b".encode()):
        made.add(index, bytes([byte]))
        if index == 2:
            assert made.pending == "日".encode()[:2]
            assert made.pending_since == 1
    assert [(run.text, run.first, run.last) for run in made.runs(0)] == [
        ("a", 0, 0),
        ("日", 1, 3),
        ("b", 4, 4),
    ]
    assert made.token_at(0, 1) == made.token_at(0, 2) == 3
    assert made.place(2) == (0, 1, 0)


def test_an_emoji_joined_by_later_tokens_becomes_one() -> None:
    made = TokenLayout(20)
    for index, part in enumerate(("👩", "\u200d", "👧", "!")):
        made.add(index, part.encode())
    assert made.shown(0) == "👩\u200d👧!"
    assert made.place(3).x == 2


def test_words_wrap_after_blanks_and_ideographs_anywhere_but_before_a_stop() -> None:
    made = TokenLayout(10)
    made.add(0, "one two three\n日本語の文。章".encode())
    assert picture(made) == ["one two ", "three", "日本語の", "文。章"]


def test_tabs_reach_the_next_stop_of_the_line() -> None:
    made = TokenLayout(40)
    made.add(0, b"\tab\tc")
    assert made.shown(0) == "    ab  c"
    assert made.raw(None, None) == "\tab\tc"


def test_a_line_without_end_is_kept_in_bounded_blocks() -> None:
    made = TokenLayout(50)
    text = "word " * 20_000 + "日" * 3000
    data = text.encode()
    for index in range(0, len(data), 1000):
        made.add(index // 1000, data[index : index + 1000])
    assert made.raw(None, None) == text
    assert max(len(each.shown) for each in made._blocks) <= token_layout.LONGEST_BLOCK + 1100
    for index in (0, 50, 100):
        place = made.place(index)
        assert any(run.first <= index <= run.last for run in made.runs(place.y))
    made.rewrap(33)
    assert made.raw(None, None) == text


def test_rows_that_stand_are_not_reported_as_changed() -> None:
    made = TokenLayout(20)
    made.add(0, b"line\n" * 100)
    assert made.settle() == 0
    made.add(1, b"more")
    assert made.settle() >= 99
