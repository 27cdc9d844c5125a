"""What a reader takes for one character, and how many cells it fills."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from qwen_tui.safe_text import graphemes

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
    assert cell_len("") == 0


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
    assert cell_len(text) == width


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("aé漢한กमा👍❤1 "), max_size=20).map("".join))
def test_a_text_is_as_wide_as_its_characters(text: str) -> None:
    assert cell_len(text) == sum(map(cell_len, graphemes(text)))
