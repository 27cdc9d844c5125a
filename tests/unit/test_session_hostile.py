"""Small files that ask for much: work and memory stay bounded by the size of the file."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qwen_tui.cli import main
from qwen_tui.journal import Record, record, seal
from qwen_tui.session import library
from qwen_tui.session.loader import SessionLoader
from qwen_tui.session.opening import open_session
from qwen_tui.session.tree import MOST_LOST
from qwen_tui.types import Head

ID = "01AAAAAAAAAAAAAAAAAAAAAAAA"
HEAD = seal(record(Head(ID)), "w", 0, 1)
Write = Callable[[bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(body: bytes) -> Path:
        path = tmp_path / f"{ID}-hostile.jsonl"
        path.write_bytes(HEAD + body)
        return path

    return written


def sealed(records: list[Record]) -> bytes:
    return b"".join(seal(each, "w", number, 1) for number, each in enumerate(records, 1))


@contextmanager
def at_most(megabytes: int) -> Iterator[None]:
    """Fails when more memory than that is in use at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes << 20
    finally:
        tracemalloc.stop()


def test_a_branch_number_of_a_damaged_file_makes_one_branch(write: Write) -> None:
    ends: list[Record] = [
        {"k": "end", "gen": f"g{n}", "branch": 65_535, "reason": "length"} for n in range(100)
    ]
    path = write(sealed(ends))
    assert path.stat().st_size < 11_000
    with at_most(8):
        session = open_session(path, read_only=True).session
    assert len(session.tree) == 100
    assert all(len(each.branches) == 1 for each in session.generations.values())


def test_holes_of_a_million_tokens_are_stood_in_for_once_and_told(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens: list[Record] = [
        {"k": "tok", "gen": f"g{n}", "branch": 0, "i": 1_000_000, "ids": [1], "text": "x"}
        for n in range(1_000)
    ]
    path = write(sealed(tokens))
    assert path.stat().st_size < 110_000
    with at_most(64):
        opened = open_session(path, read_only=True)
    held = sum(len(node.tokens) for node in opened.session.tree.nodes.values())
    assert held <= MOST_LOST + 2_000
    assert "998,999,001 lost tokens are not shown" in opened.badges
    assert main(["sessions", "show", str(path)]) == 0
    assert "warning: 998,999,001 lost tokens are not shown" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        b'{"k":"tok"' * 50_000 + b',"c":"00000000"}' * 31_000,
        b'{"k":"a","c":"00000000"}' * 45_000,
        b'{"k":"node","text":"' * 50_000,
        (b'{"k":"node","text":"' * 16 + b" " * 5_000 + b',"c":"00000000"}') * 190,
    ],
    ids=["starts then ends", "pairs", "starts", "long pairs"],
)
def test_unfinished_records_are_looked_through_once(
    line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = SessionLoader()
    read, looked = loader.reader.read, []
    monkeypatch.setattr(loader.reader, "read", lambda raw: looked.append(len(raw)) or read(raw))
    assert loader.feed(line, last=True) == []
    assert sum(looked) < 64 * len(line)


def test_a_whole_record_on_a_damaged_line_is_still_found() -> None:
    good = sealed([{"k": "meta", "title": "found", "tags": []}]).rstrip(b"\n")
    for line in (
        b'{"k":"tok","gen":"g' + good,
        good + b"garbage" + good.replace(b'"n":1', b'"n":2'),
        b'x,"c":"00000000"}' * 50 + good + b'{"k":"node"' * 50,
    ):
        assert [entry.title for entry in SessionLoader().feed(line)] == ["found"]  # type: ignore[union-attr]


def test_a_title_of_eight_megabytes_is_listed_short(write: Write) -> None:
    path = write(sealed([{"k": "meta", "title": "long " * 1_500_000, "tags": ["t" * 1_200] * 500}]))
    listing = library.listing(path)
    assert listing.title.startswith("long long")
    assert len(listing.title) == 1_000
    assert (len(listing.tags), len(listing.tags[0])) == (100, 1_000)
    session = open_session(path, read_only=True).session
    assert session.title == listing.title


def test_metas_that_are_none_do_not_hold_up_the_list(write: Write) -> None:
    title = sealed([{"k": "meta", "title": "mine", "tags": []}])
    assert library.listing(write(title + b'{"k":"meta"' * 700_000 + b"\n")).title == "mine"
    path = write(b'{"k":"meta"\n' * 700_000)
    assert library.listing(path).title == ""
    assert json.loads(HEAD)["id"] == library.listing(path).id
