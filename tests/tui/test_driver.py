"""Raw input: keys, pastes and rubbish, wherever the reads are cut."""

from __future__ import annotations

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from textual import events

if sys.platform == "win32":
    pytest.skip("the driver is Unix's", allow_module_level=True)

import itertools

from qwen_tui.tui.terminal.driver import PasteSplitter, pasted_text
from qwen_tui.tui.terminal.key_reader import KeyReader

ON, OFF = b"\x1b[200~", b"\x1b[201~"
INSIDE = st.lists(
    st.sampled_from([b"text", b"\x1b", b"\x1b[", b"\x1b[20", b"\x1b[200~", b"\xff", b"\r", b"~"])
).map(b"".join)


def split(data: bytes, cuts: list[int], most: int = 1 << 20) -> list[tuple[str, bytes]]:
    """What comes out when data arrives cut at these places, runs of keys joined."""
    splitter = PasteSplitter(most)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces: list[tuple[str, bytes]] = []
    for begin, end in itertools.pairwise(places):
        pieces += splitter.feed(data[begin:end])
    pieces += splitter.quiet()
    joined: list[tuple[str, bytes]] = []
    for kind, piece in pieces:
        if kind == "keys" and joined and joined[-1][0] == "keys":
            joined[-1] = ("keys", joined[-1][1] + piece)
        else:
            joined.append((kind, piece))
    return joined


@given(INSIDE, st.lists(st.integers(0, 200)))
def test_a_paste_is_whole_however_it_is_cut(inside: bytes, cuts: list[int]) -> None:
    data = b"ab" + ON + inside + OFF + b"cd\x1b[A"
    assert split(data, cuts) == [("keys", b"ab"), ("paste", inside), ("keys", b"cd\x1b[A")]


@given(st.binary(max_size=60), st.lists(st.integers(0, 60)))
def test_no_byte_of_what_is_no_paste_is_lost(data: bytes, cuts: list[int]) -> None:
    if ON not in data:
        assert b"".join(piece for _, piece in split(data, cuts)) == data


def test_two_pastes_in_one_read_are_two() -> None:
    data = ON + b"one" + OFF + ON + b"two" + OFF
    assert split(data, []) == [("paste", b"one"), ("paste", b"two")]


def test_a_lone_escape_is_a_key_after_a_moment_of_quiet() -> None:
    splitter = PasteSplitter()
    assert list(splitter.feed(b"a\x1b")) == [("keys", b"a")]
    assert splitter.holds
    assert list(splitter.quiet()) == [("keys", b"\x1b")]
    assert not splitter.holds


def test_a_paste_beyond_the_cap_keeps_its_beginning_and_its_end_is_still_found() -> None:
    data = ON + b"x" * 5000 + OFF + b"k"
    assert split(data, list(range(0, 5000, 100)), most=1000) == [
        ("paste", b"x" * 1000),
        ("keys", b"k"),
    ]


def test_a_paste_without_an_end_can_be_given_up() -> None:
    splitter = PasteSplitter()
    assert list(splitter.feed(ON + b"abc")) == []
    assert splitter.in_paste
    assert list(splitter.give_up()) == [("paste", b"abc")]
    assert not splitter.in_paste


def test_pasted_text_has_no_controls_and_plain_line_ends() -> None:
    data = b"\x1b]0;t\x07a\r\nb\rc\td\x00\x7f\xc2\x9b\xff\n"
    assert pasted_text(data) == "]0;ta\nb\nc\td\ufffd\n"


def keys(reader: KeyReader, data: bytes) -> list[str | None]:
    found = reader.feed(data)
    return [
        message.character or message.key for message in found if isinstance(message, events.Key)
    ]


@pytest.mark.parametrize(
    "rubbish",
    [
        *(b"\x1b[99999999u", b"\x1b[9999999999999999999999u", b"\x1b[1;9999999999999999999999u"),
        *(b"\x1b[97;1;99999999u", b"\x1b[97;1;1114112:97u", b"\x1b[<0;99999999999;1M"),
    ],
)
def test_a_sequence_the_parser_cannot_bear_takes_nothing_with_it(rubbish: bytes) -> None:
    reader = KeyReader()
    assert keys(reader, b"a")[:1] == ["a"]
    after = keys(reader, rubbish + b"\x1b[Bb")
    assert after[-2:] == ["down", "b"]
    assert keys(reader, b"c") == ["c"]


