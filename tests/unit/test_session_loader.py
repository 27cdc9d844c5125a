"""Damage of every kind to a session file: what is whole is read, the rest is named."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_tui.journal import MAX_LINE, Scribe, seal
from qwen_tui.session.loader import MAX_NOTED, SessionLoader, load
from qwen_tui.session.session import Session
from qwen_tui.types import Emitted, Entry, Environment, Finished, Head, Sampling, Token, Trouble

ENV = Environment("e1", "scripted", {"repo": "demo"})


def told(words: str = " upon a 🙂 time") -> list[Entry]:
    """A small session: a prompt, a completion token by token, an end."""
    session = Session.new(title="tale", clock=lambda: 1.7e9, bits=lambda n: 1)
    session.commit("Once")
    generation, _ = session.start(session.request(Sampling(seed=1)), ENV)
    for index, word in enumerate(words.split(" ")[1:]):
        data = b" " + word.encode()
        session.happen(generation, Emitted((Token(index, data, -0.5),), index=index))
    session.happen(generation, Finished("length"))
    session.accept()
    return session.entries


def written(entries: list[Entry], writer: str = "w1", first: int = 0) -> list[bytes]:
    scribe = Scribe()
    return [
        seal(scribe.record(entry), writer, first + place, 1) for place, entry in enumerate(entries)
    ]


def fed(data: bytes) -> tuple[list[Entry], SessionLoader]:
    """As `load`, of bytes."""
    loader = SessionLoader()
    out: list[Entry] = []
    for raw in data.splitlines(keepends=True) if b"\r" not in data else _lines(data):
        out += loader.feed(raw, last=not raw.endswith(b"\n"))
    loader.finish()
    return out, loader


def _lines(data: bytes) -> list[bytes]:
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


ENTRIES = told()
LINES = written(ENTRIES)
WHOLE = b"".join(LINES)
STARTS = [sum(map(len, LINES[:place])) for place in range(len(LINES) + 1)]


def line_at(offset: int) -> int:
    """The line that holds a byte of `WHOLE`."""
    return next(place for place, start in enumerate(STARTS[1:]) if offset < start)


def test_an_undamaged_file_is_read_whole() -> None:
    entries, loader = fed(WHOLE)
    assert entries == ENTRIES
    assert loader.report.clean
    assert loader.report.records == len(ENTRIES)


def test_cut_at_every_byte() -> None:
    for cut in range(1, len(WHOLE)):
        place = line_at(cut - 1)
        # The line before the cut one is enough: each is read by itself.
        first = max(0, place - 1)
        entries, loader = fed(WHOLE[STARTS[first] : cut])
        # A line that lacks nothing but its line feed is whole.
        whole = STARTS[place + 1] - cut <= 1
        assert entries == ENTRIES[first : place + whole], cut
        assert ("torn" in loader.report.counts) == (not whole)
        assert loader.report.counts.keys() <= {"torn", "gap", "head"}


def test_each_byte_flipped() -> None:
    for offset in range(len(WHOLE)):
        place = line_at(offset)
        # The lines around it are enough: each is read by itself.
        first, last = max(0, place - 1), min(len(LINES), place + 2)
        damaged = bytearray(b"".join(LINES[first:last]))
        damaged[offset - STARTS[first]] ^= (0x01, 0x20, 0x80)[offset % 3]
        entries, loader = fed(bytes(damaged))
        ended = STARTS[place + 1] - 1 == offset
        before, after = ENTRIES[first : place + ended], ENTRIES[place + 1 : last]
        assert entries[: len(before)] == before, offset
        assert not after or entries[-len(after) :] == after, offset
        assert not loader.report.clean, offset
        session = Session()
        for entry in entries:
            session.apply(entry)
        assert session.text == session.layout().text


def test_zero_blocks_spliced_in_and_written_over() -> None:
    draw = random.Random(5)
    for _ in range(300):
        offset, size = draw.randrange(len(WHOLE)), draw.randint(1, 300)
        first = line_at(offset)
        between = offset in STARTS or offset + 1 in STARTS
        entries, loader = fed(WHOLE[:offset] + b"\0" * size + WHOLE[offset:])
        kept = ENTRIES if between else ENTRIES[:first] + ENTRIES[first + 1 :]
        assert entries == kept
        assert not loader.report.sound

        over = WHOLE[:offset] + b"\0" * size + WHOLE[offset + size :]
        entries, _ = fed(over)
        last = line_at(min(offset + size, len(WHOLE)) - 1)
        after = ENTRIES[last + 1 :]
        assert entries[:first] == ENTRIES[:first]
        assert not after or entries[-len(after) :] == after


def test_garbage_between_lines_and_lost_line_feeds() -> None:
    for place in range(len(LINES) + 1):
        for garbage in (
            b"garbage\n",
            b"\xff\xfe\n",
            b"{}\n",
            b'{"k":"tok","ge\n',
            b"]" * 99 + b"\n",
        ):
            data = b"".join([*LINES[:place], garbage, *LINES[place:]])
            assert fed(data)[0] == ENTRIES
    for place in range(1, len(LINES)):
        joined_lines = b"".join(LINES[:place])[:-1] + b"".join(LINES[place:])
        assert fed(joined_lines)[0] == ENTRIES


def test_a_torn_line_in_the_middle_is_what_a_crash_left() -> None:
    cut = LINES[4][:30]
    data = b"".join([*LINES[:4], cut, b"\n", *LINES[4:]])
    entries, loader = fed(data)
    assert entries == ENTRIES
    assert loader.report.sound
    assert [damage.kind for damage in loader.report.damages] == ["torn"]


def test_files_put_together_are_read_once() -> None:
    for data in (WHOLE + WHOLE, WHOLE + b"".join(LINES[3:]), WHOLE[:-1] + WHOLE):
        entries, loader = fed(data)
        assert entries == ENTRIES
        assert loader.report.counts.keys() == {"duplicate"}

    more = written(told()[1:4], "w2")
    entries, loader = fed(WHOLE + b"".join(more))
    assert entries[: len(ENTRIES)] == ENTRIES
    assert len(entries) == len(ENTRIES) + 3


def test_conflict_markers_are_passed_over() -> None:
    data = b"".join(
        [
            *LINES[:4],
            b"<<<<<<< ours\n",
            LINES[4],
            b"=======\n",
            LINES[4],
            b">>>>>>> theirs\n",
            *LINES[5:],
        ]
    )
    entries, loader = fed(data)
    assert entries == ENTRIES
    assert loader.report.counts == {"conflict": 3, "duplicate": 1}
    assert "merge conflict markers: 3" in loader.report.badges()


def test_lost_lines_are_counted_by_their_writer() -> None:
    _, loader = fed(b"".join(LINES[:3] + LINES[5:]))
    assert loader.report.counts == {"gap": 1}
    assert "2 records" in loader.report.damages[0].text
    _, turned = fed(b"".join(LINES[:1] + LINES[5:] + LINES[1:5]))
    assert turned.report.sound


def test_a_changed_line_is_read_with_a_badge() -> None:
    data = WHOLE.replace(b'"text":"Once"', b'"text":"Nope"')
    entries, loader = fed(data)
    assert len(entries) == len(ENTRIES)
    assert loader.report.counts == {"checksum": 1, "gap": 1}
    assert not loader.report.sound
    assert loader.report.damages[0].line == 2


def test_tokens_lost_in_the_middle_show_as_a_gap() -> None:
    entries, _ = fed(b"".join(LINES[:7] + LINES[8:]))
    session = Session()
    for entry in entries:
        session.apply(entry)
    assert "\ufffd" in session.text
    assert session.text.startswith("Once")
    assert session.text.endswith(" time")


def test_a_missing_head_is_noticed_and_another_sessions_too() -> None:
    entries, loader = fed(b"".join(LINES[1:]))
    assert entries == ENTRIES[1:]
    assert loader.report.headless

    other = written([Head("OTHER")], "w9")
    entries, loader = fed(WHOLE + b"".join(other))
    assert entries == ENTRIES
    assert "head" in loader.report.counts


def test_reports_are_bounded() -> None:
    _, loader = fed(LINES[0] + b"junk\n" * (MAX_NOTED + 500))
    assert len(loader.report.damages) == MAX_NOTED
    assert loader.report.counts["garbage"] == MAX_NOTED + 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, len(LINES) - 1), max_size=8), st.lists(json_values, max_size=4))
def test_generated_records_among_real_ones(order: list[int], strange: list[object]) -> None:
    lines = [LINES[place] for place in order]
    for place, value in enumerate(strange):
        lines.insert(place * 2, json.dumps(value).encode() + b"\n")
        lines.insert(place, json.dumps({"k": "tok", "gen": value, "ids": value}).encode() + b"\n")
    entries, _ = fed(b"".join(lines))
    session = Session()
    for entry in entries:
        session.apply(entry)
    assert session.text == session.layout().text


# -- files -----------------------------------------------------------------------------------------


def test_files_that_are_no_sessions_are_refused(tmp_path: Path) -> None:
    cases = {
        "gzip": gzip.compress(WHOLE),
        "text": b"Dear diary,\n",
        "json": b'{"a": 1}\n',
        "zeros": b"\0" * 5000,
        "other": seal({"k": "head", "fmt": "other.session", "id": "x"}, "w", 0, 1),
    }
    for name, data in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(Trouble) as caught:
            list(load(path))
        assert caught.value.code == 65
        assert "begins with" in caught.value.message


def test_only_regular_files_of_ours_are_opened(tmp_path: Path) -> None:
    real = tmp_path / "real.jsonl"
    real.write_bytes(WHOLE)
    link, fifo = tmp_path / "link.jsonl", tmp_path / "fifo.jsonl"
    link.symlink_to(real)
    os.mkfifo(fifo)
    for path in (link, fifo, tmp_path, Path("/dev/null")):
        with pytest.raises(Trouble) as caught:
            list(load(path))
        assert caught.value.code == 65
    with pytest.raises(Trouble) as caught:
        list(load(tmp_path / "none.jsonl"))
    assert caught.value.code == 66


def test_a_line_longer_than_the_limit_loses_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    long = b'{"k":"node","text":"' + b"a" * (MAX_LINE + 10) + b'"}\n'
    path.write_bytes(b"".join([*LINES[:3], long, *LINES[3:]]))
    loader = SessionLoader()
    assert list(load(path, loader)) == ENTRIES
    assert loader.finish().counts == {"record": 1}


def test_reading_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(WHOLE[:-40])
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    list(load(path))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
