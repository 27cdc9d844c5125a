"""Hostile text is shown and never executed; printable text comes out as it went in."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_tui.safe_text import CLUSTER_CUT, VisibleStream, graphemes, strip_controls, visible

FORBIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e00ff]"
)
"""What a terminal would obey, reorder by, or hide."""

PIECES = st.sampled_from(
    [
        *"aé漢あกमا한👩👍❤",
        *"\x00\x1b\r\n\t\x7f\x9b\u200b\u200c\u200d\u202e\u2066\ufe0f\ufe00\u0301\u094d\u0e33\U0001f3fd",
        *"\U0001f1e9\U000e0067\ud800\u0600\u1100\u1161\u11a8\u3164\ufeff1#\u20e3",
    ]
)
HOSTILE = st.lists(PIECES, max_size=60).map("".join)


def test_no_code_point_alone_gets_through() -> None:
    for point in (*range(0x20010), *range(0x2FFF0, 0x30010), *range(0xDFFF0, 0xF0010), 0x10FFFF):
        shown = visible(chr(point))
        assert shown, f"U+{point:04X} vanished"
        assert not FORBIDDEN.search(shown), f"U+{point:04X} came through"


@pytest.mark.parametrize("base", ["a", "👩", "ا", "क", "漢", "1", "ᄀ", "\u0301"])
def test_no_code_point_gets_through_in_company(base: str) -> None:
    suspects = "".join(
        chr(point)
        for point in (*range(0x3100), *range(0xD7B0, 0x10000), *range(0xE0000, 0xE0200))
        if unicodedata.category(chr(point))[0] in "CZM"
    )
    for suspect in suspects:
        assert not FORBIDDEN.search(visible(f"{base}{suspect}{base}")), f"U+{ord(suspect):04X}"


@settings(max_examples=200, deadline=None)
@given(st.one_of(HOSTILE, st.text(st.characters(exclude_categories=()))))
def test_nothing_hostile_gets_through_and_nothing_is_lost(text: str) -> None:
    shown = visible(text)
    assert bool(shown) == bool(text)
    assert not FORBIDDEN.search(shown)
    assert visible(shown) == shown
    assert "".join(graphemes(text)) == text
    assert shown.count("\n") == text.count("\n")
    assert "".join(visible(cluster) for cluster in graphemes(text)) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x07", "␛[31mred␇"),
        ("a\x00b\x7f", "a␀b␡"),
        ("one\r\ntwo\r", "one␍\ntwo␍"),
        ("\r\n", "␍\n"),
        ("", ""),
        ("ok\x1b\u202eok", "ok␛<U+202E>ok"),
        ("\tcode\n", "\tcode\n"),
        ("\x9b31m", "<U+009B>31m"),
        ("user\u202enimda", "user<U+202E>nimda"),
        ("a\u200bb\u2028c", "a<U+200B>b<U+2028>c"),
        ("\ufeffBOM", "<U+FEFF>BOM"),
        ("hi\U000e0041\U000e0042", "hi<U+E0041><U+E0042>"),
        ("half \ud83d", "half \ufffd"),
        ("a\u200db", "a<U+200D>b"),
        ("x\ufe0f", "x<U+FE0F>"),
        ("👩\u200d", "👩<U+200D>"),
        ("क\u200d\u200d", "क\u200d<U+200D>"),
        ("[@click=app.quit]x[/nope]", "[@click=app.quit]x[/nope]"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Grüße, ça va? Ελληνικά, Кириллица, ไทย, 한국어, 日本語、中文。",
        "می‌خواهم بروم",
        "שלום עולם",
        "क्‍ष र्‍य ক্ষ মা",
        "👨‍👩‍👧‍👦 🏳️‍🌈 👩🏽‍💻 ❤️ 1️⃣ #️⃣ 🇩🇪 ☺︎",
        "葛󠄀城 ≨︀ ᠠ᠋",
        "e\u0301 ṩ nbsp\u00a0 \ufffd",
        "box ┌─┐ braille ⠿ private \ue0b0",
    ],
)
def test_the_worlds_writing_is_left_alone(text: str) -> None:
    assert visible(text) == text
    assert strip_controls(text) == (text, 0)


@pytest.mark.parametrize(
    "cluster",
    ["a" + "\u0301" * 99, "\u0600" * 20 + "a" + "\u0301" * 79, "क" + "्क" * 49 + "्", "ᄀ" * 100],
)
def test_an_endless_cluster_is_cut_and_counted(cluster: str) -> None:
    text = f"before {cluster} after"
    assert cluster in graphemes(text)
    shown = cluster[:CLUSTER_CUT]
    left = len(cluster) - CLUSTER_CUT
    assert visible(text) == f"before {shown}<+{left}> after"


def test_a_cluster_of_exactly_the_limit_is_whole() -> None:
    text = "a" + "\u0301" * (CLUSTER_CUT - 1)
    assert visible(text + " b") == text + " b"


def test_copying_takes_controls_out_and_says_how_many() -> None:
    assert strip_controls("a\x1b[0m\u202eb\r\nc\td") == ("a[0mb\nc\td", 3)
    assert strip_controls("plain") == ("plain", 0)
    assert strip_controls("x\ud800") == ("x", 1)
    zalgo = "a" + "\u0301" * 50
    assert strip_controls(zalgo + "\x00") == (zalgo, 1)


@pytest.mark.parametrize(
    "unit",
    [
        *[
            "\u094d",
            "क\u094d",
            "\u0301",
            "\u0600",
            "\u200d",
            "👨\u200d",
            "🇩",
            "\U000e0041",
            "\ufe0f",
        ],
        *["\u1100", "a\u200d", "क\u200c", "\r", "\u093c\u094d"],
    ],
)
def test_long_runs_cost_no_more_than_their_length(unit: str) -> None:
    """Would not come back if any pattern went over the text again and again."""
    text = unit * 30_000
    assert "".join(graphemes(text)) == text
    assert visible(text)


@pytest.mark.parametrize("count", [300, 2009])
@pytest.mark.parametrize("base", ["a", "", "e\u0301 "])
def test_a_tower_of_marks_is_a_few_and_a_count(base: str, count: int) -> None:
    shown = visible(base + "\u0335" * count + " end")
    left = shown.count("\u0335")
    assert left <= CLUSTER_CUT
    assert shown.endswith(f"<+{count - left}> end")


@pytest.mark.parametrize("size", [1, 2, 5])
def test_marks_that_stream_in_are_counted_across_pieces(size: int) -> None:
    text = "café " + "\u0335" * 300 + "b" + "\u0301" * 300 + "\r\n👩\u200d👩 \x1b[31m"
    stream = VisibleStream()
    pieces = [stream.feed(text[at : at + size]) for at in range(0, len(text), size)]
    whole = "".join(pieces) + stream.flush()
    assert whole.count("\u0335") <= CLUSTER_CUT
    assert whole.count("\u0301") <= CLUSTER_CUT
    # a joiner that ends a piece is not known to join
    assert whole.replace("<U+200D>", "\u200d") == visible(text)


@given(st.lists(HOSTILE, max_size=6))
def test_a_text_in_pieces_shows_nothing_hostile(texts: list[str]) -> None:
    stream = VisibleStream()
    shown = "".join(map(stream.feed, texts)) + stream.flush()
    assert not FORBIDDEN.search(shown)
    assert shown.count("\n") == "".join(texts).count("\n")
