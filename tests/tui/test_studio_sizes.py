"""The studio at every size: panes fold, nothing is lost, nothing crashes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fixtures.scripts import Say
from fixtures.tokenizers import build_tokenizer
from qwen_tui.tui.studio import layout
from qwen_tui.vocab import Vocab

Studio = Callable[..., Any]
BEGINNING = "In olden times"


@pytest.mark.parametrize("size", [(80, 24), (72, 14), (60, 20), (40, 10), (20, 5)])
@pytest.mark.parametrize("pane", layout.PANES)
def test_the_pane_one_works_in_is_always_shown(size: tuple[int, int], pane: layout.Pane) -> None:
    branches = pane == "branches"
    assert pane in layout.shown(*size, pane, branches=branches)


def test_everything_stands_side_by_side_where_there_is_room() -> None:
    every = {"document", "completion", "sampling", "alternatives"}
    assert layout.shown(120, 40, "document", branches=False) == every
    assert layout.shown(80, 24, "document", branches=False) == every
    assert layout.shown(40, 10, "document", branches=False) == {"document"}


def test_walking_the_panes_reaches_all_of_them() -> None:
    seen, pane = [], "document"
    for _ in range(4):
        seen.append(pane)
        pane = layout.after(pane, branches=False)  # type: ignore[arg-type]
    assert seen == ["document", "completion", "sampling", "alternatives"]
    assert pane == "document"


async def test_at_80_by_24_text_completion_controls_and_inspector_are_in_view(
    studio: Studio,
) -> None:
    async with studio(text=BEGINNING, size=(80, 24)) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        shown = bench.screen()
        for words in (BEGINNING, "there was a king", "temperature", "Alternatives", "4,096"):
            assert words in shown


async def test_on_a_roomy_terminal_the_controls_take_no_more_than_they_need(
    studio: Studio,
) -> None:
    async with studio(size=(120, 40)) as bench:
        await bench.ready()
        controls, alternatives = bench.studio.panes.sampling, bench.studio.panes.alternatives
        assert bench.sampling.virtual_size.height == bench.sampling.size.height
        assert alternatives.size.height > controls.size.height
        await bench.pilot.resize_terminal(120, 24)
        await bench.pilot.pause()
        assert abs(alternatives.size.height - controls.size.height) <= 1


async def test_in_a_chat_the_message_stands_below_the_conversation_and_is_low(
    studio: Studio, tmp_path: Path
) -> None:
    chatty = Vocab.load(build_tokenizer(tmp_path, chat=True))
    for size in ((120, 40), (80, 24)):
        async with studio(size=size, vocab_of=lambda _settings: chatty) as bench:
            await bench.ready()
            await bench.pilot.press("f3")
            await bench.pilot.pause()
            document, completion = bench.studio.panes.document, bench.studio.panes.completion
            assert document.outer_size.height == 7
            assert document.region.y > completion.region.y


async def test_at_40_by_10_every_pane_is_a_key_press_away(studio: Studio) -> None:
    async with studio(text=BEGINNING, size=(40, 10)) as bench:
        await bench.ready()
        assert BEGINNING in bench.screen()
        assert "F9" in bench.screen()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert "there was a king" in bench.screen()
        await bench.pilot.press("ctrl+o")
        assert "temperature" in bench.screen()
        await bench.pilot.press("escape")
        assert BEGINNING in bench.screen()
        await bench.pilot.press("ctrl+t")
        assert "there" in bench.screen()
        await bench.pilot.press("f9")
        assert BEGINNING in bench.screen()


async def test_a_storm_of_sizes_leaves_the_text_alone(studio: Studio) -> None:
    async with studio(gated=True, text=BEGINNING) as bench:
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
        assert BEGINNING in bench.screen()
        assert "golden ball" in bench.screen()


async def test_many_languages_are_shown_and_walked(studio: Studio) -> None:
    text = "日本語の文 مرحبا שלום สวัสดี नमस्ते 👩‍👩‍👧‍👦 e\u0301"
    async with studio((Say(" 東京 👍🏽 ไทย"),), text=text, size=(80, 24)) as bench:
        await bench.ready()
        assert bench.document == text
        await bench.pilot.press("ctrl+end", *["left"] * 8, *["right"] * 8)
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert bench.output.startswith(" 東京 👍🏽 ไทย")
        await bench.pilot.press("ctrl+t", *["right"] * 4)
        assert "東京" in bench.screen()
