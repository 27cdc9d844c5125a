"""Stop strings, however the tokens fall, and the tokens that may spell a beginning."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_tui.backends.local.decoding.prefix_constraint import Spellings, rest_of
from qwen_tui.backends.stop_strings import StopWatch
from qwen_tui.types import Token, joined


def fed(pieces: Sequence[bytes], stops: Sequence[str]) -> tuple[list[Token], str, int]:
    """Feed pieces until a stop string is met: what was let go, the stop, how many were fed."""
    watch, gone = StopWatch(stops), []
    for count, piece in enumerate(pieces, 1):
        ready, stop = watch.feed(Token(count, piece), count)
        gone += [token for token, _ in ready]
        if stop:
            return gone, stop, count
    gone += [token for token, _ in watch.flush()]
    return gone, "", len(pieces)


def test_a_stop_string_is_cut_at_every_split() -> None:
    text, stop = "wait: STOP it — now".encode(), "STOP it —"
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            pieces = [text[:first], text[first:second], text[second:]]
            gone, found, _ = fed(pieces, [stop])
            assert found == stop
            assert joined(gone) == b"wait: "


@given(
    text=st.text("ab\n", max_size=14).map(str.encode),
    cuts=st.lists(st.integers(0, 14), max_size=6),
    stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
)
@settings(max_examples=400, deadline=None)
def test_whatever_the_split_the_text_is_exact(
    text: bytes, cuts: list[int], stops: list[str]
) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[one:two] for one, two in pairwise(edges)]
    gone, found, count = fed(pieces, stops)
    assert [token.id for token in gone] == list(range(1, count + 1))
    seen = b"".join(pieces[:count])
    places = [seen.find(stop.encode()) for stop in stops if stop.encode() in seen]
    if not places:
        assert (found, joined(gone)) == ("", text)
        return
    assert joined(gone) == seen[: min(places)]
    assert seen[min(places) :].startswith(found.encode())
    before = b"".join(pieces[: count - 1])
    assert not any(stop.encode() in before for stop in stops), "it was met later than possible"


def test_nothing_is_held_that_cannot_become_a_stop_string() -> None:
    watch = StopWatch(["\n\n"])
    assert [token.data for token, _ in watch.feed(Token(1, b"a"), 1)[0]] == [b"a"]
    assert watch.feed(Token(2, b"b\n"), 2) == ([], "")
    assert [token.data for token, _ in watch.feed(Token(3, b"c"), 3)[0]] == [b"b\n", b"c"]


def test_a_token_keeps_the_time_it_was_made_at() -> None:
    watch = StopWatch(["xy"])
    watch.feed(Token(1, b"x"), 10)
    ready, _ = watch.feed(Token(2, b"z"), 20)
    assert [ms for _, ms in ready] == [10, 20]


def test_allowed_tokens_are_those_that_spell_on() -> None:
    vocabulary = [b"a", b"ab", b"abc", b"abd", b"b", b"<x>", b"", b"ab"]
    spellings = Spellings(len(vocabulary), vocabulary.__getitem__, lambda each: each == 5)
    for beginning in (b"a", b"ab", b"abc", b"abcd", b"<", b"q"):
        expected = [
            token_id
            for token_id, data in enumerate(vocabulary)
            if data and token_id != 5 and (data.startswith(beginning) or beginning.startswith(data))
        ]
        assert spellings.allowed(beginning).tolist() == expected
    assert rest_of(b"abcd", b"ab") == b"cd"
    assert rest_of(b"ab", b"abc") == b""
