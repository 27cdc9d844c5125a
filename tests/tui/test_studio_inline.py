"""The inline layout: completions stand in the document, and are the model's until accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.style import Style

from fixtures.scripts import Say
from fixtures.tokenizers import build_tokenizer
from qwen_tui.settings import Settings
from qwen_tui.tui.studio import document_pane, layout
from qwen_tui.tui.studio.text_file import TextFile
from qwen_tui.types import Token, text_of
from qwen_tui.vocab import Vocab

Studio = Callable[..., Any]
BEGINNING = "In olden times"
STORY = " there was a king who had a golden ball and a well"
INLINE = replace(Settings(), layout="inline")


def seen(bench: Any) -> str:
    """All that stands in the editor, the tentative text too."""
    return bench.editor.document.text


def typed(bench: Any) -> list[str]:
    """The text of every node that a person wrote."""
    nodes = bench.session.tree.nodes.values()
    return [text_of(node.tokens) for node in nodes if node.source in ("user", "edit")]


async def completed(bench: Any) -> None:
    await bench.ready()
    await bench.pilot.press("ctrl+j")
    await bench.settled()


async def test_the_completion_streams_into_the_document(studio: Studio) -> None:
    async with studio(gated=True, text=BEGINNING, settings=INLINE) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        bench.gate.allow(1)
        await bench.until(lambda: seen(bench) == BEGINNING + " there", "the first token")
        bench.gate.allow(2)
        await bench.until(lambda: seen(bench) == BEGINNING + " there was a", "three tokens")
        assert BEGINNING + " there was a" in bench.screen()
        assert bench.document == BEGINNING
        assert bench.session.text == BEGINNING
        assert not bench.pane.is_on_screen
        await bench.pilot.press("escape")
        await bench.settled()
        assert seen(bench) == BEGINNING + " there was a"
        assert "stopped" in bench.screen()


async def test_an_empty_document_shows_its_completion_in_place_of_the_invitation(
    studio: Studio,
) -> None:
    async with studio(settings=INLINE) as bench:
        await bench.ready()
        assert "Write the beginning" in bench.screen()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert "there was a king" in bench.screen()
        assert "Write the beginning" not in bench.screen()
        await bench.pilot.press("ctrl+z")
        assert "Write the beginning" in bench.screen()


async def test_it_is_tentative_and_coloured_until_it_is_accepted(studio: Studio) -> None:
    async with studio(text=BEGINNING, settings=INLINE) as bench:
        await completed(bench)

        def styles() -> list[tuple[int, Style]]:
            return [(span.start, span.style) for span in bench.editor.get_line(0).spans]

        tentative = styles()
        assert min(start for start, _ in tentative) == len(BEGINNING)
        assert all(style.italic and style.color for _, style in tentative)
        await bench.pilot.press("alt+c")
        assert all(style.italic and not style.color for _, style in styles())
        await bench.pilot.press("alt+c")
        assert styles() == tentative
        await bench.pilot.press("tab")
        assert bench.document == seen(bench) == BEGINNING + STORY
        assert len(styles()) == len(tentative)
        assert not any(style.italic for _, style in styles())


async def test_a_word_is_accepted_and_the_rest_stays_tentative(studio: Studio) -> None:
    async with studio(text=BEGINNING, settings=INLINE) as bench:
        await completed(bench)
        await bench.pilot.press("ctrl+right", "ctrl+right")
        assert bench.document == BEGINNING + " there was"
        assert seen(bench) == BEGINNING + STORY


async def test_undo_takes_it_away_and_redo_brings_it_back(studio: Studio) -> None:
    async with studio(text=BEGINNING, settings=INLINE) as bench:
        await completed(bench)
        await bench.pilot.press("ctrl+z")
        assert seen(bench) == BEGINNING
        await bench.pilot.press("ctrl+y")
        assert seen(bench) == BEGINNING + STORY
        assert bench.document == BEGINNING


async def test_again_and_siblings_replace_what_stands_there(studio: Studio) -> None:
    def script(_request: object, branch: int) -> tuple[Say, ...]:
        return (Say(f" road number {branch}"),)

    async with studio(script, text=BEGINNING, settings=INLINE) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+g")
        await bench.settled()
        assert seen(bench) == BEGINNING + " road number 0"
        await bench.pilot.press("alt+down")
        assert seen(bench) == BEGINNING + " road number 1"
        assert "2 of 4" in bench.screen()
        await bench.pilot.press("alt+up", "ctrl+r")
        await bench.settled()
        assert "5 of 5" in bench.screen()
        assert bench.document == BEGINNING


async def test_writing_on_behind_it_accepts_it_with_its_probabilities(studio: Studio) -> None:
    async with studio(text=BEGINNING, settings=INLINE) as bench:
        await completed(bench)
        await bench.type("!")
        assert bench.document == BEGINNING + STORY + "!"
        assert bench.session.text == BEGINNING + STORY
        last = bench.session.parts()[-1]
        assert last.node.source == "model"
        assert text_of(last.tokens) == STORY
        assert all(token.logprob is not None for token in last.tokens)
        assert not any("king" in text for text in typed(bench))
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert bench.session.text == BEGINNING + STORY + "!"
        assert seen(bench) == BEGINNING + STORY + "!" + STORY


async def test_undo_takes_back_the_typing_first_and_then_the_accepting(studio: Studio) -> None:
    async with studio(text=BEGINNING, settings=INLINE) as bench:
        await completed(bench)
        await bench.type("!")
        await bench.pilot.press("ctrl+z")
        assert bench.document == seen(bench) == BEGINNING + STORY
        await bench.pilot.press("ctrl+z")
        assert bench.document == BEGINNING
        assert seen(bench) == BEGINNING + STORY


async def test_typing_before_it_leaves_it_as_the_road_it_is(studio: Studio) -> None:
    async with studio(text=BEGINNING, settings=INLINE) as bench:
        await completed(bench)
        bench.editor.caret = len(BEGINNING)
        await bench.type(" long")
        assert seen(bench) == bench.document == BEGINNING + " long"
        assert bench.session.text == BEGINNING
        assert bench.output.startswith(STORY)
        await bench.pilot.press(*["backspace"] * 5)
        await bench.until(lambda: seen(bench) == BEGINNING + STORY, "it is there again")
        await bench.pilot.press("ctrl+home", "x")
        assert seen(bench) == "x" + BEGINNING
        await bench.pilot.press("ctrl+z")
        await bench.until(lambda: seen(bench) == BEGINNING + STORY, "there again")
        await bench.pilot.press("ctrl+y")
        assert seen(bench) == "x" + BEGINNING


async def test_an_edit_inside_it_edits_what_was_accepted(studio: Studio) -> None:
    async with studio(text=BEGINNING, settings=INLINE) as bench:
        await completed(bench)
        start = len(BEGINNING) + STORY.index("king")
        bench.editor.select(start, start + 4)
        await bench.type("queen")
        assert bench.document == BEGINNING + STORY.replace("king", "queen")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert bench.session.text == BEGINNING + STORY.replace("king", "queen")
        model = next(n for n in bench.session.tree.nodes.values() if n.source == "model")
        assert text_of(model.tokens).startswith(STORY)


async def test_typing_while_it_streams_neither_stops_nor_changes_the_stream(
    studio: Studio,
) -> None:
    async with studio(gated=True, text=BEGINNING, settings=INLINE) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        bench.gate.allow(2)
        await bench.until(lambda: seen(bench) == BEGINNING + " there was")
        await bench.type("!")
        assert bench.workspace.completer.running
        await bench.until(lambda: "goes on beside it" in bench.screen(), "that it goes on")
        bench.gate.open()
        await bench.settled()
        assert bench.document == seen(bench) == BEGINNING + " there was!"
        assert "beside it" not in bench.screen()
        assert len(bench.made[0].requests) == 1
        node = next(n for n in bench.session.tree.nodes.values() if n.source == "model")
        assert text_of(node.tokens).startswith(STORY)
        await bench.pilot.press("ctrl+z")
        await bench.until(lambda: seen(bench) == BEGINNING + STORY, "the rest is there")


async def test_the_caret_rides_at_the_end_only_where_it_stood_there(studio: Studio) -> None:
    async with studio(gated=True, text=BEGINNING, settings=INLINE) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        bench.gate.allow(2)
        await bench.until(lambda: seen(bench) == BEGINNING + " there was")
        assert bench.editor.caret == len(BEGINNING + " there was")
        bench.editor.caret = 3
        bench.gate.open()
        await bench.settled()
        assert bench.editor.caret == 3


async def test_the_inspector_shows_the_tokens_in_the_editors_place(studio: Studio) -> None:
    async with studio(text=BEGINNING, settings=INLINE) as bench:
        await completed(bench)
        await bench.pilot.press("ctrl+t", "right", "right")
        assert bench.pane.is_on_screen
        assert not bench.editor.is_on_screen
        assert bench.studio.panes.alternatives.list.token.data == b" a"
        await bench.pilot.press("escape")
        await bench.pilot.pause()
        assert bench.editor.is_on_screen
        assert seen(bench) == BEGINNING + STORY
        await bench.pilot.press("ctrl+t", "right", "right", "down", "enter")
        await bench.settled()
        assert bench.editor.is_on_screen
        assert bench.document.startswith(BEGINNING + " there was ")
        assert seen(bench) == bench.document + STORY


async def test_the_layout_changes_at_a_key_and_nothing_else_does(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await completed(bench)
        assert seen(bench) == BEGINNING
        await bench.pilot.press("alt+i")
        await bench.pilot.pause()
        assert seen(bench) == BEGINNING + STORY
        assert not bench.pane.is_on_screen
        assert bench.session.text == bench.document == BEGINNING
        await bench.pilot.press("alt+i")
        await bench.pilot.pause()
        assert seen(bench) == BEGINNING
        assert bench.pane.is_on_screen


async def test_a_very_long_text_keeps_its_panes_and_says_so(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_pane, "MOST_INLINE", 30)
    async with studio(text=BEGINNING, settings=INLINE) as bench:
        await completed(bench)
        assert seen(bench) == BEGINNING
        assert bench.output.startswith(STORY)
        assert bench.pane.is_on_screen
        assert "More than 30 characters" in bench.screen()
        await bench.pilot.press("escape", "alt+i")
        assert "More than 30 characters" in bench.screen()
        assert seen(bench) == BEGINNING


async def test_a_chat_has_panes(studio: Studio, tmp_path: Path) -> None:
    chatty = Vocab.load(build_tokenizer(tmp_path, chat=True))
    async with studio(text=BEGINNING, settings=INLINE, vocab_of=lambda _settings: chatty) as bench:
        await completed(bench)
        await bench.pilot.press("f3")
        await bench.pilot.pause()
        assert bench.pane.is_on_screen
        assert seen(bench) == ""
        await bench.pilot.press("f3")
        await bench.pilot.pause()
        assert seen(bench) == BEGINNING + STORY


async def test_characters_of_several_tokens_come_whole(studio: Studio) -> None:
    story = " 東京 👍🏽 ไทย\n\nκόσμος"
    async with studio((Say(story),), text=BEGINNING, settings=INLINE) as bench:
        await completed(bench)
        assert seen(bench) == BEGINNING + story
        await bench.pilot.press("tab")
        assert bench.document == bench.session.text == BEGINNING + story


async def test_a_long_line_keeps_its_colours_to_the_end(studio: Studio) -> None:
    story = STORY * 80
    settings = replace(INLINE, max_tokens=-1)
    async with studio((Say(story),), text=BEGINNING, settings=settings) as bench:
        await completed(bench)
        assert seen(bench) == BEGINNING + story
        editor = bench.editor
        covered = sum(b - a for row in editor.document.marks for a, b, _ in row)
        assert covered == len(story)


@pytest.mark.parametrize("size", [(120, 40), (80, 24), (72, 14), (60, 20), (40, 10), (20, 5)])
@pytest.mark.parametrize("pane", layout.PANES)
def test_the_pane_one_works_in_is_always_shown(size: tuple[int, int], pane: layout.Pane) -> None:
    shown = layout.shown(*size, pane, branches=pane == "branches", inline=True)
    assert pane in shown
    assert not {"document", "completion"} <= shown


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (20, 5)])
async def test_it_works_at_small_sizes(studio: Studio, size: tuple[int, int]) -> None:
    async with studio(text=BEGINNING, settings=INLINE, size=size) as bench:
        await completed(bench)
        assert "well" in bench.screen()
        await bench.pilot.press("ctrl+t")
        await bench.pilot.pause()
        await bench.pilot.press("escape", "tab")
        assert bench.document == BEGINNING + STORY


async def test_a_storm_of_sizes_leaves_the_text_alone(studio: Studio) -> None:
    async with studio(gated=True, text=BEGINNING, settings=INLINE) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        for number, size in enumerate([(1, 1), (2, 1), (200, 60), (3, 40), (40, 3), (1, 1)]):
            await bench.pilot.resize_terminal(*size)
            bench.gate.allow(1)
            await bench.until(lambda n=number: len(bench.pane.tokens) > n)
        bench.gate.open()
        await bench.settled()
        await bench.pilot.resize_terminal(100, 30)
        await bench.pilot.pause()
        assert bench.document == BEGINNING
        assert BEGINNING + STORY[:20] in bench.screen()


async def test_a_file_holds_the_text_without_what_is_tentative(
    studio: Studio, tmp_path: Path
) -> None:
    async with studio(text=BEGINNING, settings=INLINE) as bench:
        await completed(bench)
        file = tmp_path / "story.txt"
        bench.workspace.text_file = TextFile(file)
        await bench.pilot.press("ctrl+s")
        assert file.read_text() == BEGINNING
        await bench.pilot.press("tab", "ctrl+s")
        assert file.read_text() == BEGINNING + STORY


async def test_a_session_left_with_a_completion_is_found_as_it_was(studio: Studio) -> None:
    async with studio(text=BEGINNING, settings=INLINE) as bench:
        await completed(bench)
        left = bench.session
    async with studio(session=left, settings=INLINE) as bench:
        await bench.ready()
        assert seen(bench) == BEGINNING + STORY
        assert bench.document == BEGINNING
        await bench.pilot.press("tab")
        assert bench.document == BEGINNING + STORY


async def test_a_completion_that_shares_a_character_with_the_text_stands_beside_it(
    studio: Studio,
) -> None:
    async with studio((Say("é"),), text=BEGINNING, settings=INLINE) as bench:
        await completed(bench)
        assert seen(bench) == BEGINNING + "é"
        session = bench.session
        half = Token(1, "é".encode()[:1], -0.5)
        rest = Token(2, "é".encode()[1:], -0.5)
        session.add_turn("user", (half, rest))
        session.go(session.head.node, session.head.at - 1)
        bench.studio.do(bench.workspace.text.show)
        await bench.pilot.pause()
        assert bench.document.endswith("\ufffd")
        assert seen(bench) == bench.document
        assert bench.pane.is_on_screen
