"""The studio over servers: the same keys, the same panes, whoever computes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from textual.pilot import Pilot

from fixtures import servers
from fixtures.checkpoints import qwen2
from qwen_tui import settings
from qwen_tui.cli import wiring
from qwen_tui.engine.runner import Runner
from qwen_tui.session.opening import OpenSession
from qwen_tui.session.session import Session
from qwen_tui.settings import Endpoint, Settings
from qwen_tui.tui.app import QwenTui
from qwen_tui.tui.context import ENGINE, StudioContext
from qwen_tui.tui.screens.models import Models
from qwen_tui.types import Token, joined

TEXT = "Once upon a time"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Model]:
    model = servers.Model(qwen2(tmp_path_factory.mktemp("server")))
    yield model
    model.close()


@asynccontextmanager
async def studio(chosen: Settings) -> AsyncIterator[tuple[QwenTui, Pilot[int]]]:
    """The studio as the command line makes it, over whatever engine the settings name."""
    context = StudioContext(
        settings=chosen,
        runner=Runner(wiring.opener(chosen)),
        opener=wiring.opener,
        vocab=wiring.vocabulary,
        open_session=lambda path: OpenSession(Session.new(app="test")),
        opened=OpenSession(Session.new(app="test")),
        text=TEXT,
    )
    app = QwenTui(context)
    try:
        async with app.run_test(size=(120, 40)) as pilot:
            yield app, pilot
    finally:
        context.runner.close(5.0)


async def until(pilot: Pilot[int], true: Callable[[], object]) -> None:
    for _ in range(1000):
        if true():
            return
        await pilot.pause(0.01)
    strips = pilot.app.screen._compositor.render_strips()
    pytest.fail("\n".join(strip.text for strip in strips))


def shown(app: QwenTui) -> tuple[Token, ...]:
    return tuple(app.studio.panes.completion.output.tokens)


def over(url: str) -> Settings:
    flags = {"engine": url, "save": False, "max_tokens": 6, "temperature": 0.0, "min_p": 0.0}
    return settings.load(flags)


@pytest.mark.parametrize(
    "speaks", [servers.vllm, servers.llamacpp, servers.openai], ids=lambda each: each.__name__
)
async def test_a_completion_comes_from_a_server(
    model: servers.Model, speaks: Callable[[servers.Model], servers.Handler]
) -> None:
    with servers.serving(speaks(model)) as server:
        async with studio(over(server.url)) as (app, pilot):
            await until(pilot, lambda: app.studio.workspace.model is not None)
            await pilot.press("ctrl+j")
            await until(pilot, lambda: shown(app) and not app.studio.workspace.busy)
            tokens = shown(app)
            assert joined(tokens)
            ids = speaks is not servers.openai
            assert all((token.id >= 0) == ids for token in tokens)
            if speaks is servers.vllm:
                assert all(len(token.choices) == 10 for token in tokens)


async def test_a_server_is_switched_to_in_the_middle_of_a_session(model: servers.Model) -> None:
    with (
        servers.serving(servers.vllm(model)) as first,
        servers.serving(servers.llamacpp(model)) as second,
    ):
        lab = Endpoint(second.url, name="lab")
        async with studio(replace(over(first.url), engines={"lab": lab})) as (app, pilot):
            await until(pilot, lambda: app.studio.workspace.model is not None)
            await pilot.press("ctrl+j")
            await until(pilot, lambda: shown(app) and not app.studio.workspace.busy)
            await pilot.press("f8")
            await until(pilot, lambda: isinstance(app.screen, Models))
            app.screen.dismiss(ENGINE + "lab")
            await until(
                pilot,
                lambda: (
                    app.studio.workspace.model is not None
                    and app.studio.workspace.model.name == "model.gguf"
                ),
            )
            await pilot.press("ctrl+j")
            await until(
                pilot,
                lambda: any(
                    asked.path == "/completion" and asked.body["stream"]
                    for asked in second.asked
                    if "stream" in (asked.body or {})
                ),
            )
            await until(pilot, lambda: not app.studio.workspace.busy)


async def test_a_chat_without_the_tokenizer_says_what_it_needs(model: servers.Model) -> None:
    with servers.serving(servers.openai(model)) as server:
        async with studio(over(server.url)) as (app, pilot):
            await until(pilot, lambda: app.studio.workspace.model is not None)
            await pilot.press("f3")
            await until(
                pilot,
                lambda: any(
                    "tokenizer is on the server alone" in strip.text
                    for strip in app.screen._compositor.render_strips()
                ),
            )
