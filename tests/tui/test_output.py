"""The output pane: what a person sees while tokens come, and how they walk through them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from qwen_tui.paths import themes_dir
from qwen_tui.tui.text.wording import END_MARKS
from qwen_tui.tui.theme import themes
from qwen_tui.tui.theme.heat import Heat
from qwen_tui.tui.widgets.output import OutputPane
from qwen_tui.types import Token

APP_THEME = themes.load([themes_dir()]).themes["ember"]


class OnePane(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.selected: list[int | None] = []
        self.activated: list[int] = []

    def compose(self) -> ComposeResult:
        yield OutputPane(hint="Ctrl+J lets the model go on\nEsc stops it", special={99})

    def on_output_pane_token_selected(self, message: OutputPane.TokenSelected) -> None:
        self.selected.append(message.index)

    def on_output_pane_token_activated(self, message: OutputPane.TokenActivated) -> None:
        self.activated.append(message.index)


@asynccontextmanager
async def pane(width: int = 40, height: int = 8) -> AsyncIterator[tuple[OutputPane, Pilot[None]]]:
    app = OnePane()
    async with app.run_test(size=(width, height)) as pilot:
        shown = app.query_one(OutputPane)
        shown.heat = Heat.of(APP_THEME)
        shown.focus()
        await pilot.pause()
        yield shown, pilot


def tokens(*parts: str | bytes, p: float | None = None) -> list[Token]:
    logprob = None if p is None else math.log(p)
    data = (part.encode() if isinstance(part, str) else part for part in parts)
    return [Token(7, each, logprob) for each in data]


def words(count: int) -> list[Token]:
    return tokens(*(f" w{i}" for i in range(count)))


def segments(shown: OutputPane, y: int) -> list[Segment]:
    return list(shown.render_line(y))


def picture(shown: OutputPane) -> list[str]:
    rows = ("".join(part.text for part in segments(shown, y)) for y in range(shown.size.height))
    return [row.rstrip() for row in rows]


def style_of(shown: OutputPane, text: str) -> Style:
    for y in range(shown.size.height):
        for part in segments(shown, y):
            if text in part.text and part.style is not None:
                return part.style
    raise AssertionError(f"{text!r} is not in {picture(shown)}")


def under_cursor(shown: OutputPane, text: str) -> bool:
    return style_of(shown, text).bgcolor == shown.heat.palette.cursor.bgcolor


def app_of(pilot: Pilot[None]) -> OnePane:
    assert isinstance(pilot.app, OnePane)
    return pilot.app


async def test_an_empty_pane_invites() -> None:
    async with pane() as (shown, pilot):
        assert picture(shown)[:2] == ["Ctrl+J lets the model go on", "Esc stops it"]
        shown.extend(tokens("Hello"))
        await pilot.pause()
        assert picture(shown)[0] == "Hello"
        shown.clear()
        assert picture(shown)[0].startswith("Ctrl+J")
        await pilot.resize_terminal(20, 8)
        assert picture(shown)[:3] == ["Ctrl+J lets the", "model go on", "Esc stops it"]


async def test_tokens_come_and_the_view_follows_until_one_scrolls_up() -> None:
    async with pane() as (shown, pilot):
        for token in tokens(*(f"line {i}\n" for i in range(50)), "end"):
            shown.extend([token])
        await pilot.pause()
        assert picture(shown)[-1] == "end"
        shown.scroll_to(y=10, animate=False)
        await pilot.pause()
        assert not shown.follow
        shown.extend(tokens("\nmore\n" * 5))
        await pilot.pause()
        assert picture(shown)[0] == "line 10"
        shown.scroll_end(animate=False)
        await pilot.pause()
        shown.extend(tokens("\nlast"))
        await pilot.pause()
        assert picture(shown)[-1] == "last"


async def test_words_wrap_and_wrap_again_on_resize() -> None:
    async with pane(width=20) as (shown, pilot):
        shown.show(tokens("one two three ", "four five six ", "日本語の文章が続く"))
        await pilot.pause()
        assert picture(shown)[:2] == ["one two three", "four five six 日"]
        await pilot.resize_terminal(13, 8)
        await pilot.pause()
        assert picture(shown)[:4] == ["one two", "three four", "five six", "日本語の文"]


async def test_resize_keeps_what_one_reads_in_view() -> None:
    async with pane(width=40) as (shown, pilot):
        shown.show(tokens(*(f"word{i} " * 6 for i in range(100))))
        await pilot.pause()
        shown.scroll_to(y=40, animate=False)
        await pilot.pause()
        first = picture(shown)[0].split()[0]
        await pilot.resize_terminal(25, 8)
        await pilot.pause()
        assert first in " ".join(picture(shown))


async def test_probability_is_the_background_and_can_be_switched_off() -> None:
    async with pane() as (shown, pilot):
        shown.show([*tokens("sure", p=0.99), *tokens(" rare", p=0.001), *tokens(" who")])
        await pilot.pause()
        heat = shown.heat
        assert style_of(shown, "sure").bgcolor == heat.levels[0].bgcolor
        assert style_of(shown, "rare").bgcolor == heat.levels[7].bgcolor
        assert style_of(shown, "who").bgcolor not in {level.bgcolor for level in heat.levels[1:]}
        shown.show_heat = False
        assert style_of(shown, "rare").bgcolor != heat.levels[7].bgcolor


async def test_scores_that_come_later_colour_what_is_there() -> None:
    async with pane() as (shown, pilot):
        shown.show(tokens("some", " text"))
        await pilot.pause()
        shown.show(tokens("some", " text", p=0.001))
        assert style_of(shown, "text").bgcolor == shown.heat.levels[7].bgcolor


async def test_without_colour_surprise_is_still_seen() -> None:
    async with pane() as (shown, pilot):
        shown.heat = Heat.of(APP_THEME, colour=False)
        shown.show([*tokens("sure", p=0.99), *tokens(" rare", p=0.001)])
        await pilot.pause()
        assert not style_of(shown, "sure").bold
        assert style_of(shown, "rare").bold


async def test_the_cursor_walks_token_by_token_and_says_where_it_is() -> None:
    async with pane() as (shown, pilot):
        shown.show(tokens("one", " two", "", " three\n", "four"))
        await pilot.press("left")
        assert shown.cursor == 4
        await pilot.press("left")
        assert shown.cursor == 3
        assert "↵" in picture(shown)[0]  # the line feed is part of the token
        assert under_cursor(shown, "three")
        await pilot.press("left")  # the empty token shows nothing and is stepped over
        assert shown.cursor == 1
        await pilot.press("left", "left", "left")
        assert shown.cursor == 0
        await pilot.press("enter")
        await pilot.pause()
        assert app_of(pilot).selected == [4, 3, 1, 0]
        assert app_of(pilot).activated == [0]
        shown.cursor = None
        await pilot.pause()
        assert app_of(pilot).selected[-1] is None


async def test_up_and_down_keep_to_the_column() -> None:
    async with pane(width=30) as (shown, pilot):
        shown.show(tokens("aaa ", "bbb ", "ccc\n", "\n", "x\n", "dddd ", "eeee ", "ffff"))
        shown.cursor = 2
        shown._go(2)
        await pilot.press("down", "down", "down")
        assert shown.cursor == 6
        await pilot.press("up")
        assert shown.cursor == 4
        await pilot.press("up", "up")
        assert shown.cursor == 2
        await pilot.press("home")
        assert shown.cursor == 0
        await pilot.press("end")
        assert shown.cursor == 2
        await pilot.press("ctrl+end")
        assert shown.cursor == 7
        await pilot.press("ctrl+home")
        assert shown.cursor == 0


async def test_walking_scrolls_the_token_into_view() -> None:
    async with pane() as (shown, pilot):
        shown.show(words(400))
        await pilot.press("ctrl+home")
        await pilot.pause()
        assert "w0" in picture(shown)[0]
        await pilot.press("pagedown", "pagedown")
        await pilot.pause()
        assert shown.cursor is not None
        assert any(f"w{shown.cursor}" in row for row in picture(shown))
        shown.reveal(399)
        await pilot.pause()
        assert "w399" in picture(shown)[-1]


async def test_a_character_of_many_tokens_is_walked_and_marked_whole() -> None:
    async with pane() as (shown, pilot):
        shown.show(tokens("a", *(bytes([byte]) for byte in "日".encode()), "b"))
        for index in (1, 2, 3):
            shown.cursor = index
            await pilot.pause()
            assert under_cursor(shown, "日")
        assert not under_cursor(shown, "b")


async def test_bytes_that_are_no_character_yet_wear_a_badge() -> None:
    async with pane() as (shown, pilot):
        shown.extend(tokens("ab", "日".encode()[:2]))
        await pilot.pause()
        assert picture(shown)[0] == "ab‹E6 97 …›"
        shown.cursor = 1
        await pilot.pause()
        assert under_cursor(shown, "E6")
        shown.extend(tokens("日".encode()[2:]))
        await pilot.pause()
        assert picture(shown)[0] == "ab日"


async def test_the_end_says_why() -> None:
    async with pane() as (shown, pilot):
        shown.extend(tokens("done"))
        for reason, mark in END_MARKS.items():
            shown.finish(reason)
            await pilot.pause()
            assert picture(shown)[0] == f"done {mark}"
        shown.extend(tokens(" or not"))
        await pilot.pause()
        assert picture(shown)[0] == "done or not"


async def test_an_end_mark_that_does_not_fit_has_a_row_of_its_own() -> None:
    async with pane(width=20) as (shown, pilot):
        shown.extend(tokens("x" * 16))
        shown.finish("cancelled")
        await pilot.pause()
        assert picture(shown)[:2] == ["x" * 16, " ⏹ stopped"]


async def test_text_before_the_completion_is_quiet_and_only_its_end_is_shown() -> None:
    async with pane() as (shown, pilot):
        shown.show(tokens(" fox"), context="x" * 9000 + " the quick brown")
        await pilot.pause()
        assert "the quick brown fox" in " ".join(picture(shown))
        assert shown._token_layout.height < 150
        assert style_of(shown, "quick").color == shown.heat.palette.context.color
        await pilot.press("ctrl+home")
        assert shown.cursor == 0


async def test_hostile_text_is_shown_and_never_passed_on() -> None:
    async with pane(width=60) as (shown, pilot):
        shown.show(tokens("\x1b]0;title\x07", "\u202eevil", "\x9b31m", "[@click=app.quit]x[/]"))
        await pilot.pause()
        assert picture(shown)[0] == "␛]0;title␇<U+202E>evil<U+009B>31m[@click=app.quit]x[/]"
        assert style_of(shown, "␛").bold


async def test_special_tokens_stand_out() -> None:
    async with pane() as (shown, pilot):
        shown.show([*tokens("end"), Token(99, b"<|endoftext|>")])
        await pilot.pause()
        assert style_of(shown, "<|endoftext|>").color == shown.heat.palette.special.color


async def test_a_click_marks_the_token_and_a_double_click_opens_it() -> None:
    async with pane() as (shown, pilot):
        shown.show(tokens("one", " two", " three\n", "four"))
        await pilot.pause()
        await pilot.click(shown, offset=(6, 0))
        assert shown.cursor == 1
        await pilot.click(shown, offset=(30, 0))
        assert shown.cursor == 2
        await pilot.double_click(shown, offset=(2, 1))
        assert app_of(pilot).activated == [3]


async def test_text_selected_with_the_mouse_is_copied_exactly_but_for_controls() -> None:
    async with pane(width=14) as (shown, pilot):
        shown.show(tokens("one two three", " four\x1b[31m\tfive\n", "six"))
        await pilot.pause()
        await pilot.mouse_down(shown, offset=(5, 0))
        await pilot.hover(shown, offset=(2, 2))
        await pilot.mouse_up(shown, offset=(2, 2))
        await pilot.pause()
        copied = pilot.app.screen.get_selected_text()
        assert copied is not None
        assert copied.startswith("two three four[31m\tf"[: len(copied)])
        assert "\x1b" not in copied
        assert shown.stripped == ("four[" in copied)
        assert pilot.app.screen.selections


async def test_selecting_all_gives_every_character_back() -> None:
    text = "a\tb\n\ndé 日本 " + "w" * 100 + "\n"
    async with pane() as (shown, pilot):
        shown.show(tokens(text))
        await pilot.pause()
        shown.text_select_all()
        assert pilot.app.screen.get_selected_text() == text.removesuffix("\n") or text


async def test_showing_what_is_shown_with_more_keeps_the_layout_and_the_cursor() -> None:
    async with pane() as (shown, pilot):
        first = words(10)
        shown.show(first)
        shown.cursor = 4
        shown.show([*first, *tokens(" more")])
        await pilot.pause()
        assert shown.cursor == 4
        assert picture(shown)[0].endswith("w8 w9") or "more" in " ".join(picture(shown))
        shown.show(tokens("else"))
        assert shown.cursor == 0


async def test_no_size_is_too_small() -> None:
    async with pane() as (shown, pilot):
        shown.show(tokens("日本語 word \u202e👩‍👩‍👧", "\t\n", b"\xe6"))
        shown.finish("length")
        for width, height in ((1, 1), (2, 1), (3, 2), (1, 40)):
            await pilot.resize_terminal(width, height)
            await pilot.press("right", "right", "down")
            shown.extend(tokens("more 日本"))
            await pilot.pause()
            for y in range(height):
                assert shown.render_line(y).cell_length <= width
        await pilot.resize_terminal(40, 8)
        await pilot.press("ctrl+home")
        await pilot.pause()
        assert "日本語 word" in picture(shown)[0]
