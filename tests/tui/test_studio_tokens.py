"""What a person does with the tokens of a completion: accept up to one, find one, count lines."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fixtures.scripts import Emit, Say
from qwen_tui.tui.studio import text_file
from qwen_tui.tui.text.editor_document import ROW_MOST
from qwen_tui.types import Choice, Token, Trouble
from qwen_tui.vocab import Vocab

Studio = Callable[..., Any]
BEGINNING = "Once upon a time"


async def completed(bench: Any) -> None:
    await bench.ready()
    await bench.pilot.press("ctrl+j")
    await bench.until(lambda: bench.output, "it wrote")
    await bench.settled()


async def test_tab_in_the_inspector_accepts_up_to_the_token_and_keeps_the_rest(
    studio: Studio,
) -> None:
    async with studio(
        lambda _request, _branch: (Say(" there was a king"),), text=BEGINNING
    ) as bench:
        await completed(bench)
        whole = bench.output
        await bench.pilot.press("ctrl+t", "right")
        at = bench.pane.cursor
        taken = b"".join(token.data for token in bench.pane.tokens[: at + 1]).decode()
        await bench.pilot.press("tab")
        await bench.pilot.pause()
        assert bench.document == BEGINNING + taken
        assert bench.output == whole[len(taken) :]
        assert bench.editor.has_focus


async def test_home_and_end_walk_to_the_ends_of_the_completion(studio: Studio) -> None:
    async with studio(
        lambda _request, _branch: (Say(" there was a king"),), text=BEGINNING
    ) as bench:
        await completed(bench)
        await bench.pilot.press("ctrl+t", "end")
        await bench.pilot.pause()
        assert bench.pane.cursor == len(bench.pane.tokens) - 1
        await bench.pilot.press("home")
        await bench.pilot.pause()
        assert bench.pane.cursor == 0


async def test_ctrl_f_finds_in_the_document_and_goes_on_in_the_completion(studio: Studio) -> None:
    async with studio((Say(" there was a king and a queen"),), text="A king and a") as bench:
        await completed(bench)
        await bench.pilot.press("ctrl+f", *"king")
        await bench.until(lambda: "1 of 2" in bench.screen(), "both are counted")
        assert bench.editor.selected == (2, 6)
        await bench.pilot.press("enter")
        await bench.until(lambda: "2 of 2" in bench.screen(), "the next is in the completion")
        first, last = bench.pane._current
        shown = b"".join(t.data for t in bench.pane.tokens[first : last + 1]).decode()
        assert "king" in shown
        await bench.pilot.press("enter")
        await bench.until(lambda: "1 of 2" in bench.screen(), "around the end")
        await bench.pilot.press("enter", "escape")
        await bench.pilot.pause()
        assert bench.pane.has_focus
        assert bench.pane._found == []


async def test_a_line_longer_than_a_row_is_one_line_on_the_lower_edge(studio: Studio) -> None:
    long = "word " * ROW_MOST
    async with studio(text=f"{long}\nnext") as bench:
        await bench.pilot.press("ctrl+end")
        await bench.until(lambda: "2:5" in bench.screen(), "line 2, column 5")
        bench.editor.caret = len(long)
        await bench.until(lambda: f"1:{len(long) + 1}" in bench.screen(), "one long line")


def test_an_editor_that_comes_back_at_once_keeps_the_file_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tmp_path / "code"
    editor.write_text("#!/bin/sh\nexit 0\n")
    editor.chmod(0o755)
    with pytest.raises(Trouble, match="came back at once") as caught:
        text_file.edit_outside("Once\n", os.environ | {"VISUAL": str(editor)})
    assert "--wait" in caught.value.hint
    kept = Path(caught.value.hint.rpartition(" ")[2])
    assert kept.read_text() == "Once\n"
    kept.unlink()
    kept.parent.rmdir()


def marked(bench: Any) -> str:
    """The token that the inspector tells of."""
    token = bench.studio.panes.alternatives.list.token
    return "" if token is None else token.data.decode()


async def test_a_token_of_the_document_is_inspected_at_the_caret_and_another_one_taken(
    studio: Studio,
) -> None:
    async with studio(
        lambda _request, _branch: (Say(" there was a king"),), text=BEGINNING
    ) as bench:
        await completed(bench)
        await bench.pilot.press("tab")
        await bench.settled()
        whole = bench.document
        bench.editor.caret = whole.index("was")
        await bench.pilot.press("ctrl+t")
        await bench.pilot.pause()
        first = marked(bench)
        assert first.strip() == "was"
        await bench.pilot.press("right", "left", "left", "right")
        assert marked(bench) == first
        await bench.pilot.press("down", "enter")
        await bench.settled()
        assert bench.document.startswith(f"{BEGINNING} there")
        assert first not in bench.document
        assert bench.output.startswith(" there was a king")  # it went on from the other token
        for _ in range(4):
            if bench.document != whole:
                await bench.pilot.press("ctrl+z")
        assert bench.document == whole


async def test_the_inspector_walks_the_document_where_there_is_no_completion(
    studio: Studio,
) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("f2")
        await bench.pilot.pause()
        assert BEGINNING.endswith(marked(bench))
        await bench.pilot.press("home")
        assert BEGINNING.startswith(marked(bench))
        assert bench.editor.caret == 0
        await bench.pilot.press("tab")
        assert bench.document == BEGINNING
        await bench.pilot.press("escape")
        await bench.pilot.pause()
        assert bench.editor.has_focus


async def test_a_letter_changed_early_keeps_colours_and_alternatives_of_what_follows(
    studio: Studio, vocab: Vocab
) -> None:
    def weigh(token: Token) -> Token:
        other = Choice(7, vocab.data(7), -2.5)
        return replace(token, logprob=-0.3, choices=(Choice(token.id, token.data, -0.3), other))

    said = tuple(map(weigh, vocab.encode(" there was a king and a well")))
    async with studio((Emit(said),), text="Once upon a time") as bench:
        await completed(bench)
        await bench.pilot.press("tab")
        await bench.pilot.press("ctrl+home", "delete", "o")
        await bench.pilot.press("ctrl+end", "left", "left")
        await bench.pilot.press("ctrl+t")
        await bench.pilot.pause()
        assert bench.document == "once upon a time there was a king and a well"
        assert marked(bench) == "el"
        assert "before an edit" in bench.screen()
        assert "74%" in bench.screen()
        styles = {style for row in bench.editor.document.marks for _, _, style in row}
        assert styles == {bench.editor.heat.style(-0.3, stale=True)}
        assert styles != {bench.editor.heat.style(-0.3)}
