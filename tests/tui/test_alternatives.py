"""The token inspector: the heading stays, a list's keys work, Tab accepts up to the token."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from textual.app import App, ComposeResult
from textual.pilot import Pilot

from qwen_tui.tui.messages import TakeChoice
from qwen_tui.tui.widgets.alternatives import Alternatives
from qwen_tui.types import Choice, Token

IDS = [67043 if n == 2 else 100 + n for n in range(20)]
CHOICES = tuple(
    Choice(id, f"word{n}".encode(), math.log(0.3 / (n + 1))) for n, id in enumerate(IDS)
)
TOKEN = Token(67043, b"word2", CHOICES[2].logprob, CHOICES)


class OneInspector(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.accepted: list[int] = []
        self.taken: list[TakeChoice] = []

    def compose(self) -> ComposeResult:
        yield Alternatives()

    def on_alternatives_walk(self, message: Alternatives.Walk) -> None:
        self.steps.append(message.steps)

    def on_alternatives_accept_to(self, message: Alternatives.AcceptTo) -> None:
        self.accepted.append(message.at)

    def on_take_choice(self, message: TakeChoice) -> None:
        self.taken.append(message)


@asynccontextmanager
async def inspecting() -> AsyncIterator[tuple[Alternatives, Pilot[None], OneInspector]]:
    app = OneInspector()
    async with app.run_test(size=(40, 6)) as pilot:
        widget = app.query_one(Alternatives)
        widget.show(TOKEN, 7)
        widget.focus()
        await pilot.pause()
        yield widget, pilot, app


def lines(widget: Alternatives) -> list[str]:
    return [widget.render_line(y).text.rstrip() for y in range(widget.size.height)]


async def test_the_heading_stays_while_one_scrolls_through_the_alternatives() -> None:
    async with inspecting() as (widget, pilot, _):
        heading = lines(widget)[0]
        assert "word2" in heading
        for _ in range(19):
            await pilot.press("down")
        assert lines(widget)[0] == heading
        assert "word19" in lines(widget)[-1]
        assert widget.cursor == 19


async def test_page_keys_walk_the_alternatives_and_the_row_is_always_seen() -> None:
    async with inspecting() as (widget, pilot, _):
        for key, row in [("pagedown", 7), ("pagedown", 12), ("pagedown", 17), ("pageup", 12)]:
            await pilot.press(key)
            assert any(f"word{widget.cursor} " in line + " " for line in lines(widget)[1:]), key
            assert widget.cursor == row
        for _ in range(9):
            await pilot.press("pageup")
        assert widget.cursor == 0
        assert "word0" in lines(widget)[1]


async def test_home_and_end_go_to_the_first_and_the_last_token() -> None:
    async with inspecting() as (_, pilot, app):
        await pilot.press("home", "end", "left", "right")
        assert app.steps[0] == -7
        assert app.steps[1] > 1_000_000
        assert app.steps[2:] == [-1, 1]


async def test_tab_accepts_up_to_the_token_that_is_looked_at() -> None:
    async with inspecting() as (_, pilot, app):
        await pilot.press("tab")
        assert app.accepted == [7]


async def test_a_click_on_a_row_below_the_heading_takes_that_row() -> None:
    async with inspecting() as (widget, pilot, app):
        for _ in range(19):
            await pilot.press("down")
        await pilot.click(widget, offset=(5, 1))
        chosen = widget.cursor
        assert f"word{chosen}" in lines(widget)[1]
        await pilot.click(widget, offset=(5, 0))
        assert widget.cursor == chosen
        assert app.taken == []


async def test_a_tokens_id_is_called_an_id() -> None:
    async with inspecting() as (widget, _, _):
        assert "id 67043" in lines(widget)[0]
        assert "#" not in lines(widget)[0]
