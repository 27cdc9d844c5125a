"""A file and its session: leaving while one lacks something, and coming back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen_tui.cli.wiring import StudioInput, _session_of_file
from qwen_tui.session.opening import OpenSession, new_store, open_session
from qwen_tui.session.session import Session
from qwen_tui.settings import Settings
from qwen_tui.tui.screens.dialogs import Confirm
from qwen_tui.tui.studio.text_file import TextFile

Studio = Callable[..., Any]
BEGINNING = "In olden times"


async def unwritten(bench: Any, folder: Path) -> Path:
    file = folder / "story.txt"
    file.write_text(BEGINNING)
    await bench.ready()
    bench.workspace.text_file = TextFile(file, BEGINNING)
    await bench.type("!!")
    return file


async def test_leaving_asks_about_the_file_and_writes_it(studio: Studio, tmp_path: Path) -> None:
    async with studio(text=BEGINNING) as bench:
        file = await unwritten(bench, tmp_path)
        await bench.pilot.press("ctrl+q")
        await bench.until(lambda: isinstance(bench.app.screen, Confirm))
        assert "2 characters behind" in bench.screen()
        await bench.pilot.press("right", "enter")
        await bench.until(lambda: bench.app._exit)
        assert file.read_text() == BEGINNING + "!!"


async def test_staying_stays_and_the_file_is_as_it_was(studio: Studio, tmp_path: Path) -> None:
    async with studio(text=BEGINNING) as bench:
        file = await unwritten(bench, tmp_path)
        await bench.pilot.press("ctrl+q")
        await bench.until(lambda: isinstance(bench.app.screen, Confirm))
        await bench.pilot.press("escape")
        await bench.until(lambda: not isinstance(bench.app.screen, Confirm))
        assert not bench.app._exit
        assert file.read_text() == BEGINNING


async def test_the_key_pressed_again_leaves(studio: Studio, tmp_path: Path) -> None:
    async with studio(text=BEGINNING) as bench:
        file = await unwritten(bench, tmp_path)
        await bench.pilot.press("ctrl+q")
        await bench.until(lambda: isinstance(bench.app.screen, Confirm))
        await bench.pilot.press("ctrl+q")
        await bench.until(lambda: bench.app._exit)
        assert file.read_text() == BEGINNING


async def test_who_wants_no_question_is_not_asked(studio: Studio, tmp_path: Path) -> None:
    settings = replace(Settings(), ask_unwritten=False)
    async with studio(text=BEGINNING, settings=settings) as bench:
        await unwritten(bench, tmp_path)
        await bench.pilot.press("ctrl+q")
        await bench.until(lambda: bench.app._exit)


def left(file: Path, text: str) -> Path:
    """The session of a file that held `BEGINNING` when `text` was left in it."""
    session = Session.new(title=file.name)
    opened = OpenSession(session, new_store(session))
    file.write_text(BEGINNING)
    session.commit(BEGINNING, "file")
    TextFile(file, BEGINNING).remember(session)
    session.commit(text)
    assert opened.close()
    assert opened.path is not None
    return opened.path


def test_a_file_opened_again_goes_on_with_its_session(tmp_path: Path) -> None:
    file = tmp_path / "story.txt"
    path = left(file, BEGINNING + " there was")
    opened, newer = _session_of_file(Settings(), StudioInput(file), file.read_text())
    assert opened is not None
    assert newer is None
    assert (opened.path, opened.session.text) == (path, BEGINNING + " there was")
    opened.close()
    assert _session_of_file(Settings(save=False), StudioInput(file), "") == (None, None)


def test_a_file_that_changed_meanwhile_is_begun_from_and_its_session_offered(
    tmp_path: Path,
) -> None:
    file = tmp_path / "story.txt"
    path = left(file, BEGINNING + " there was")
    file.write_text("Another beginning")
    given = StudioInput(file)
    assert _session_of_file(Settings(), given, "Another beginning") == (None, path)
    file.write_text(BEGINNING + " there was")
    assert _session_of_file(Settings(), given, file.read_text()) == (None, None)


async def test_what_a_file_lacks_is_still_said_when_the_model_is_open(
    studio: Studio, tmp_path: Path
) -> None:
    path = left(tmp_path / "story.txt", BEGINNING + " there was")
    async with studio(opened=open_session(path), save=True) as bench:
        await bench.ready()
        assert "story.txt is 10 characters behind it" in bench.screen()
        await bench.pilot.press("escape")
        assert "is 10 characters behind it" not in bench.screen()
        assert "file: 10 characters behind" in bench.screen()


async def test_the_session_that_is_offered_is_opened(studio: Studio, tmp_path: Path) -> None:
    file = tmp_path / "story.txt"
    path = left(file, BEGINNING + " there was")
    file.write_text("Another beginning")
    given: dict[str, Any] = {"text": "Another beginning", "file": file, "newer": path}
    async with studio(save=True, **given) as bench:
        await bench.until(lambda: "changed on the disk" in bench.screen())
        await bench.pilot.press("right", "enter")
        await bench.until(lambda: bench.document == BEGINNING + " there was")
        assert bench.workspace.text_file.changed
    async with studio(save=True, **given) as bench:
        await bench.until(lambda: "changed on the disk" in bench.screen())
        await bench.pilot.press("escape")
        assert bench.document == "Another beginning"
