"""Every entry survives its line; no line, however hostile, is more than refused."""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_tui import journal
from qwen_tui.journal import RecordReader, Scribe, line, read, record, seal, word_tokens
from qwen_tui.journal.decode import _KINDS
from qwen_tui.types import (
    Added,
    Choice,
    Emitted,
    Entry,
    Environment,
    Finished,
    Happened,
    Head,
    Hidden,
    Marked,
    Moved,
    Prefilled,
    Progress,
    Scored,
    Started,
    Stats,
    Titled,
    Token,
    Unknown,
    Weighed,
    joined,
)

FACE = "🙂".encode()


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


ENTRIES: tuple[Entry, ...] = (
    Head("01J", "a title", "qwen-tui 0"),
    Environment("e1", "local", {"repo": "Qwen/Qwen2.5-7B"}, "bf16", threads=2, vers={"t": "1"}),
    Added("n1", None, 0, "user", text="héé", tokens=(Token(5, b"h"), Token(6, "éé".encode()))),
    Added("n2", "n1", 2, "choice", tokens=(Token(7, FACE[:2]),), text="\ufffd"),
    Added("n3", "n1", 1, "model", role="assistant"),
    Started("g1", ("n3",), "e1", {"n": 2, "sha256": "00"}, {"seed": 2**64 - 1, "top_p": 0.9}),
    Happened("g1", Prefilled(2, 1, 0.25)),
    Happened("g1", Finished("stop", 0, Stats(2, 1, 3, 1, 1, 0.25, 0.5, 1.0, 10), "\n\n")),
    Weighed("n1", 0, (None, -0.5), ((), ((5, -0.5), (6, -2.0)))),
    Titled("new", ("a", "b")),
    Marked("n1", True, "here"),
    Hidden("n2", False),
    Moved("n3", 1),
    Moved(None, 0),
    Unknown({"k": "later", "deep": [{"x": 1}]}),
)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: type(entry).__name__)
def test_an_entry_survives_its_line(entry: Entry) -> None:
    found = read(seal(record(entry), "w1", 7, 1_700_000_000_000))

    assert found.ok
    assert found.why == ""
    assert found.stamp == journal.Stamp("w1", 7, 1_700_000_000_000)
    if isinstance(entry, Added) and not entry.text.isascii() and entry.id == "n2":
        assert isinstance(found.entry, Added)
        assert found.entry.tokens == entry.tokens
    else:
        assert found.entry == entry


def test_keys_stand_in_the_formats_order() -> None:
    step = Emitted((Token(1, b"a", -0.5),), branch=1, ms=3, index=4)

    assert list(record(Happened("g", step))) == [
        *("k", "gen", "branch", "i", "ids", "lp", "ms", "top", "drafted", "text")
    ]
    sealed = seal(record(Moved("n", 2)), "w", 0, 1)
    assert list(json.loads(sealed)) == ["k", "node", "at", "w", "n", "t", "c"]


def test_the_checksum_is_over_the_bytes_before_it() -> None:
    sealed = seal(record(Moved("n", 2)), "w", 0, 1)
    before, after = sealed.rsplit(b',"c":"', 1)

    assert after == b'%08x"}\n' % zlib.crc32(before)
    assert not read(sealed.replace(b'"at":2', b'"at":3')).ok


def test_printed_records_are_the_stored_ones_without_a_stamp() -> None:
    printed = json.loads(line(record(Moved("n", 2))))
    stored = json.loads(seal(record(Moved("n", 2)), "w", 0, 1))

    assert {key: stored[key] for key in printed} == printed
    assert stored.keys() - printed.keys() == {"w", "n", "t", "c"}


tokens = st.builds(
    Token,
    id=st.integers(-1, journal.MAX_ID),
    data=st.binary(max_size=6),
    logprob=st.none() | st.floats(-100, 0, width=32).map(lambda value: round(value, 3)),
    drafted=st.booleans(),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(tokens, min_size=1, max_size=4), max_size=6))
def test_emitted_bytes_survive_in_every_cut(steps: list[list[Token]]) -> None:
    scribe, reader = Scribe(), RecordReader()
    texts = []
    for index, step in enumerate(steps):
        entry = Happened("g", Emitted(tuple(step), index=index, ms=index))
        values = scribe.record(entry)
        texts.append(values["text"])
        found = reader.read(seal(values, "w", index, 0))
        assert found.ok
        assert found.entry == entry

    whole = b"".join(joined(step) for step in steps).decode("utf-8", "replace")
    assert whole.startswith("".join(texts))
    assert len(whole) - len("".join(texts)) <= 1