def test_characters_cut_between_reads_and_invalid_bytes() -> None:
    reader = KeyReader()
    assert keys(reader, "日".encode()[:1]) == []
    assert keys(reader, "日".encode()[1:]) == ["日"]
    assert keys(reader, b"\xff\xc3(") == ["\ufffd", "\ufffd", "("]


def test_the_begin_of_a_paste_that_came_too_slowly_swallows_no_key() -> None:
    for cut in range(len(ON) + 1):
        reader = KeyReader()
        list(reader.feed(ON[:cut]))
        assert keys(reader, ON[cut:] + b"abc")[-3:] == ["a", "b", "c"]
        assert keys(reader, b"d" + OFF + b"e") == ["d", "e"]


@given(st.binary(max_size=80))
@example(ON)
def test_no_bytes_whatsoever_end_the_reader(data: bytes) -> None:
    reader = KeyReader()
    list(reader.feed(data))
    list(reader.tick())
    list(reader.feed(b"\x18" * 40))
    assert "z" in keys(reader, b"zzz")


def named(reader: KeyReader, *reads: bytes) -> list[tuple[str, str | None]]:
    """Keys with the text that a widget would write for them; then silence."""
    found = [message for data in reads for message in reader.feed(data)]
    found += reader.tick()
    return [(key.key, key.character) for key in found if isinstance(key, events.Key)]


@pytest.mark.parametrize("letter", "abcdefghijklmnopqrstuvwxyzN[]OP^_é日")
@pytest.mark.parametrize("presses", [1, 2, 5])
def test_alt_and_a_letter_pressed_fast_is_the_shortcut_each_time_and_no_text(
    letter: str, presses: int
) -> None:
    one = b"\x1b" + letter.encode()
    for reads in ([one * presses], [one] * presses, [bytes([byte]) for byte in one * presses]):
        found = named(KeyReader(delay=0), *reads)
        assert len(found) == presses, reads
        assert len(set(found)) == 1
        assert found[0][0].startswith(("alt+", "ctrl+")), found  # Alt+B and Alt+F move by words
        assert found[0][1] is None


def test_a_shortcut_then_a_letter_is_a_shortcut_and_a_letter() -> None:
    assert named(KeyReader(), b"\x1bpx\x1bi") == [("alt+p", None), ("x", "x"), ("alt+i", None)]


def test_escape_pressed_twice_and_an_arrow_after_it() -> None:
    assert named(KeyReader(delay=0), b"\x1b\x1b[A\x1b") == [
        ("escape", "\x1b"),
        ("up", None),
        ("escape", "\x1b"),
    ]


def test_a_lone_escape_waits_for_its_delay() -> None:
    now = 0.0
    reader = KeyReader(delay=0.1, clock=lambda: now)
    assert list(reader.feed(b"\x1b")) == []
    assert reader.waits
    assert list(reader.tick()) == []
    now = 0.2
    assert [key.key for key in reader.tick() if isinstance(key, events.Key)] == ["escape"]


SEQUENCES = [
    *(b"\x1b[1;3A", b"\x1b[1;10P", b"\x1b[999;999z", b"\x1b[112;3u", b"\x1b[?2026;2$y"),
    *(
        b"\x1b]11;rgb:0/0/0\x07",
        b"\x1bP>|tmux 3.4\x1b\\",
        b"\x1b[[A",
        b"\x1b[M !!",
        b"\x1b[<0;3;4M",
    ),
    *(b"\x1b[<0;3;4M", b"\x1b[27;5;13~", b"\x1b[200~", b"\x1b[I", b"\x1bp", b"\x1b\r", b"\x1b\x7f"),
]


@given(st.lists(st.sampled_from(SEQUENCES), max_size=6).map(b"".join), st.lists(st.integers(0, 60)))
def test_no_sequence_is_typed_whatever_it_is_and_wherever_the_reads_are_cut(
    data: bytes, cuts: list[int]
) -> None:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    reader = KeyReader(delay=1e9)
    reads = [data[begin:end] for begin, end in itertools.pairwise(places)]
    assert not [text for _, text in named(reader, *reads) if text and text.isprintable()]
