"""The palette finds an action by what a person calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.command import CommandPalette
from textual.widgets import OptionList

from qwen_tui.tui.action_table import ACTIONS
from qwen_tui.tui.actions import BY_ID
from qwen_tui.tui.palette import WORDS, PaletteCommand, score

Studio = Callable[..., Any]


def best(query: str) -> list[str]:
    commands = [
        PaletteCommand(each.name, each.help, lambda: None, WORDS.get(each.id, ""))
        for each in ACTIONS
    ]
    ids = [action.id for action in ACTIONS if action.where in ("studio", "app")]
    by_name = {BY_ID[id].name: id for id in ids}
    ranked = sorted(commands, key=lambda each: -score(each, query))
    return [by_name[each.name] for each in ranked if score(each, query) and each.name in by_name]


@pytest.mark.parametrize(
    ("query", "action"),
    [
        *(
            ("branch", "branches"),
            ("export", "save_as"),
            ("bias", "dials"),
            ("logit bias", "dials"),
        ),
        *(("temperature", "dials"), ("restore", "sessions"), ("trash", "sessions")),
        *(("download", "models"), ("truncate", "shorten"), ("vim", "edit_outside")),
        *(("search", "find"), ("retry", "regenerate"), ("exit", "quit"), ("seed", "fix_seed")),
        *(("probability", "inspect"), ("roads", "branches"), ("keys", "help")),
    ],
)
def test_other_words_find_the_action(query: str, action: str) -> None:
    assert action in best(query)[:5]


def test_a_name_comes_before_a_description() -> None:
    assert best("theme")[0] == "theme"
    assert best("chat")[0] == "chat"
    assert best("no such thing") == []


def test_every_word_belongs_to_an_action() -> None:
    assert WORDS.keys() <= BY_ID.keys()


async def test_a_person_types_export_and_enter_saves_the_text(studio: Studio) -> None:
    async with studio(text="Once") as bench:
        await bench.pilot.press("ctrl+p")
        await bench.until(lambda: isinstance(bench.app.screen, CommandPalette))
        await bench.pilot.press(*"export")

        def offered() -> str:
            options = bench.app.screen.query_one(OptionList)
            return "\n".join(str(each.prompt) for each in options.options)

        await bench.until(lambda: "Save text" in offered(), "the palette offers it")
        await bench.pilot.press("enter", "enter")
        await bench.until(lambda: "AskLine" in repr(bench.app.screen), "it asks for a name")
