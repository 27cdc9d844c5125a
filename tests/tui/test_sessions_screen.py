"""The list of sessions: searched, renamed, thrown away."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import OptionList

from qwen_tui.session import library
from qwen_tui.session.opening import new_store
from qwen_tui.session.session import Session
from qwen_tui.tui.screens.sessions import Sessions, age


class ListApp(App[None]):
    """An app with the list over it; `answer` is what it said."""

    answer: Path | str | None = "nothing yet"

    def on_mount(self) -> None:
        def answered(path: Path | None) -> None:
            self.answer = path

        self.push_screen(Sessions(), answered)


def make(text: str, title: str = "") -> Path:
    session = Session.new(title=title)
    store = new_store(session)
    session.commit(text)
    assert store.close()
    return store.path


async def listed(pilot: Pilot[None]) -> list[str]:
    await pilot.pause()
    choose = pilot.app.screen.query_one(OptionList)
    return [str(choose.get_option_at_index(n).prompt) for n in range(choose.option_count)]


async def test_sessions_are_listed_and_found_by_their_words() -> None:
    make("The king had a golden ball", "Fairy tale")
    make("def add(a, b): [/bold]")
    app = ListApp()
    async with app.run_test(size=(100, 24)) as pilot:
        assert len(await listed(pilot)) == 2
        await pilot.press(*"golden")
        (line,) = await listed(pilot)
        assert "Fairy tale" in line
        assert "The king" in line
        await pilot.press(*["backspace"] * 6, *"nowhere")
        assert await listed(pilot) == []


async def test_enter_opens_the_chosen_one() -> None:
    path = make("One")
    app = ListApp()
    async with app.run_test() as pilot:
        await listed(pilot)
        await pilot.press("enter")
        await pilot.pause()
        assert app.answer == path


async def test_escape_opens_nothing() -> None:
    make("One")
    app = ListApp()
    async with app.run_test() as pilot:
        await listed(pilot)
        await pilot.press("escape")
        await pilot.pause()
        assert app.answer is None


async def test_a_session_can_be_renamed() -> None:
    path = make("One")
    app = ListApp()
    async with app.run_test() as pilot:
        await listed(pilot)
        await pilot.press("f2")
        await pilot.pause()
        await pilot.press(*"New", "enter")
        assert "New" in (await listed(pilot))[0]
        assert library.listing(path).title == "New"


async def test_throwing_away_asks_and_only_moves() -> None:
    path = make("One")
    app = ListApp()
    async with app.run_test() as pilot:
        await listed(pilot)
        await pilot.press("down", "delete")
        await pilot.pause()
        await pilot.press("enter")
        assert path.exists(), "the safe answer is the first"
        await pilot.press("delete")
        await pilot.pause()
        await pilot.press("tab", "enter")
        assert await listed(pilot) == []
        assert not path.exists()
        assert len(library.trashed()) == 1


@pytest.mark.parametrize(
    ("seconds", "said"), [(3, "now"), (120, "2 min"), (7300, "2 h"), (200_000, "2 d")]
)
def test_ages_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert age(seconds) == said


async def test_what_was_thrown_away_is_restored_from_the_list() -> None:
    path = make("One that is missed")
    library.trash(path)
    app = ListApp()
    async with app.run_test(size=(100, 24)) as pilot:
        assert await listed(pilot) == []
        await pilot.press("f3")
        (line,) = await listed(pilot)
        assert "One that is missed" in line
        await pilot.press("enter")
        assert await listed(pilot) == []
        assert path.exists()
        await pilot.press("f3")
        assert len(await listed(pilot)) == 1
        await pilot.press("enter")
        await pilot.pause()
        assert app.answer == path


async def test_a_name_that_is_taken_is_said_when_restoring() -> None:
    path = make("One")
    library.trash(path)
    path.write_text("another")
    app = ListApp()
    async with app.run_test(size=(100, 24)) as pilot:
        await listed(pilot)
        await pilot.press("f3", "enter")
        await pilot.pause()
        said = "\n".join(strip.text for strip in app.screen._compositor.render_strips())
        assert "there is a session" in said
        assert len(library.trashed()) == 1


async def test_words_far_into_a_text_find_its_session_and_show_where() -> None:
    make("The king had a ball. " * 200 + "At last the zephyr came.", "Fairy tale")
    make("def add(a, b): ...")
    app = ListApp()
    async with app.run_test(size=(120, 24)) as pilot:
        assert len(await listed(pilot)) == 2
        await pilot.press(*"zephyr")
        for _ in range(400):
            lines = await listed(pilot)
            if lines:
                break
            await pilot.pause(0.01)
        (line,) = lines
        assert "Fairy tale" in line
        assert "the zephyr came" in line
