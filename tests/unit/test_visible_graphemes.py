"""What a reader takes for one character, and how many cells it fills."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from qwen_tui.safe_text import cells, graphemes

SAMPLES = {
    "English": "the quick brown fox",
    "French": "l|’|é|t|é| |e\u0301|t|é",
    "German": "S|t|r|a|ß|e",
    "Vietnamese": "T|i|ế|n|g| |V|i|e\u0323\u0302|t",
    "Russian": "П|р|и|в|е|т",
    "Greek": "Ε|λ|λ|ά|δ|α",
    "Chinese": "今|天|天|气|。",
    "Japanese": "か\u3099|ぎ|ﾊ\uff9f|漢|字|ー",
    "Korean": "한|국|\u1112\u1161\u11ab|ㅎ",
    "Thai": "ส|วั|ส|ดี| |น้ำ| |ที่",
    "Lao": "ນ້ຳ|ໃ|ຈ",
    "Hindi": "न|म|स्ते| |क्षि|ज़",
    "Bengali": "ক্ষ|বি|শ্ব| |দুঃ|খ",
    "Tamil": "நி|ர|ல்| |கொ",
    "Telugu": "తె|లు|గు| |స్త్రీ",
    "Gujarati": "ગુ|જ|રા|તી",
    "Malayalam": "മ|ല|യാ|ളം",
    "Burmese": "မြ|န်|မာ",
    "Khmer": "ភា|សា|ខ្|មែ|រ",
    "Arabic": "مَ|رْ|حَ|بً|ا",
    "Persian": "م|ی\u200c|خ|و|ا|ه|م",
    "Hebrew": "שָׁ|ל|וֹ|ם",
    "Urdu": "اُ|ر|د|و",
    "Emoji": "👍|👍🏽|👩🏽\u200d💻|👨\u200d👩\u200d👧|🏳\ufe0f\u200d🌈|❤\ufe0f",
    "Flags and keycaps": "🇩🇪|🇫🇷|🇯|a|1\ufe0f\u20e3|☺\ufe0e",
    "Breaks": "a|\r\n|\n|\r|\u0301|\t|\u0301",
    "Hidden": "a|\u200b|b|\u202e|\U000e0041|c|\u200d|d",
}


@pytest.mark.parametrize("name", SAMPLES)
def test_characters_of_every_script_stay_whole(name: str) -> None:
    marked = SAMPLES[name]
    expected = marked.split("|") if "|" in marked else list(marked)
    assert graphemes("".join(expected)) == expected


def test_nothing_in_nothing_out() -> None:
    assert graphemes("") == []
    assert cells("") == 0


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("abc", 3),
        ("é", 1),
        ("e\u0301", 1),
        ("漢", 2),
        ("한", 2),
        ("\u1112\u1161\u11ab", 2),
        ("ｱ", 1),
        ("Ａ", 2),
        ("👍", 2),
        ("👍🏽", 2),
        ("👨\u200d👩\u200d👧", 2),
        ("❤", 1),
        ("❤\ufe0f", 2),
        ("1\ufe0f\u20e3", 2),
        ("🇩🇪", 2),
        ("น้ำ", 2),
        ("שָׁ", 1),
        ("\u200b", 0),
        ("<U+202E>", 8),
        ("␛[0m", 4),
        ("\n", 0),
    ],
)
def test_how_many_cells(text: str, width: int) -> None:
    assert cells(text) == width


def test_single_characters_measure_as_the_layout_does() -> None:
    """Unassigned code points aside: standards newer than this Python may have given them away.

    Inside the blocks left out all are alike.
    """
    blocks = (
        range(0x3500),
        range(0x4DA0, 0x4F00),
        range(0x9F00, 0xAD00),
        range(0xD700, 0xD800),
        range(0xF8F0, 0x17010),
        range(0x18CF0, 0x20010),
        range(0xE0000, 0xE0200),
    )
    apart = [
        f"U+{point:04X}"
        for block in blocks
        for point in block
        if unicodedata.category(character := chr(point)) != "Cn"
        and cells(character) != cell_len(character)
    ]
    assert apart == []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([*" aé漢한กำम्👍❤🏽ا1#", "\ufe0f", "\u200d👩", "\u0301", "🇩🇪", "ﾞ"]),
        max_size=20,
    ).map("".join)
)
def test_texts_measure_as_the_layout_does(text: str) -> None:
    assert cells(text) == cell_len(text)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("aé漢한กमा👍❤1 "), max_size=20).map("".join))
def test_a_text_is_as_wide_as_its_characters(text: str) -> None:
    assert cells(text) == sum(map(cells, graphemes(text)))
