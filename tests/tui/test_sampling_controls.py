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
    ROW_SETTINGS,
    ROWS,
    Controls,
    at_fraction,
    fraction,
)
from qwen_tui.tui.widgets.sampling import SamplingControls
from qwen_tui.types import Sampling


class Panel(App[None]):
    """The controls alone."""

    def __init__(self, controls: Controls) -> None:
        super().__init__()
        self.start = controls
        self.changes: list[Controls] = []
        self.said: list[SamplingControls.Said] = []

    def compose(self) -> ComposeResult:
        yield SamplingControls(self.start)

    def on_sampling_controls_changed(self, message: SamplingControls.Changed) -> None:
        self.changes.append(message.controls)

    def on_sampling_controls_said(self, message: SamplingControls.Said) -> None:
        self.said.append(message)


@asynccontextmanager
async def panel(
    controls: Controls | None = None, size: tuple[int, int] = (40, 20)
) -> AsyncIterator[tuple[Pilot[None], SamplingControls, Panel]]:
    app = Panel(controls or Controls(Sampling()))
    async with app.run_test(size=size) as pilot:
        sampling = app.query_one(SamplingControls)
        sampling.focus()
        await pilot.pause()
        yield pilot, sampling, app


def lines(sampling: SamplingControls) -> list[str]:
    return [sampling.render_line(y).text for y in range(len(ROWS))]


def go_to(sampling: SamplingControls, name: str) -> None:
    sampling.cursor = ROWS.index(name)


async def test_every_control_shows_its_name_and_value_and_its_range_when_chosen() -> None:
    async with panel() as (pilot, sampling, app):
        shown = "\n".join(lines(sampling))
        for word in ("temperature", "top-k", "min-p", "max tokens", "completions", "seed", "stop"):
            assert word in shown
        assert "0.05" in lines(sampling)[ROWS.index("min_p")]
        go_to(sampling, "temperature")
        await pilot.pause()
        assert app.said[-1] == SamplingControls.Said("0 to 5 · neutral 1", False)


async def test_arrows_step_and_the_change_is_told() -> None:
    async with panel() as (pilot, sampling, app):
        go_to(sampling, "temperature")
        await pilot.press("left", "left")
        assert app.changes[-1].sampling.temperature == pytest.approx(0.9)
        await pilot.press("shift+right")
        assert sampling.controls.sampling.temperature == pytest.approx(1.4)


async def test_a_number_can_be_typed() -> None:
    async with panel() as (pilot, sampling, _):
        go_to(sampling, "top_k")
        await pilot.press("4", "0", "enter")
        assert sampling.controls.sampling.top_k == 40
        assert sampling.typed is None


async def test_a_value_out_of_range_is_shown_as_such_and_not_applied() -> None:
    async with panel() as (pilot, sampling, app):
        go_to(sampling, "top_p")
        await pilot.press("7", "enter")
        assert sampling.typed == "7"
        assert "0 to 1" in sampling.complaint
        assert "0 to 1" in app.said[-1].text
        assert app.said[-1].wrong
        assert sampling.has_class("-wrong")
        assert app.changes == []
        await pilot.press("backspace", "0", ".", "5", "enter")
        assert sampling.controls.sampling.top_p == 0.5
        assert not sampling.has_class("-wrong")


async def test_moving_on_drops_what_cannot_be_applied_and_keeps_what_can() -> None:
    async with panel() as (pilot, sampling, _):
        go_to(sampling, "top_p")
        await pilot.press("7", "down")
        assert sampling.controls.sampling.top_p == 1.0
        go_to(sampling, "top_k")
        await pilot.press("9", "down")
        assert sampling.controls.sampling.top_k == 9


async def test_delete_switches_a_control_off() -> None:
    async with panel() as (pilot, sampling, _):
        go_to(sampling, "min_p")
        await pilot.press("delete")
        assert sampling.controls.sampling.min_p == 0.0


async def test_home_and_end_go_to_the_limits() -> None:
    async with panel() as (pilot, sampling, _):
        go_to(sampling, "top_p")
        await pilot.press("home")
        assert sampling.controls.sampling.top_p == 0.0
        await pilot.press("end")
        assert sampling.controls.sampling.top_p == 1.0


async def test_neutralise_switches_every_stage_off_and_keeps_the_seed() -> None:
    controls = Controls(Sampling(temperature=0.3, top_k=9, seed=5))
    async with panel(controls) as (_, sampling, _app):
        sampling.neutralise()
        assert sampling.controls.sampling == replace(presets.RAW, seed=5)
        assert sampling.preset_label() == "Raw"


async def test_presets_are_walked_with_the_arrows_and_named() -> None:
    async with panel() as (pilot, sampling, _):
        go_to(sampling, "preset")
        assert sampling.preset_label() == "Balanced"
        await pilot.press("right")
        assert sampling.preset_label() == "Creative"
        assert sampling.controls.sampling.temperature == 1.5
        go_to(sampling, "temperature")
        await pilot.press("right")
        assert sampling.preset_label() == "custom"


