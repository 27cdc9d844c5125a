"""A text that has a file: what is written, what is behind, and where it is found again."""

from __future__ import annotations

from pathlib import Path

from fixtures.workspaces import BEGINNING, CONTROLS, STORY, workspace
from qwen_tui.session import library
from qwen_tui.session.opening import OpenSession, new_store, open_session
from qwen_tui.session.session import Session
from qwen_tui.tui.studio import view
from qwen_tui.vocab import Vocab


def saved(title: str = "") -> OpenSession:
    session = Session.new(title=title)
    return OpenSession(session, new_store(session))


def story(folder: Path) -> Path:
    file = folder / "story.txt"
    file.write_text(BEGINNING)
    return file


async def test_the_status_tells_how_far_the_file_is_behind(vocab: Vocab, tmp_path: Path) -> None:
    file = story(tmp_path)
    async with workspace(vocab, opened=saved(), text=BEGINNING, file=file) as bench:
        await bench.until(lambda: view.facts(bench.work, 0).saved == "✓ saved")
        assert not view.facts(bench.work, 0).file
        bench.buffer.type(", a king")
        assert bench.work.unwritten
        assert view.facts(bench.work, 0).file == "file: 8 characters behind"
        assert bench.work.generate(CONTROLS)
        await bench.settled()
        assert bench.work.accept()
        behind = len(", a king" + STORY)
        assert view.facts(bench.work, 0).file == f"file: {behind} characters behind"
        await bench.until(lambda: view.facts(bench.work, 0).saved == "✓ session saved")
        assert bench.work.save_text(file)
        assert not bench.work.unwritten
        assert not view.facts(bench.work, 0).file
        file.write_text("somebody else's")
        assert view.facts(bench.work, 0).file == "file: changed on the disk"


async def test_a_session_that_is_opened_again_has_its_file(vocab: Vocab, tmp_path: Path) -> None:
    file = story(tmp_path)
    opened = saved(file.name)
    async with workspace(vocab, opened=opened, text=BEGINNING, file=file) as bench:
        bench.buffer.type(" there was")
        bench.work.text.commit_typing()
        path = opened.path
    assert path is not None
    assert library.for_file(file) == path
    async with workspace(vocab, opened=open_session(path)) as bench:
        assert bench.buffer.text == BEGINNING + " there was"
        assert bench.work.text_file.path == file
        assert view.facts(bench.work, 0).file == "file: 10 characters behind"
        assert "story.txt is 10 characters behind it" in bench.told[0].text
        assert bench.work.open(None)
        assert bench.work.text_file.path is None
        await bench.until(lambda: not bench.work._tasks)
        file.write_text("Somebody else wrote this")
        assert bench.work.open(path)
        assert bench.work.text_file.path == file
        assert bench.work.text_file.changed


async def test_a_fork_keeps_the_file_that_is_written(vocab: Vocab, tmp_path: Path) -> None:
    file = story(tmp_path)
    async with workspace(vocab, text=BEGINNING, file=file) as bench:
        bench.buffer.type("!")
        bench.work.fork()
        assert bench.buffer.text == BEGINNING + "!"
        assert bench.work.text_file.path == file


async def test_typing_in_a_copy_that_cannot_be_written_becomes_a_session_of_ones_own(
    vocab: Vocab,
) -> None:
    theirs = saved("Theirs")
    theirs.session.commit("Their text")
    assert theirs.path is not None
    theirs.flush()
    try:
        copy = open_session(theirs.path)
        async with workspace(vocab, opened=copy, save=True) as bench:
            assert bench.work.opened.read_only
            bench.buffer.type(" and mine")
            assert bench.work.open(None)
            assert any("a session of your own now" in each.text for each in bench.told)
    finally:
        theirs.close()
    texts = {open_session(path, read_only=True).session.text for path in library.files()}
    assert {"Their text", "Their text and mine"} <= texts


async def test_typing_in_such_a_copy_outlives_a_program_that_is_killed(vocab: Vocab) -> None:
    theirs = saved("Theirs")
    theirs.session.commit("Their text")
    assert theirs.path is not None
    theirs.flush()
    try:
        copy = open_session(theirs.path)
        async with workspace(vocab, opened=copy, save=True) as bench:
            text, drafts = bench.work.text, copy.drafts
            assert drafts is not None
            text.keep_draft()
            assert drafts.flush(2.0)
            assert not drafts.path.exists()  # looking leaves nothing behind
            bench.buffer.type(" and mine")
            text.keep_draft()
            assert drafts.flush(2.0)
            left = drafts.path.read_bytes()
            bench.buffer.undo()
            text.keep_draft()
            assert drafts.flush(2.0)
        drafts.path.write_bytes(left)
    finally:
        theirs.close()
    (adopted,) = library.adopt_orphans()
    assert open_session(adopted, read_only=True).session.text == "Their text and mine"


async def test_typing_that_a_refused_continuation_took_up_becomes_a_session_too(
    vocab: Vocab,
) -> None:
    theirs = saved("Theirs")
    theirs.session.commit("Their text")
    assert theirs.path is not None
    theirs.flush()
    try:
        copy = open_session(theirs.path)
        async with workspace(vocab, opened=copy, save=True) as bench:
            bench.buffer.type(" and mine")
            assert not bench.work.generate(CONTROLS)
            assert bench.told[-1].offer == "fork"  # the person only looks at it
            assert await bench.work.leave(1.0)
    finally:
        theirs.close()
    texts = {open_session(path, read_only=True).session.text for path in library.files()}
    assert {"Their text", "Their text and mine"} <= texts
