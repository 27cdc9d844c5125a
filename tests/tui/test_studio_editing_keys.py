"""Keys that accept and walk the tree are a person's own editing keys while one is writing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fixtures.scripts import Say
from qwen_tui.settings import Settings

BEGINNING = "In olden times"
STORY = " there was a king who had a golden ball and a well"
INLINE = replace(Settings(), layout="inline")
CODE = "def f(x):\n  if x:\n    return 1\ndef g():\n  if 1:\n    y\n"
Studio = Callable[..., Any]


async def completed(bench: Any) -> None:
    await bench.ready()
    await bench.pilot.press("ctrl+j")
    await bench.settled()


@pytest.mark.parametrize("settings", [Settings(), INLINE])
async def test_ctrl_right_within_the_text_moves_by_a_word(studio: Studio, settings: Any) -> None:
    async with studio(text=BEGINNING, settings=settings) as bench:
        await completed(bench)
        bench.editor.caret = 0
        await bench.pilot.press("ctrl+right")
        assert (bench.document, bench.editor.caret) == (BEGINNING, 2)
        bench.editor.caret = len(BEGINNING)
        await bench.pilot.press("ctrl+right")
        assert bench.document == BEGINNING + " there"
        assert bench.editor.caret == len(bench.document)


@pytest.mark.parametrize("settings", [Settings(), INLINE])
async def test_alt_arrows_in_the_text_move_by_words_and_cut_nothing(
    studio: Studio, settings: Any
) -> None:
    async with studio(text=BEGINNING, settings=settings) as bench:
        await completed(bench)
        await bench.pilot.press("tab")
        await bench.type(" and more")
        whole, nodes = bench.document, len(bench.session.tree)
        await bench.pilot.press("alt+left", "alt+left")
        assert bench.document == whole
        assert bench.editor.caret == len(whole) - len("and more")
        await bench.pilot.press("alt+right")
        assert bench.editor.caret == len(whole) - len(" more")
        assert (bench.document, len(bench.session.tree)) == (whole, nodes)


async def test_alt_arrows_walk_the_tree_from_the_completion_and_from_the_tree(
    studio: Studio,
) -> None:
    async with studio(text=BEGINNING) as bench:
        await completed(bench)
        await bench.pilot.press("tab", "f9", "alt+left")
        assert bench.document == BEGINNING
        await bench.pilot.press("alt+r", "alt+right")
        assert bench.document == BEGINNING + STORY


async def test_tab_accepts_at_the_end_and_indents_elsewhere(studio: Studio) -> None:
    async with studio((Say("go(x)"),), text=CODE) as bench:
        await completed(bench)
        bench.editor.caret = len("def f(x):\n")
        await bench.pilot.press("tab")
        assert bench.document == CODE.replace("  if x", "    if x")
        await bench.pilot.press("shift+tab")
        assert bench.document == CODE
        await bench.pilot.press("ctrl+end", "tab")
        assert bench.document == CODE + "go(x)"
        await bench.pilot.press("enter", "tab", "x")
        assert bench.document.endswith("go(x)\n  x")


async def test_several_selected_lines_are_indented_in_one_step(studio: Studio) -> None:
    async with studio(text=CODE) as bench:
        await bench.ready()
        bench.editor.select(len("def f(x):\n") + 2, CODE.index("\ndef g"))
        await bench.pilot.press("tab")
        assert bench.document.startswith("def f(x):\n    if x:\n      return 1\ndef g():\n  if")
        assert bench.editor.selected_text == "if x:\n      return 1"
        await bench.pilot.press("ctrl+z", "ctrl+y", "shift+tab")
        assert bench.document == CODE


async def test_shift_tab_leaves_a_text_that_is_not_indented(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("shift+tab")
        assert not bench.editor.has_focus
        assert bench.document == BEGINNING


async def test_tab_before_the_first_token_types_nothing(studio: Studio) -> None:
    async with studio(text=BEGINNING, gated=True) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.until(lambda: bench.workspace.completer.running)
        await bench.pilot.press("tab")
        assert bench.document == BEGINNING
        assert "Nothing to accept yet." in bench.screen()


async def test_esc_in_the_text_keeps_the_focus(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("escape", "x")
        assert bench.document == BEGINNING + "x"