async def test_the_checkpoints_own_values_are_a_preset_once_they_are_known() -> None:
    async with panel() as (pilot, sampling, _):
        sampling.checkpoint = Sampling(temperature=0.7, top_p=0.8, min_p=0.0)
        sampling.take_preset("checkpoint")
        await pilot.pause()
        assert sampling.preset_label() == "Checkpoint's"
        assert sampling.controls.sampling.top_p == 0.8


async def test_the_seed_is_fresh_or_fixed_and_the_one_used_is_shown() -> None:
    async with panel() as (pilot, sampling, _):
        sampling.last_seed = 77
        await pilot.pause()
        assert "fresh · 77" in lines(sampling)[ROWS.index("seed")]
        sampling.toggle_seed()
        assert sampling.controls.sampling.seed == 77
        go_to(sampling, "seed")
        await pilot.press("right")
        assert sampling.controls.sampling.seed == 78
        await pilot.press("delete")
        assert sampling.controls.sampling.seed is None


async def test_a_click_and_a_drag_on_a_slider_set_the_value() -> None:
    async with panel() as (pilot, sampling, _):
        row = ROWS.index("top_p")
        start, cells = sampling._bar(sampling.scrollable_content_region.width)
        await pilot.mouse_down(sampling, offset=(start, row))
        assert sampling.controls.sampling.top_p == 0.0
        await pilot.hover(sampling, offset=(start + cells - 1, row))
        await pilot.mouse_up(sampling, offset=(start + cells - 1, row))
        assert sampling.controls.sampling.top_p == 1.0


async def test_the_wheel_turns_the_dial_under_the_mouse() -> None:
    async with panel() as (pilot, sampling, _):
        row = ROWS.index("top_k")
        start, _cells = sampling._bar(sampling.scrollable_content_region.width)
        await pilot._post_mouse_events(  # a wheel has no public method
            [MouseScrollUp],
            sampling,
            offset=(start, row),
            button=0,
        )
        assert sampling.controls.sampling.top_k == 1


async def test_a_narrow_panel_still_shows_names_and_values() -> None:
    async with panel(size=(24, 8)) as (_, sampling, _app):
        assert "temperature" in lines(sampling)[ROWS.index("temperature")]
        assert lines(sampling)[ROWS.index("temperature")].split() == ["▌temperature", "1"]


async def test_a_sampler_that_is_switched_on_gets_its_rows_and_keeps_them() -> None:
    order = ("temperature", "top_k")
    async with panel(Controls(Sampling(order=order)), size=(40, 30)) as (pilot, sampling, app):
        assert sampling.controls.rows == ROWS
        sampling.switch_on("xtc_probability")
        await pilot.pause()
        assert sampling.controls.sampling.xtc_probability == 0.5
        assert sampling.controls.sampling.order == (*order[:1], "top_k", "xtc")
        assert sampling.row == "xtc_probability"
        assert sampling.controls.rows == (*ROWS, "xtc_probability", "xtc_threshold")
        assert "XTC" in sampling.render_line(len(ROWS)).text
        await pilot.press("delete")
        assert sampling.controls.sampling.xtc_probability == 0.0
        assert sampling.row == "xtc_probability"
        assert app.changes[-1] == sampling.controls


@pytest.mark.parametrize("name", sorted(ROW_SETTINGS))
def test_a_slider_and_its_value_agree(name: str) -> None:
    setting = ROW_SETTINGS[name]
    assert at_fraction(setting, 0.0) == setting.low
    assert at_fraction(setting, 1.0) == pytest.approx(setting.usual, rel=0.02)
    for value in (setting.low, setting.neutral, min(setting.usual, setting.high)):
        assert 0.0 <= fraction(setting, value) <= 1.0


def test_a_wide_range_is_logarithmic() -> None:
    assert fraction(MAX_TOKENS, 256) > 0.5


async def test_a_logit_bias_that_is_active_is_shown_and_can_be_taken_away() -> None:
    biased = Controls(Sampling(logit_bias=((198, -math.inf), (12, 2.0))))
    async with panel(biased) as (pilot, sampling, app):
        assert "logit bias" in sampling.render_line(len(ROWS)).text
        assert "198=-inf 12=2" in sampling.render_line(len(ROWS)).text
        await pilot.press("up", "up")
        assert sampling.row == "logit_bias"
        assert app.said[-1].text == "Del: no bias"
        await pilot.press("enter", "5", "delete")
        assert app.changes[-1].sampling.logit_bias == ()
        assert "logit bias" not in sampling.render_line(len(ROWS)).text
        assert sampling.row == "seed"
