"""Typing that was not committed comes back onto the text it was typed on, and onto no other."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_tui import paths
from qwen_tui.session.drafts import MAX_BYTES, Drafts, change, orphans, restore
from qwen_tui.session.tree import Place

HERE = Place("n1", 3)


@settings(deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_a_change_makes_one_text_of_the_other(before: str, after: str) -> None:
    start, cut, put = change(before, after)
    assert before[:start] + put + before[start + cut :] == after
    assert len(put) <= len(after)


def test_a_key_press_in_a_large_text_is_a_small_change() -> None:
    text = "word " * 200_000
    assert change(text, text[:500_000] + "x" + text[500_000:]) == (500_000, 0, "x")
    assert change(text, text) == (len(text), 0, "")


def test_typing_comes_back_with_its_cursor() -> None:
    drafts = Drafts("S1")
    drafts.note(HERE, "one", "one t", 5)
    drafts.note(HERE, "one", "one two é🙂\x1b", 9)
    assert drafts.flush(5)
    assert restore("S1", HERE, "one") == ("one two é🙂\x1b", 9)
    drafts.close()
    assert restore("S1", HERE, "one") == ("one two é🙂\x1b", 9)
    assert restore("S1", Place("n1", 2), "one") is None
    assert restore("S1", HERE, "other") is None
    assert restore("S2", HERE, "one") is None


def test_a_draft_is_the_owners_alone() -> None:
    drafts = Drafts("S1")
    drafts.note(HERE, "", "secret", 1)
    drafts.flush(5)
    assert stat.S_IMODE(drafts.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(drafts.path.parent.stat().st_mode) == 0o700
    drafts.close(discard=True)
    assert not drafts.path.exists()


def test_typing_after_a_commit_leaves_the_older_draft_readable() -> None:
    drafts = Drafts("S1")
    drafts.note(HERE, "one", "one two", 7)
    drafts.flush(5)
    drafts.note(Place("n2", 5), "one two", "one two three", 13)
    drafts.close()
    # Had the commit been lost with the process, its text is still here.
    assert restore("S1", HERE, "one") == ("one two", 7)
    assert restore("S1", Place("n2", 5), "one two") == ("one two three", 13)


def test_a_draft_that_says_what_the_document_says_is_none() -> None:
    drafts = Drafts("S1")
    drafts.note(HERE, "one", "one!", 4)
    drafts.note(HERE, "one", "one", 3)
    drafts.close()
    assert restore("S1", HERE, "one") is None


def test_many_edits_agree_with_the_plain_text() -> None:
    draw = random.Random(2)
    drafts = Drafts("S1")
    text = "start"
    for _ in range(60):
        at = draw.randint(0, len(text))
        text = text[:at] + draw.choice(["é", "ab", "\n", ""]) + text[at + draw.randint(0, 2) :]
        drafts.note(HERE, "start", text, at)
        assert drafts.flush(5)
    drafts.close()
    assert (restore("S1", HERE, "start") or ("start", 0))[0] == text


def test_a_cut_draft_gives_what_is_whole() -> None:
    drafts = Drafts("S1")
    for text in ("one a", "one ab", "one abc"):
        drafts.note(HERE, "one", text, len(text))
        drafts.flush(5)
    drafts.close()
    data = drafts.path.read_bytes()
    for cut in range(0, len(data), 7):
        drafts.path.write_bytes(data[:cut])
        found = restore("S1", HERE, "one")
        assert found is None or found[0] in ("one a", "one ab", "one abc")
    drafts.path.write_bytes(b"\xff\0garbage\n" + data)
    assert restore("S1", HERE, "one") == ("one abc", 7)


def test_going_on_after_a_crash_keeps_the_draft() -> None:
    first = Drafts("S1")
    first.note(HERE, "one", "one two", 7)
    first.close()
    second = Drafts("S1")
    second.note(HERE, "one", "one two three", 13)
    second.close()
    assert restore("S1", HERE, "one") == ("one two three", 13)


def test_a_draft_does_not_grow_for_ever() -> None:
    drafts = Drafts("S1")
    for number in range(4):
        place = Place(f"n{number}", 0)
        drafts.note(place, "", "x" * (MAX_BYTES // 2), 0)
        drafts.flush(5)
    assert drafts.path.stat().st_size < 2 * MAX_BYTES
    drafts.close()


def test_orphans_are_drafts_without_a_session_that_nobody_holds() -> None:
    start = Place(None, 0)
    left, held, known = Drafts("LEFT"), Drafts("HELD"), Drafts("KNOWN")
    for drafts in (left, held, known):
        drafts.note(start, "", f"typed in {drafts.path.stem}", 3)
        drafts.flush(5)
    left.close()
    known.close()
    (orphan,) = orphans(["KNOWN"])
    assert (orphan.id, orphan.text, orphan.cursor) == ("LEFT", "typed in LEFT", 3)
    held.close()
    assert {orphan.id for orphan in orphans(["KNOWN"])} == {"LEFT", "HELD"}
    assert orphans([], folder=paths.drafts_dir() / "none") == []


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_a_draft_that_is_no_file_is_left_alone(tmp_path: Path, kind: str) -> None:
    folder = paths.ensure_folder(paths.drafts_dir())
    place = folder / "S1.jsonl"
    if kind == "link":
        place.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.mkdir()
    drafts = Drafts("S1")
    drafts.note(HERE, "", "words", 0)
    flushed = drafts.flush(5)
    if kind != "fifo":
        assert not flushed
        assert drafts.reason
    drafts.close()
    assert not (tmp_path / "elsewhere").exists()
    assert restore("S1", HERE, "") is None
