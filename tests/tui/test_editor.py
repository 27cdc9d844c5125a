"""The prompt editor: exact text, whole characters, one step of undo, keys that go on."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from rich.style import Style
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.pilot import Pilot
from textual.widgets import Input, Static

from qwen_tui.paths import themes_dir
from qwen_tui.tui.text.editor_document import Span, heat_spans
from qwen_tui.tui.text.wrapped_rows import WrappedRows
from qwen_tui.tui.theme import themes
from qwen_tui.tui.theme.heat import Heat
from qwen_tui.tui.widgets.editor import Editor
from qwen_tui.tui.widgets.find import FindBar
from qwen_tui.types import Token

HOSTILE = "a\x0bb\x0cc\x1cd\x85e\u2028f\r\ng\rh\x00i\x1b[31m\u202ej\n\nend\r\n"
KEYS = ("ctrl+j", "ctrl+r", "ctrl+g", "ctrl+t", "ctrl+o", "f2", "f5", "ctrl+z", "ctrl+y", "ctrl+c")


class OneEditor(App[None]):
    BINDINGS: ClassVar[list[BindingType]] = [Binding(key, f"note('{key}')") for key in KEYS]

    def __init__(self, text: str = "", **options: object) -> None:
        super().__init__()
        self.text = text
        self.options = options
        self.noted: list[str] = []
        self.sizes: list[int] = []
        self.cut: list[Editor.PasteCut] = []

    def compose(self) -> ComposeResult:
        yield Editor(self.text, **self.options)  # type: ignore[arg-type]
        yield FindBar()

    def action_note(self, key: str) -> None:
        self.noted.append(key)

    def on_editor_edited(self, message: Editor.Edited) -> None:
        self.sizes.append(message.size)

    def on_editor_paste_cut(self, message: Editor.PasteCut) -> None:
        self.cut.append(message)

    def on_editor_find_asked(self, message: Editor.FindAsked) -> None:
        editor = message.editor
        self.query_one(FindBar).open(editor, needle=editor.selected_text)


@asynccontextmanager
async def editing(
    text: str = "", width: int = 40, height: int = 10, **options: object
) -> AsyncIterator[tuple[Editor, Pilot[None], OneEditor]]:
    app = OneEditor(text, **options)
    async with app.run_test(size=(width, height)) as pilot:
        editor = app.query_one(Editor)
        editor.heat = Heat.of(themes.load([themes_dir()]).themes["ember"])
        editor.focus()
        await pilot.pause()
        yield editor, pilot, app


def picture(editor: Editor) -> list[str]:
    rows = (editor.render_line(y) for y in range(editor.size.height))
    return ["".join(part.text for part in row).rstrip() for row in rows]


async def test_what_was_loaded_and_typed_is_what_comes_back() -> None:
    async with editing(HOSTILE) as (editor, pilot, _):
        assert editor.text == HOSTILE
        assert picture(editor)[:2] == ["a␋b␌c␜d▯e▯f␍", "g␍h␀i␛[31m▯j"]
        await pilot.press("ctrl+end", "x", "enter", "y")
        assert editor.text == HOSTILE + "x\ny"
        await pilot.press("ctrl+z", "ctrl+z", "ctrl+z")
        assert editor.text == HOSTILE


async def test_a_selection_copies_the_text_itself() -> None:
    async with editing(HOSTILE) as (editor, pilot, app):
        editor.select(0, len(HOSTILE))
        assert editor.selected_text == HOSTILE
        await pilot.press("ctrl+c")
        assert app.clipboard == HOSTILE
        assert app.noted == []


async def test_a_paste_is_one_step_of_undo_and_exact() -> None:
    pasted = "".join(f"line {i} of a long paste é\r\n" for i in range(5_000)) + "\u2028"
    async with editing("start ") as (editor, pilot, _):
        await pilot.press("ctrl+end", "a")
        editor.post_message(events.Paste(pasted))
        await pilot.pause()
        await pilot.press("z")
        assert editor.text == "start a" + pasted + "z"
        await pilot.press("ctrl+z", "ctrl+z")
        assert editor.text == "start a"
        await pilot.press("ctrl+y")
        assert editor.text == "start a" + pasted


async def test_a_line_of_a_megabyte_is_bounded_and_whole() -> None:
    line = "x" * 1_000_000
    async with editing() as (editor, pilot, _):
        editor.post_message(events.Paste(line))
        await pilot.pause()
        assert editor.text == line
        assert max(map(len, editor.document.lines)) < 5000
        await pilot.press("ctrl+home", "y", "end", "delete", "down", "end", "right", "left")
        assert len(editor.text) == len(line)
        editor.caret = 0
        editor.history.clear()
        for _ in range(2100):  # over the seams of the line, one character a step
            editor.action_cursor_right()
        assert editor.caret == 2100
        for _ in range(2100):
            editor.action_cursor_left()
        assert editor.caret == 0


async def test_a_paste_that_is_too_much_is_cut_with_an_offer() -> None:
    async with editing(paste_most=10) as (editor, pilot, app):
        editor.post_message(events.Paste("0123456789abcdef"))
        await pilot.pause()
        assert editor.text == "0123456789"
        assert [(offer.kept, offer.rest) for offer in app.cut] == [(10, "abcdef")]
        editor.paste_more(app.cut[0].rest)
        assert editor.text == "0123456789abcdef"


CLUSTERS = ("e\u0301", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "क्षि", "❤\ufe0f", "日", "각")


async def test_the_cursor_never_stands_inside_a_character() -> None:
    async with editing() as (editor, _, _app):
        for cluster in CLUSTERS:
            editor.load_text(f"a{cluster}b")
            stops = [editor.caret]
            for _ in range(3):
                editor.action_cursor_right()
                stops.append(editor.caret)
            assert stops == [0, 1, 1 + len(cluster), 2 + len(cluster)], cluster
            editor.action_cursor_left()
            editor.action_cursor_left()
            assert editor.caret == 1
            for inside in range(1, 1 + len(cluster)):
                editor.caret = inside
                assert editor.caret == 1
            editor.caret = 1 + len(cluster)
            editor.action_delete_left()
            assert editor.text == "ab"
            editor.undo()
            editor.caret = 1
            editor.action_delete_right()
            assert editor.text == "ab"


async def test_up_and_down_through_wide_text_land_between_characters() -> None:
    async with editing("日本語日本語\nabcdefghijk\n👩\u200d👧x") as (editor, pilot, _):
        editor.caret = 3
        await pilot.press("down")
        assert editor.selection.end == (1, 6)
        await pilot.press("down")
        assert editor.selection.end == (2, 4)
        await pilot.press("up", "up")
        assert editor.selection.end == (0, 3)


async def test_enter_always_writes_a_line_feed() -> None:
    async with editing() as (editor, pilot, _):
        await pilot.press("a", "enter", "shift+enter", "b")
        assert editor.text == "a\n\nb"


async def test_tab_moves_the_focus_or_indents() -> None:
    async with editing() as (editor, pilot, _):
        await pilot.press("tab")
        assert editor.text == ""
    async with editing(tab_behavior="indent") as (editor, pilot, _):
        await pilot.press("tab")
        assert editor.text == "    "


async def test_keys_of_the_screen_reach_it() -> None:
    async with editing("text") as (_, pilot, app):
        await pilot.press(*KEYS)
        assert app.noted == list(KEYS)


async def test_undo_takes_typing_back_word_by_word() -> None:
    async with editing() as (editor, pilot, _):
        await pilot.press(*"one  two three")
        seen = []
        for _ in range(3):
            await pilot.press("ctrl+z")
            seen.append(editor.text)
        assert seen == ["one  two", "one", ""]
        await pilot.press("ctrl+y", "ctrl+y", "ctrl+y")
        assert editor.text == "one  two three"


async def test_undo_is_the_editors_until_there_is_nothing_left() -> None:
    async with editing() as (editor, pilot, app):
        await pilot.press("a")
        assert editor.can_undo
        await pilot.press("ctrl+z", "ctrl+z")
        assert (editor.text, app.noted) == ("", ["ctrl+z"])
        await pilot.press("ctrl+y", "ctrl+y")
        assert (editor.text, app.noted) == ("a", ["ctrl+z", "ctrl+y"])


async def test_text_that_grew_is_appended_and_the_cursor_stays() -> None:
    async with editing("one two") as (editor, pilot, _):
        editor.caret = 3
        editor.paint([Span(0, 3, editor.heat.levels[5])])
        editor.set_text("one two three")
        assert (editor.text, editor.caret) == ("one two three", 3)
        assert editor.document.marks[0]
        assert not editor.can_undo
        editor.set_text("one two or not")  # another road from the same beginning
        assert (editor.text, editor.caret) == ("one two or not", 3)
        assert editor.document.marks[0]
        editor.caret = 14
        editor.set_text("one\nmore")  # at the end it stays at the end
        assert editor.caret == len("one\nmore")
        editor.set_text("else", keep_cursor=False)
        await pilot.pause()
        assert editor.caret == 4
        assert picture(editor)[0] == "else"


async def test_any_text_after_any_other_is_exact() -> None:
    texts = [
        "",
        "a",
        HOSTILE,
        HOSTILE + "x",
        "x" * 5000,
        "x" * 4097 + "y",
        "日" * 3000,
        "日" * 9,
        "",
    ]
    async with editing() as (editor, pilot, _):
        for text in texts:
            editor.set_text(text)
            assert editor.text == text
            await pilot.pause()
            assert editor.wrapped_document.height == editor.virtual_size.height
            await pilot.press("end", "up")


async def test_typing_is_told_once_with_its_size() -> None:
    async with editing() as (editor, pilot, app):
        await pilot.press("a", "b", "c")
        while editor._edited_timer is not None:
            await pilot.pause(0.01)
        await pilot.pause()
        assert app.sizes[-1] == 3
        assert len(app.sizes) < 3 or app.sizes == sorted(set(app.sizes))


async def test_tokens_colour_their_text_also_after_typing_before_it() -> None:
    cut = "日".encode()
    run = [
        Token(1, b"sure", math.log(0.99)),
        Token(2, b" " + cut[:1], math.log(0.5)),
        Token(3, cut[1:], math.log(0.001)),
        Token(4, b" who"),
    ]
    async with editing("x sure 日 who") as (editor, pilot, _):
        heat = editor.heat
        editor.paint(heat_spans(run, heat, start=2))
        await pilot.press("ctrl+home", "y")
        line = editor.get_line(0)
        spans = {line.plain[s.start : s.end]: s.style for s in line.spans}
        assert spans == {"sure": heat.levels[0], " ": heat.levels[2], "日": heat.levels[7]}


async def test_finding_goes_round_and_shows_how_many() -> None:
    async with editing("Fox and fox\nand FOX again", height=12) as (editor, pilot, app):
        await pilot.press("ctrl+f")
        await pilot.press("f", "o", "x")
        await pilot.pause()
        bar = app.query_one(FindBar)
        assert bar.display
        assert str(bar.query_one(Static).content) == "1 of 3"
        assert editor.selected == (0, 3)
        await pilot.press("enter")
        assert editor.selected == (8, 11)
        await pilot.press("enter", "enter")
        assert editor.selected == (0, 3)
        await pilot.press("up")
        assert editor.selected == (16, 19)
        assert editor.get_line(0).spans
        await pilot.press("q")
        assert str(bar.query_one(Static).content) == "nothing found"
        await pilot.press("escape")
        assert not bar.display
        assert editor.has_focus
        assert not editor.get_line(0).spans
        assert editor.text == "Fox and fox\nand FOX again"


async def test_what_is_selected_is_what_one_looks_for() -> None:
    async with editing("one two one", height=12) as (editor, pilot, app):
        editor.select(4, 7)
        await pilot.press("ctrl+f")
        await pilot.pause()
        assert app.query_one(Input).value == "two"


async def test_no_size_is_too_small() -> None:
    text = HOSTILE + "日本語 👩\u200d👧 " * 5
    async with editing(text) as (editor, pilot, _):
        for size in ((1, 1), (2, 1), (3, 3), (1, 30)):
            await pilot.resize_terminal(*size)
            await pilot.press("down", "end", "ctrl+end", "a", "up", "pageup")
        await pilot.resize_terminal(40, 10)
        assert editor.text == text + "aaaa"


async def test_a_tail_is_never_part_of_the_text_whatever_is_done_around_it() -> None:
    async with editing("one\ntwo", width=24) as (editor, _pilot, _app):
        chance = random.Random(7)
        pieces = ("a", "\n", "word " * 500, "日本 ", "x\ny\n", "e\u0301")
        text = editor.text
        tail = ""

        def take() -> None:
            editor.set_text(editor.document.text)

        editor.take_tail = take
        for _ in range(300):
            piece = chance.choice(pieces)
            match chance.randrange(6):
                case 0:
                    tail = piece
                    editor.show_tail(tail, [Span(len(text), len(text + tail), Style(bold=True))])
                case 1 if editor.has_tail:
                    tail += piece
                    editor.extend_tail(piece, [])
                case 2:
                    tail = ""
                    editor.drop_tail()
                case 3:
                    editor.caret = chance.randrange(len(text + tail) + 1)
                    low = editor.caret
                    whole = text if low <= len(text) else text + tail
                    editor.paste_more(piece)
                    text, tail = whole[:low] + piece + whole[low:], ""
                case 4:
                    text, tail = text[-200:], ""
                    editor.set_text(text)
                case _:
                    editor.to_the_end()
            assert editor.text == text
            assert editor.document.text == text + tail
            assert editor.size_in_characters == len(text)
            rows = editor.wrapped_document
            fresh = WrappedRows(editor.document.shown, editor.wrap_width)
            assert rows._offset_to_line_info == fresh._offset_to_line_info
