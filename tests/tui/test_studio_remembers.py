"""A session that is opened again is as it was left: its controls, layout, theme and model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fixtures.workspaces import BEGINNING, CONTROLS, workspace
from qwen_tui.cli.wiring import with_model_of
from qwen_tui.session.opening import OpenSession, new_store, open_session
from qwen_tui.session.session import Session
from qwen_tui.settings import Origin, Settings
from qwen_tui.tui.last_look import last_look, remember_look
from qwen_tui.tui.sampling_controls import Controls
from qwen_tui.tui.studio import remembered
from qwen_tui.types import Sampling
from qwen_tui.vocab import Vocab

Studio = Callable[..., Any]
OWN = Controls(
    Sampling(temperature=0.3, top_k=7, seed=11, order=("top_k", "temperature")),
    max_tokens=33,
    stop=("\n\n",),
    branches=2,
    preset="precise",
)


def saved() -> OpenSession:
    session = Session.new()
    return OpenSession(session, new_store(session))


def flagged(**values: Any) -> Settings:
    names = {name: Origin("flag") for name in values}
    return replace(Settings(), origin=names)


async def test_controls_and_layout_come_back_with_the_session(vocab: Vocab) -> None:
    opened = saved()
    async with workspace(vocab, opened=opened, text=BEGINNING) as bench:
        bench.work.controls, bench.work.inline = OWN, True
        assert bench.work.generate(OWN)
        await bench.settled()
        bench.work.controls = replace(OWN, max_tokens=44)
        assert bench.work.open(None)
        assert bench.work.controls == replace(OWN, max_tokens=44)  # one begins as one works
        await bench.until(lambda: not bench.work._tasks)
    assert opened.path is not None
    async with workspace(vocab, opened=open_session(opened.path)) as bench:
        assert bench.work.controls == replace(OWN, max_tokens=44)
        assert bench.work.inline


def test_what_the_command_line_says_stands() -> None:
    session = Session.new()
    session.remember(controls={"temperature": 0.3, "seed": 7, "max_tokens": 33, "stop": ["x"]})
    given = flagged(**{"sampling.temperature": 1, "sampling.seed": 1, "max_tokens": 1, "stop": 1})
    assert remembered.controls_of(session, CONTROLS, given) == CONTROLS
    session.remember(layout="inline", theme="paper")
    assert not remembered.inline_of(session, False, flagged(layout="panes"))
    assert remembered.theme_of(session, flagged(theme="ember")) == ""


def test_values_that_are_none_are_as_if_not_there() -> None:
    session = Session.new()
    bad = {"temperature": "hot", "top_k": -5, "order": [3], "seed": None, "max_tokens": "many"}
    session.remember(controls=bad | {"branches": 1e9, "stop": [1, ""], "preset": 3}, layout=7)
    assert remembered.controls_of(session, CONTROLS, Settings()) == CONTROLS
    assert remembered.inline_of(session, True, Settings())
    session.remember(controls="none")
    assert remembered.controls_of(session, OWN, Settings()) == OWN


async def test_a_session_is_gone_on_with_by_its_own_model(vocab: Vocab) -> None:
    opened = saved()
    opened.session.commit(BEGINNING)
    opened.session.remember(model="demo")
    opened.close()
    chosen = replace(Settings(), origin={"model": Origin("default")})
    assert with_model_of(chosen, opened.session).model == "demo"
    assert with_model_of(flagged(model=1), opened.session).model == Settings().model

    def settings_of(settings: Settings, session: Session) -> Settings:
        return replace(settings, model=str(session.remembered.get("model", settings.model)))

    async with workspace(vocab, settings_of=settings_of) as bench:
        assert bench.work.open(opened.path)
        assert bench.work.settings.model == "demo"
        await bench.until(lambda: bench.work.model is not None)


async def test_theme_controls_and_layout_are_back_on_the_screen(studio: Studio) -> None:
    opened = saved()
    async with studio(text=BEGINNING, opened=opened, save=True) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        first = bench.app.theme
        await bench.pilot.press("alt+t", "alt+i", "ctrl+o", "right", "ctrl+q")
        await bench.until(lambda: bench.app._exit)
        theme, controls = bench.app.theme, bench.sampling.controls
        assert theme != first
        bench.workspace.opened.flush()
    assert opened.path is not None
    assert last_look(Settings(), "theme") == theme
    remember_look(Settings(), "theme", first)
    async with studio(opened=open_session(opened.path), save=True) as bench:
        assert bench.app.theme == theme
        assert bench.sampling.controls == controls
        assert bench.studio.panes.inline


def test_samplers_that_were_switched_on_have_their_rows_again() -> None:
    session = saved().session
    session.commit(BEGINNING)
    on = replace(CONTROLS, sampling=Sampling(order=("temperature",))).switched_on("mirostat")
    remembered.keep(session, on)
    found = remembered.controls_of(session, CONTROLS, Settings())
    assert found.sampling == on.sampling
    assert found.sampling.order == ("temperature", "mirostat")
    assert found.rows[-3:] == ("mirostat", "mirostat_tau", "mirostat_eta")


async def test_the_look_chosen_last_is_there_the_next_time(studio: Studio) -> None:
    async with studio(save=True) as bench:
        await bench.pilot.press("alt+t", "alt+i")
        theme = bench.app.theme
    async with studio(save=True) as bench:
        assert (bench.app.theme, bench.workspace.inline) == (theme, True)
    async with studio() as bench:
        assert (bench.app.theme, bench.workspace.inline) == ("ember", False)
    written = {name: Origin("user file") for name in ("theme", "layout")}
    async with studio(save=True, settings=replace(Settings(), origin=written)) as bench:
        assert (bench.app.theme, bench.workspace.inline) == ("ember", False)