def test_text_is_what_a_record_completes() -> None:
    scribe = Scribe()
    cuts = (b"a", FACE[:1], FACE[1:3], FACE[3:] + b"b")
    said = [
        scribe.record(Happened("g", Emitted((Token(9, cut),), index=place)))
        for place, cut in enumerate(cuts)
    ]

    assert [values["text"] for values in said] == ["a", "", "", "🙂b"]
    assert ["b64" in values for values in said] == [False, True, True, True]


def test_alternatives_are_spelled_once_and_read_without_a_vocabulary() -> None:
    scribe, reader = Scribe(), RecordReader()
    token = Token(1, b"x", -0.25, (Choice(1, b"x", -0.25), Choice(2, b"\xff", -2.0)))
    first = scribe.record(Happened("g", Emitted((token,))))
    again = scribe.record(Happened("g", Emitted((token,), index=1)))

    assert first["spell"] == {"2": ["/w=="]}
    assert "spell" not in again
    for values in (first, again):
        found = reader.read(line(values)).entry
        assert isinstance(found, Happened)
        assert isinstance(found.event, Emitted)
        assert found.event.tokens == (token,)
    assert reader.spelling(2) == b"\xff"


def test_a_token_cut_by_a_stop_string_does_not_spell_its_id() -> None:
    scribe, reader = Scribe(), RecordReader()
    whole = (Choice(1, b" word", -0.25),)
    cut = scribe.record(Happened("g", Emitted((Token(1, b" w", -0.25, whole),))))
    reader.read(line(cut))
    assert reader.spelling(1) == b" word"


def test_an_end_counts_and_hashes_its_branch() -> None:
    scribe = Scribe()
    emitted = (Token(3, b"a"), Token(4, b"b"))
    scribe.record(Happened("g", Emitted(emitted)))
    end = scribe.record(Happened("g", Finished("eos")))

    assert end["n"] == 2
    assert end["ids_sha256"] == journal.ids_sha256(emitted)
    stored = json.loads(seal(end, "w", 9, 1))
    assert (stored["n"], stored["count"]) == (9, 2)


@pytest.mark.parametrize("value", [-0.1, -1e-30, -87.33654, 0.0, -3.4e38, -math.pi])
def test_a_logprob_keeps_its_float32(value: float) -> None:
    values = record(Happened("g", Emitted((Token(1, b"a", float32(value)),))))

    assert float32(json.loads(line(values))["lp"][0]) == float32(value)
    assert len(repr(values["lp"][0])) <= 16


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_is_no_number(value: float) -> None:
    token = Token(1, b"a", value, (Choice(2, b"b", value),))
    values = json.loads(line(record(Happened("g", Emitted((token,))))))
    assert values["lp"] == [None]
    assert values["top"] == [[[2, None]]]

    odd = line(record(Started("g", (), "", {}, {"bias": value, "what": object()})))
    assert b"NaN" not in odd
    assert b"Infinity" not in odd
    assert read(odd).entry is not None


def test_controls_that_could_act_are_escaped() -> None:
    hostile = "\x7f\x85\x9b\u2028\u2029\u202e\u2066\ud800 é 🙂"
    printed = line(record(Titled(hostile)))

    text = printed.decode("utf-8")
    assert not set(text) & set("\x7f\x85\x9b\u2028\u2029\u202e\u2066")
    assert "é 🙂" in text
    assert printed.count(b"\n") == 1
    found = read(printed).entry
    assert found == Titled(hostile.replace("\ud800", "\ufffd"))


@pytest.mark.parametrize(
    "text", ["", "a b", "  one\n\ntwo\t", "人工知能" * 40, "x" * 1000, "🙂" * 50]
)
def test_text_without_a_tokenizer_has_the_same_tokens_when_read_back(text: str) -> None:
    entry = Added("n", None, 0, "user", text=text, tokens=word_tokens(text))
    assert joined(entry.tokens) == text.encode()
    values = record(entry)

    assert values["ids"] is None
    assert read(line(values)).entry == entry


