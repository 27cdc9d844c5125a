"""The sampling controls, by keyboard, by typing and by mouse."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from textual.app import App, ComposeResult
from textual.events import MouseScrollUp
from textual.pilot import Pilot

from qwen_tui import presets
from qwen_tui.tui.sampling_controls import (
    MAX_TOKENS,
    ROW_DIALS,
    ROWS,
    Controls,
    at_fraction,
    fraction,
)
from qwen_tui.tui.widgets.sampling import Dials
from qwen_tui.types import Sampling


class Panel(App[None]):
    """The controls alone."""

    def __init__(self, controls: Controls) -> None:
        super().__init__()
        self.start = controls
        self.changes: list[Controls] = []
        self.said: list[Dials.Said] = []

    def compose(self) -> ComposeResult:
        yield Dials(self.start)

    def on_dials_changed(self, message: Dials.Changed) -> None:
        self.changes.append(message.controls)

    def on_dials_said(self, message: Dials.Said) -> None:
        self.said.append(message)


@asynccontextmanager
async def panel(
    controls: Controls | None = None, size: tuple[int, int] = (40, 20)
) -> AsyncIterator[tuple[Pilot[None], Dials, Panel]]:
    app = Panel(controls or Controls(Sampling()))
    async with app.run_test(size=size) as pilot:
        dials = app.query_one(Dials)
        dials.focus()
        await pilot.pause()
        yield pilot, dials, app


def lines(dials: Dials) -> list[str]:
    return [dials.render_line(y).text for y in range(len(ROWS))]


def go_to(dials: Dials, name: str) -> None:
    dials.cursor = ROWS.index(name)


async def test_every_control_shows_its_name_and_value_and_its_range_when_chosen() -> None:
    async with panel() as (pilot, dials, app):
        shown = "\n".join(lines(dials))
        for word in ("temperature", "top-k", "min-p", "max tokens", "completions", "seed", "stop"):
            assert word in shown
        assert "0.05" in lines(dials)[ROWS.index("min_p")]
        go_to(dials, "temperature")
        await pilot.pause()
        assert app.said[-1] == Dials.Said("0 to 5 · neutral 1", False)


async def test_arrows_step_and_the_change_is_told() -> None:
    async with panel() as (pilot, dials, app):
        go_to(dials, "temperature")
        await pilot.press("left", "left")
        assert app.changes[-1].sampling.temperature == pytest.approx(0.9)
        await pilot.press("shift+right")
        assert dials.controls.sampling.temperature == pytest.approx(1.4)


async def test_a_number_can_be_typed() -> None:
    async with panel() as (pilot, dials, _):
        go_to(dials, "top_k")
        await pilot.press("4", "0", "enter")
        assert dials.controls.sampling.top_k == 40
        assert dials.typed is None


async def test_a_value_out_of_range_is_shown_as_such_and_not_applied() -> None:
    async with panel() as (pilot, dials, app):
        go_to(dials, "top_p")
        await pilot.press("7", "enter")
        assert dials.typed == "7"
        assert "0 to 1" in dials.complaint
        assert "0 to 1" in app.said[-1].text
        assert app.said[-1].wrong
        assert dials.has_class("-wrong")
        assert app.changes == []
        await pilot.press("backspace", "0", ".", "5", "enter")
        assert dials.controls.sampling.top_p == 0.5
        assert not dials.has_class("-wrong")


async def test_moving_on_drops_what_cannot_be_applied_and_keeps_what_can() -> None:
    async with panel() as (pilot, dials, _):
        go_to(dials, "top_p")
        await pilot.press("7", "down")
        assert dials.controls.sampling.top_p == 1.0
        go_to(dials, "top_k")
        await pilot.press("9", "down")
        assert dials.controls.sampling.top_k == 9


async def test_delete_switches_a_control_off() -> None:
    async with panel() as (pilot, dials, _):
        go_to(dials, "min_p")
        await pilot.press("delete")
        assert dials.controls.sampling.min_p == 0.0


async def test_home_and_end_go_to_the_limits() -> None:
    async with panel() as (pilot, dials, _):
        go_to(dials, "top_p")
        await pilot.press("home")
        assert dials.controls.sampling.top_p == 0.0
        await pilot.press("end")
        assert dials.controls.sampling.top_p == 1.0


async def test_neutralise_switches_every_stage_off_and_keeps_the_seed() -> None:
    controls = Controls(Sampling(temperature=0.3, top_k=9, seed=5))
    async with panel(controls) as (_, dials, _app):
        dials.neutralise()
        assert dials.controls.sampling == replace(presets.RAW, seed=5)
        assert dials.preset_label() == "Raw"


async def test_presets_are_walked_with_the_arrows_and_named() -> None:
    async with panel() as (pilot, dials, _):
        go_to(dials, "preset")
        assert dials.preset_label() == "Balanced"
        await pilot.press("right")
        assert dials.preset_label() == "Creative"
        assert dials.controls.sampling.temperature == 1.5
        go_to(dials, "temperature")
        await pilot.press("right")
        assert dials.preset_label() == "custom"


async def test_the_checkpoints_own_values_are_a_preset_once_they_are_known() -> None:
    async with panel() as (pilot, dials, _):
        dials.checkpoint = Sampling(temperature=0.7, top_p=0.8, min_p=0.0)
        dials.take_preset("checkpoint")
        await pilot.pause()
        assert dials.preset_label() == "Checkpoint's"
        assert dials.controls.sampling.top_p == 0.8


async def test_the_seed_is_fresh_or_fixed_and_the_one_used_is_shown() -> None:
    async with panel() as (pilot, dials, _):
        dials.last_seed = 77
        await pilot.pause()
        assert "fresh · 77" in lines(dials)[ROWS.index("seed")]
        dials.toggle_seed()
        assert dials.controls.sampling.seed == 77
        go_to(dials, "seed")
        await pilot.press("right")
        assert dials.controls.sampling.seed == 78
        await pilot.press("delete")
        assert dials.controls.sampling.seed is None


async def test_a_click_and_a_drag_on_a_slider_set_the_value() -> None:
    async with panel() as (pilot, dials, _):
        row = ROWS.index("top_p")
        start, cells = dials._bar(dials.scrollable_content_region.width)
        await pilot.mouse_down(dials, offset=(start, row))
        assert dials.controls.sampling.top_p == 0.0
        await pilot.hover(dials, offset=(start + cells - 1, row))
        await pilot.mouse_up(dials, offset=(start + cells - 1, row))
        assert dials.controls.sampling.top_p == 1.0


async def test_the_wheel_turns_the_dial_under_the_mouse() -> None:
    async with panel() as (pilot, dials, _):
        row = ROWS.index("top_k")
        start, _cells = dials._bar(dials.scrollable_content_region.width)
        await pilot._post_mouse_events(  # a wheel has no public method
            [MouseScrollUp],
            dials,
            offset=(start, row),
            button=0,
        )
        assert dials.controls.sampling.top_k == 1


async def test_a_narrow_panel_still_shows_names_and_values() -> None:
    async with panel(size=(24, 8)) as (_, dials, _app):
        assert "temperature" in lines(dials)[ROWS.index("temperature")]
        assert lines(dials)[ROWS.index("temperature")].split() == ["▌temperature", "1"]


async def test_a_sampler_that_is_switched_on_gets_its_rows_and_keeps_them() -> None:
    order = ("temperature", "top_k")
    async with panel(Controls(Sampling(order=order)), size=(40, 30)) as (pilot, dials, app):
        assert dials.controls.rows == ROWS
        dials.switch_on("xtc_probability")
        await pilot.pause()
        assert dials.controls.sampling.xtc_probability == 0.5
        assert dials.controls.sampling.order == (*order[:1], "top_k", "xtc")
        assert dials.row == "xtc_probability"
        assert dials.controls.rows == (*ROWS, "xtc_probability", "xtc_threshold")
        assert "XTC" in dials.render_line(len(ROWS)).text
        await pilot.press("delete")
        assert dials.controls.sampling.xtc_probability == 0.0
        assert dials.row == "xtc_probability"
        assert app.changes[-1] == dials.controls


@pytest.mark.parametrize("name", sorted(ROW_DIALS))
def test_a_slider_and_its_value_agree(name: str) -> None:
    dial = ROW_DIALS[name]
    assert at_fraction(dial, 0.0) == dial.low
    assert at_fraction(dial, 1.0) == pytest.approx(dial.usual, rel=0.02)
    for value in (dial.low, dial.neutral, min(dial.usual, dial.high)):
        assert 0.0 <= fraction(dial, value) <= 1.0


def test_a_wide_range_is_logarithmic() -> None:
    assert fraction(MAX_TOKENS, 256) > 0.5


async def test_a_logit_bias_that_is_active_is_shown_and_can_be_taken_away() -> None:
    biased = Controls(Sampling(logit_bias=((198, -math.inf), (12, 2.0))))
    async with panel(biased) as (pilot, dials, app):
        assert "logit bias" in dials.render_line(len(ROWS)).text
        assert "198=-inf 12=2" in dials.render_line(len(ROWS)).text
        await pilot.press("up", "up")
        assert dials.row == "logit_bias"
        assert app.said[-1].text == "Del: no bias"
        await pilot.press("enter", "5", "delete")
        assert app.changes[-1].sampling.logit_bias == ()
        assert "logit bias" not in dials.render_line(len(ROWS)).text
        assert dials.row == "seed"
