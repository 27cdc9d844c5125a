"""The studio over a scripted model: the test decides when the next token comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from fixtures.scripts import Gate, Say, Script, Scripted
from fixtures.tokenizers import build_tokenizer
from qwen_tui.backends import scripted
from qwen_tui.engine.runner import Runner
from qwen_tui.session.opening import OpenSession, new_store, open_session
from qwen_tui.session.session import Session
from qwen_tui.settings import Settings
from qwen_tui.tui.app import QwenTui
from qwen_tui.tui.context import StudioContext
from qwen_tui.tui.studio.screen import Studio
from qwen_tui.tui.studio.workspace import Workspace
from qwen_tui.tui.widgets.editor import Editor
from qwen_tui.tui.widgets.output import OutputPane
from qwen_tui.tui.widgets.sampling import SamplingControls
from qwen_tui.vocab import Vocab

STORY = " there was a king who had a golden ball and a well"


@pytest.fixture(scope="session")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Vocab:
    """A small real tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(folder)
    return Vocab.load(folder)


@dataclass
class Bench:
    """A studio under test: what it is made of and what a person sees of it."""

    app: QwenTui
    pilot: Pilot[int]
    gate: Gate
    made: list[Scripted] = field(default_factory=list)

    @property
    def studio(self) -> Studio:
        return self.app.studio

    @property
    def workspace(self) -> Workspace:
        return self.studio.workspace

    @property
    def session(self) -> Session:
        return self.workspace.session

    @property
    def editor(self) -> Editor:
        return self.studio.panes.document.editor

    @property
    def pane(self) -> OutputPane:
        """Where the completion stands."""
        return self.studio.panes.completion.output

    @property
    def sampling(self) -> SamplingControls:
        return self.studio.panes.sampling.panel

    @property
    def document(self) -> str:
        return self.editor.text

    @property
    def output(self) -> str:
        return b"".join(token.data for token in self.pane.tokens).decode()

    async def until(self, true: Callable[[], object], what: str = "") -> None:
        """Wait for a condition; fail with what is on the screen."""
        for _ in range(400):
            if true():
                return
            await self.pilot.pause(0.01)
        pytest.fail(f"never: {what or true}\n{self.screen()}")

    async def settled(self) -> None:
        """Wait until nothing runs or waits any more, and it is painted."""
        await self.until(lambda: not self.workspace.busy, "settled")
        await self.pilot.pause()

    async def ready(self) -> None:
        """Wait until the model is open."""
        await self.until(lambda: self.workspace.model is not None, "the model is open")

    async def type(self, text: str) -> None:
        """Press the keys of a text."""
        await self.pilot.press(
            *["enter" if c == "\n" else "space" if c == " " else c for c in text]
        )

    def screen(self) -> str:
        """The screen's text."""
        height = self.app.size.height
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text for strip in strips[:height])


@pytest.fixture
def studio(vocab: Vocab, tmp_path: Path) -> Callable[..., Any]:
    """A context manager that runs the studio: `async with studio(script) as bench`.

    Without a script a story is told, one token for each permission of `bench.gate`. `toasts` lets
    passing words be seen.
    """

    @asynccontextmanager
    async def run(
        script: Script | None = None,
        *,
        size: tuple[int, int] = (120, 40),
        text: str = "",
        settings: Settings | None = None,
        save: bool = False,
        session: Session | None = None,
        opened: OpenSession | None = None,
        loading: tuple[Any, ...] = (),
        vocab_of: Callable[[Settings], Vocab | None] | None = None,
        gated: bool = False,
        toasts: bool = False,
        file: Path | None = None,
        newer: Path | None = None,
        **backend: Any,
    ) -> AsyncIterator[Bench]:
        gate = Gate()
        made: list[Scripted] = []
        steps = script if script is not None else (Say(STORY, gate=gate if gated else None),)
        chosen = replace(settings or Settings(), engine="scripted", save=save)

        def opener(_settings: Settings) -> Any:
            return scripted.opener(steps, loading=loading, made=made, **backend)

        def open_one(path: Path | None) -> OpenSession:
            if path is not None:
                return open_session(path, read_only=not save)
            fresh = Session.new(app="test")
            return OpenSession(fresh, new_store(fresh) if save else None)

        if opened is None:
            opened = OpenSession(session) if session is not None else open_one(None)
        context = StudioContext(
            settings=chosen,
            runner=Runner(opener(chosen)),
            opener=opener,
            vocab=vocab_of or (lambda _settings: vocab),
            open_session=open_one,
            opened=opened,
            file=file,
            newer=newer,
            text=text,
        )
        app = QwenTui(context)
        try:
            async with app.run_test(size=size, notifications=toasts) as pilot:
                yield Bench(app, pilot, gate, made)
        finally:
            gate.open()
            context.runner.close(2.0)
            app.studio.workspace.opened.close()

    return run
