"""Sessions and files in the studio: saved as they happen, found again as they were left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from fixtures.scripts import Say
from qwen_tui import paths
from qwen_tui.backends.replay import Replay, takes
from qwen_tui.engine.runner import Runner
from qwen_tui.session import drafts, library
from qwen_tui.session.opening import OpenSession, new_store, open_session
from qwen_tui.session.session import Session
from qwen_tui.settings import Settings
from qwen_tui.tui.app import QwenTui
from qwen_tui.tui.context import StudioContext
from qwen_tui.types import Moved

Studio = Callable[..., Any]
BEGINNING = "In olden times"
WHOLE = " there was a king who had a golden ball and a well"


def only_session() -> Path:
    (path,) = library.files()
    return path


async def test_what_happens_is_saved_and_said_so(studio: Studio) -> None:
    async with studio(text=BEGINNING, save=True) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.until(lambda: "✓ saved" in bench.screen(), "the mark")
        loaded = open_session(only_session(), read_only=True)
        assert loaded.session.text == BEGINNING
        assert b"".join(t.data for t in loaded.session.tail).decode().startswith(WHOLE)


async def test_a_session_comes_back_as_it_was_left(studio: Studio) -> None:
    async with studio(text=BEGINNING, save=True) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("ctrl+r")
        await bench.settled()
        await bench.pilot.press("ctrl+right")
        bench.workspace.opened.flush()
        path = only_session()
    opened = open_session(path)
    async with studio(opened=opened, save=True) as bench:
        assert bench.document == BEGINNING + " there"
        assert bench.output.startswith(" was a king")
        await bench.ready()
        await bench.pilot.press("f9", "alt+left")
        assert bench.document == BEGINNING
        assert "2 of 2" in bench.screen()


async def test_an_interrupted_completion_is_marked_and_gone_on_with(studio: Studio) -> None:
    async with studio(gated=True, text=BEGINNING, save=True) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        bench.gate.allow(3)
        await bench.until(lambda: bench.output == " there was a")
        bench.workspace.opened.flush()
        source = only_session()
        copy = source.with_name("01AAAAAAAAAAAAAAAAAAAAAAAA-copy.jsonl")
        copy.write_bytes(source.read_bytes())  # what a killed process leaves
    opened = open_session(copy)
    async with studio((Say(" castle"),), opened=opened, save=True) as bench:
        await bench.ready()
        assert "interrupted" in bench.screen()
        assert bench.output == " there was a"
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert bench.document == BEGINNING + " there was a"
        assert bench.output.startswith(" castle")


async def test_typing_that_was_never_sent_comes_back(studio: Studio) -> None:
    async with studio(text=BEGINNING, save=True) as bench:
        await bench.ready()
        await bench.type(" and more")
        bench.workspace.text.keep_draft()
        bench.workspace.opened.flush()
        path = only_session()
    opened = open_session(path)
    async with studio(opened=opened, save=True) as bench:
        assert bench.document == BEGINNING + " and more"
        assert bench.workspace.text.dirty


@pytest.mark.parametrize("key", ["ctrl+q", "ctrl+n"])
async def test_a_text_that_was_only_typed_is_a_session_when_it_is_left(
    studio: Studio, key: str
) -> None:
    async with studio(save=True) as bench:
        await bench.type("A lonely text")
        await bench.pilot.press(key)
        await bench.until(lambda: bool(library.files()), "a file")
        bench.workspace.opened.close(committed=bench.app.committed)
    assert open_session(only_session(), read_only=True).session.text == "A lonely text"
    assert drafts.orphans([]) == []


async def test_nothing_typed_leaves_no_session(studio: Studio) -> None:
    async with studio(save=True) as bench:
        await bench.pilot.press("ctrl+n")
        await bench.pilot.press("ctrl+q")
    assert library.files() == []


async def test_the_seed_that_is_shown_made_what_is_shown(studio: Studio) -> None:
    async with studio(text=BEGINNING, save=True) as bench:
        await bench.ready()
        seeds = []
        for key in ("ctrl+j", "ctrl+r"):
            await bench.pilot.press(key)
            await bench.settled()
            seeds.append(bench.studio.status_line.status.facts.seed)
        assert seeds[0] != seeds[1]
        await bench.pilot.press("alt+down")
        assert bench.studio.status_line.status.facts.seed == seeds[0]
        await bench.pilot.press("alt+up")
        assert bench.studio.status_line.status.facts.seed == seeds[1]
        await bench.pilot.press("ctrl+n")
        await bench.pilot.pause()
        assert bench.studio.status_line.status.facts.seed is None
        assert bench.studio.status_line.status.facts.tok_s == 0
        assert bench.sampling.last_seed is None


async def test_a_session_open_elsewhere_is_followed_and_can_be_forked(studio: Studio) -> None:
    session = Session.new()
    store = new_store(session)
    session.commit("Their text")
    store.flush(2.0)
    opened = open_session(store.path)
    try:
        async with studio(opened=opened, save=True) as bench:
            await bench.ready()
            assert bench.document == "Their text"
            assert "read-only" in bench.screen()
            session.commit("Their text goes on")
            store.flush(2.0)
            await bench.until(lambda: bench.document == "Their text goes on", "following")
            await bench.pilot.press("ctrl+j")
            await bench.until(lambda: "Fork it" in bench.screen(), "the offer")
            assert bench.made[0].requests == []
            await bench.pilot.press("right", "enter")
            await bench.until(lambda: "read-only" not in bench.screen())
            await bench.pilot.press("ctrl+j")
            await bench.settled()
            assert bench.workspace.opened.path != store.path
            bench.workspace.opened.flush()
            assert len(library.files()) == 2
    finally:
        store.close()


async def test_a_failing_disk_is_said_until_it_is_mended(studio: Studio, home: Path) -> None:
    sessions = paths.sessions_dir()
    sessions.parent.mkdir(parents=True)
    sessions.write_text("a file where the folder should be")
    async with studio(text=BEGINNING, save=True) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.until(lambda: "Not saved" in bench.screen(), "the banner")
        await bench.pilot.press("escape", "escape")
        assert "Not saved" in bench.screen()
        assert bench.output.startswith(WHOLE)
        assert "saves the session elsewhere" in bench.screen()
        elsewhere = home / "elsewhere"
        elsewhere.mkdir()
        await bench.pilot.press("alt+e")
        await bench.pilot.pause()
        bench.app.screen.query_one(Input).value = str(elsewhere)
        await bench.pilot.press("enter")
        await bench.until(lambda: "✓ saved" in bench.screen(), "saved in the end")
        assert len(list(elsewhere.glob("*.jsonl"))) == 1
        await bench.until(lambda: "Not saved" not in bench.screen(), "the banner gone")


async def test_a_new_session_is_empty_and_the_old_one_can_be_opened_again(
    studio: Studio,
) -> None:
    async with studio(text=BEGINNING, save=True) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("ctrl+n")
        await bench.pilot.pause()
        assert bench.document == ""
        assert bench.output == ""
        await bench.pilot.press("ctrl+l")
        await bench.until(lambda: BEGINNING in bench.screen())
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.document == BEGINNING, "the old session")
        assert bench.output.startswith(WHOLE)


# -- files -----------------------------------------------------------------------------------------


async def test_the_text_is_written_to_a_file(studio: Studio, tmp_path: Path) -> None:
    async with studio(text=BEGINNING + "\r\n", toasts=True) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+s")
        await bench.pilot.pause()
        bench.app.screen.query_one(Input).value = str(tmp_path / "story.txt")
        await bench.pilot.press("enter")
        await bench.until(lambda: (tmp_path / "story.txt").exists())
        assert (tmp_path / "story.txt").read_bytes() == (BEGINNING + "\r\n").encode()
        written = f"Wrote {len(BEGINNING) + 2} characters to story.txt."
        await bench.until(lambda: written in bench.screen(), "which file it was")
        await bench.type("So ")
        await bench.pilot.press("ctrl+s")
        await bench.until(lambda: b"So " in (tmp_path / "story.txt").read_bytes(), "the same file")


async def test_a_file_that_changed_is_not_written_over_unasked(
    studio: Studio, tmp_path: Path
) -> None:
    file = tmp_path / "story.txt"
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+s")
        await bench.pilot.pause()
        bench.app.screen.query_one(Input).value = str(file)
        await bench.pilot.press("enter")
        await bench.until(file.exists)
        file.write_text("somebody else's")
        await bench.pilot.press("ctrl+s")
        await bench.until(lambda: "changed on the disk" in bench.screen())
        await bench.pilot.press("escape")
        assert file.read_text() == "somebody else's"


async def save_under(bench: Any, path: Path) -> None:
    await bench.until(lambda: "Save the text as" in bench.screen(), "the question")
    bench.app.screen.query_one(Input).value = str(path)
    await bench.pilot.press("enter")
    await bench.until(lambda: f"─ {path.name} " in bench.screen(), "the file's name in the frame")


async def test_the_text_can_be_saved_under_another_name(studio: Studio, tmp_path: Path) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    async with studio(text=BEGINNING, save=True) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+s")
        await save_under(bench, first)
        await bench.type(" there")
        await bench.pilot.press("ctrl+p")
        await bench.pilot.pause()
        bench.app.screen.query_one(Input).value = "Save text as"
        await bench.until(lambda: "Ask for a file name" in bench.screen(), "the palette")
        await bench.pilot.press("down", "enter")
        await save_under(bench, second)
        assert first.read_text() == BEGINNING
        assert second.read_text() == BEGINNING + " there"
        await bench.type(" now")
        await bench.pilot.press("ctrl+s")
        await bench.until(lambda: " now" in second.read_text(), "the new file from then on")
        assert first.read_text() == BEGINNING
        bench.workspace.opened.flush()
        assert library.listing(only_session()).title == "second.txt"


async def test_a_name_that_is_taken_is_asked_about_and_a_title_of_ones_own_stays(
    studio: Studio, tmp_path: Path
) -> None:
    (tmp_path / "taken.txt").write_text("somebody else's")
    session = Session.new(title="My own")
    settings = Settings(keys={"save_text_as": "f12"})
    async with studio(session=session, text=BEGINNING, settings=settings) as bench:
        await bench.ready()
        await bench.pilot.press("f12")
        await bench.until(lambda: "Save the text as" in bench.screen(), "a key of one's own")
        bench.app.screen.query_one(Input).value = str(tmp_path / "taken.txt")
        await bench.pilot.press("enter")
        await bench.until(lambda: "is there already" in bench.screen(), "asking first")
        await bench.pilot.press("escape")
        assert (tmp_path / "taken.txt").read_text() == "somebody else's"
        await bench.pilot.press("f12")
        await bench.until(lambda: "Save the text as" in bench.screen(), "the question")
        bench.app.screen.query_one(Input).value = str(tmp_path / "free.txt")
        await bench.pilot.press("enter")
        await bench.until((tmp_path / "free.txt").exists)
        assert "─ My own " in bench.screen()


async def test_the_persons_editor_has_the_text(
    studio: Studio, tmp_path: Path, monkeypatch: Any
) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "%s, edited\\n" "$(cat "$1")" > "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    from qwen_tui.tui.studio import text_file

    assert text_file.edit_outside(BEGINNING, os.environ) == BEGINNING + ", edited"
    assert text_file.edit_outside("a\n", os.environ) == "a, edited\n"


# -- playing back ----------------------------------------------------------------------------------


def playback(recorded: Session, layout: Any = "panes") -> QwenTui:
    """The interface on a recorded session, which it plays at once."""
    runner = Runner(lambda report, cancel: Replay(takes(recorded.entries), speed=float("inf")))
    context = StudioContext(
        settings=Settings(save=False, engine="replay", layout=layout),
        runner=runner,
        opener=lambda _settings: runner._opener,
        vocab=lambda _settings: None,
        open_session=lambda _path: OpenSession(Session.new()),
        opened=OpenSession(recorded),
        play=True,
    )
    return QwenTui(context)


async def played(app: QwenTui, pilot: Pilot[int], moves: int, text: str, completion: str) -> None:
    """Wait until a playback has made so many moves and shows this; fail with what is shown."""
    for _ in range(400):
        panes = app.studio.panes
        shown = b"".join(token.data for token in panes.completion.output.tokens).decode()
        made = _moves(app.studio.workspace.session)
        if made >= moves and panes.document.editor.text == text and shown == completion:
            return
        await pilot.pause(0.01)
    pytest.fail(f"{panes.document.editor.text!r} {shown!r}")


def _moves(session: Session) -> int:
    return sum(isinstance(entry, Moved) for entry in session.entries)


@pytest.mark.parametrize("layout", ["panes", "inline"])
async def test_a_session_is_played_back_without_a_model(studio: Studio, layout: Any) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("tab")
        await bench.type(" There")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        recorded, final, tail = bench.session, bench.document, bench.output
    app = playback(recorded, layout)
    async with app.run_test(size=(100, 30)) as pilot:
        await played(app, pilot, _moves(recorded), final, tail)
        assert len(app.studio.workspace.session.tree) == len(recorded.tree)
    app.context.runner.close()


async def test_a_playback_ends_with_its_completion_to_look_at(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        tail = bench.output
        await bench.pilot.press("tab")
        recorded = bench.session
    app = playback(recorded)
    async with app.run_test(size=(100, 30)) as pilot:
        await played(app, pilot, _moves(recorded) + 1, BEGINNING, tail)
        facts = app.studio.status_line.status.facts
        assert (facts.exact, facts.context) == (True, 0)
        assert facts.tokens == len(recorded.tree.path(recorded.head.node))
    app.context.runner.close()


async def test_the_open_session_is_renamed_from_the_list(studio: Studio) -> None:
    async with studio(text=BEGINNING, save=True) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("ctrl+l")
        await bench.until(lambda: "▸" in bench.screen(), "the open one is marked")
        await bench.pilot.press("f2")
        await bench.pilot.pause()
        await bench.pilot.press(*"Tale", "enter")
        await bench.until(lambda: "Tale" in bench.screen(), "the list shows it")
        assert bench.session.title == "Tale"
        assert library.listing(only_session()).title == "Tale"
        await bench.pilot.press("escape")
        await bench.until(lambda: "─ Tale" in bench.screen(), "the document bears it")


async def test_the_open_session_is_thrown_away_from_the_list_and_restored(studio: Studio) -> None:
    async with studio(text=BEGINNING, save=True) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        path = bench.workspace.opened.path
        await bench.pilot.press("ctrl+l")
        await bench.until(lambda: "▸" in bench.screen(), "the list")
        await bench.pilot.press("down", "delete")
        await bench.pilot.pause()
        await bench.pilot.press("tab", "enter")
        await bench.until(lambda: library.trashed(), "it lies in the trash")
        assert not path.exists()
        await bench.pilot.press("escape")
        await bench.pilot.pause()
        assert bench.document == ""
        await bench.type("Another")
        await bench.pilot.press("ctrl+l", "f3")
        await bench.until(lambda: BEGINNING in bench.screen(), "the trash shows it")
        await bench.pilot.press("enter", "f3")
        await bench.until(lambda: BEGINNING in bench.screen(), "it is back")
        assert path.exists()
        assert library.trashed() == []
        await bench.pilot.press("home", "enter")
        await bench.until(lambda: bench.document == BEGINNING, "it is opened")