HOSTILE = (
    b"",
    b"\n",
    b"\0" * 100,
    b"null",
    b"[]",
    b'"k"',
    b"{}",
    b'{"k":1}',
    b'{"k":"tok"}',
    b'{"k":"tok","gen":"g","ids":[4294967296],"text":"a"}',
    b'{"k":"tok","gen":"g","ids":[-2],"text":"a"}',
    b'{"k":"tok","gen":"g","ids":[true],"text":"a"}',
    b'{"k":"tok","gen":"g","ids":[1],"text":"a","lp":[1e999]}',
    b'{"k":"tok","gen":"g","ids":[1],"text":"a","lp":[' + b"9" * 400 + b"]}",
    b'{"k":"tok","gen":"g","ids":[1,2],"text":"a","lens":[1,1]}',
    b'{"k":"tok","gen":"g","ids":[1,2],"text":"a","lens":[-1,2]}',
    b'{"k":"tok","gen":"g","ids":[1],"text":"a","b64":"*"}',
    b'{"k":"tok","gen":"g","ids":[1],"text":"a","i":-1}',
    b'{"k":"tok","gen":"g","ids":[1],"text":"a","top":[[1]]}',
    b'{"k":"tok","gen":"g","ids":[1],"text":"a","top":[null]}',
    b'{"k":"tok","gen":"g","ids":[1],"text":"a","top":[["ab"]]}',
    b'{"k":"tok","gen":"g","ids":{"a":1},"text":"a"}',
    b'{"k":"node","id":"n","parent":1,"at":0,"src":"user"}',
    b'{"k":"move","node":"n","at":1e3}',
    b'{"k":"head","fmt":7}',
    b'{"k":"gen","gen":"g","nodes":[1]}',
    b'{"k":"end","gen":"g","reason":"eos","stats":[]}',
    b'{"k":"score","node":"n","lp":["a"]}',
    b'{"k":"tok","gen":"\xff"}',
    b"[" * 100_000,
    b'{"k":"x","a":' + b"[" * 100 + b"]" * 100 + b"}",
    b'{"k":"x","a":' + b"9" * 10_000 + b"}",
)


@pytest.mark.parametrize("raw", HOSTILE, ids=lambda raw: repr(raw[:40]))
def test_a_line_that_cannot_be_is_refused_with_a_reason(raw: bytes) -> None:
    found = read(raw)

    assert found.entry is None
    assert found.why
    assert not found.ok


def test_a_line_that_is_too_long_is_refused() -> None:
    found = read(b'{"k":"x","a":"' + b"a" * journal.MAX_LINE + b'"}')
    assert found.entry is None
    assert "16 MiB" in found.why


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        *("id", "gen", "ids", "lens", "lp", "top", "text", "b64", "at", "parent", "src", "node"),
        *("i", "branch", "ms", "params", "stats", "spell", "fmt", "v", "min", "w", "n", "t", "c"),
        *("nodes", "prompt", "on", "reason", "start", "drafted", "schedule", "model"),
    ]
)


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from([*_KINDS, "other"]),
    st.dictionaries(KEYS, json_values, max_size=8),
)
def test_generated_records_never_raise(kind: str, values: dict[str, Any]) -> None:
    raw = json.dumps({"k": kind, **values}).encode()
    found = read(raw)
    if found.entry is None:
        assert found.why
    else:
        line(record(found.entry))


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_generated_bytes_never_raise(raw: bytes) -> None:
    assert read(raw).entry is None


def test_what_a_newer_version_adds_is_kept() -> None:
    raw = seal({"k": "later", "body": {"a": [1, 2]}}, "w", 0, 1)
    found = read(raw)
    assert found.entry == Unknown({"k": "later", "body": {"a": [1, 2]}})
    assert read(raw.replace(b'"later"', b'"meta"')).entry == Titled("")

    extra = json.loads(line(record(Moved("n", 1)))) | {"new": True}
    assert read(line(extra)).entry == Moved("n", 1)


def test_bare_events_can_be_printed() -> None:
    assert record(Progress("load", 1, 2)) == {
        "k": "progress",
        "stage": "load",
        "done": 1,
        "total": 2,
    }
    assert read(line(record(Progress("load", 1, 2)))).entry == Progress("load", 1, 2)
    assert record(Scored(3, (Token(1, b"a", -0.5),)))["start"] == 3
    assert record(Prefilled(1, 0, 0.5), generation="g")["gen"] == "g"


def test_an_environments_id_is_of_its_content() -> None:
    env = Environment("", "local", {"repo": "a", "files": {"x": "y"}}, threads=2)
    named = replace(env, id=journal.environment_id(env))

    assert journal.environment_id(named) == named.id
    assert journal.environment_id(replace(named, threads=3)) != named.id
    reread = read(line(record(named))).entry
    assert isinstance(reread, Environment)
    assert journal.environment_id(reread) == named.id
