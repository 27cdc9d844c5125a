"""Every action in every mode: each acts on what it names, and nothing a person wrote is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fixtures.scripts import Say
from fixtures.tokenizers import build_tokenizer
from qwen_tui.settings import Settings
from qwen_tui.tui.actions import ACTIONS
from qwen_tui.tui.studio.text_file import TextFile
from qwen_tui.types import text_of
from qwen_tui.vocab import Vocab

Studio = Callable[..., Any]
DOCUMENT = "Chapter one"
TYPED = " and more"
MESSAGE = "half a message"
EVERY = [action.id for action in ACTIONS if action.where in ("studio", "app")]
EVERY.remove("quit")
MODES = ("document", "completed", "inline", "unsaid", "answered")


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Vocab:
    """A tokenizer with Qwen2.5's template."""
    return Vocab.load(build_tokenizer(tmp_path_factory.mktemp("chatty"), chat=True))


@pytest.fixture(autouse=True)
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's editor that changes nothing."""
    monkeypatch.setenv("VISUAL", "true")


def written(bench: Any) -> Iterator[str]:
    """All texts that can be found again: in the editor, at the other side, in the tree."""
    yield bench.document
    yield bench.workspace.text._waiting
    for node in bench.session.tree.nodes:
        parts = bench.session.tree.chain(node)
        yield text_of([token for part in parts if not part.node.folded for token in part.tokens])


async def enter(bench: Any, mode: str, file: Path) -> None:
    """Begin anew with a file's text, typing behind it, and what makes the mode."""
    while len(bench.app.screen_stack) > 1:
        await bench.pilot.press("escape")
    work = bench.workspace
    work.inline = mode == "inline"
    bench.studio.do(work.open, None)
    file.write_text(DOCUMENT)
    work.text_file = TextFile(file)
    work.session.commit(DOCUMENT, "file")
    bench.studio.do(work.text.show)
    bench.studio.panes.go_to("document")
    if mode in ("completed", "inline"):
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        return
    bench.editor.caret = len(DOCUMENT)
    bench.editor.insert(TYPED)
    if mode == "document":
        return
    await bench.pilot.press("f3")
    if mode == "answered":
        bench.editor.insert("How are you?")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
    bench.editor.insert(MESSAGE)
    await bench.pilot.pause()


@pytest.mark.parametrize("mode", MODES)
async def test_every_action_acts_on_what_it_names(
    studio: Studio, chatty: Vocab, tmp_path: Path, mode: str
) -> None:
    file = tmp_path / "chapter.txt"
    settings = replace(Settings(), layout="inline" if mode == "inline" else "panes")
    async with studio(
        (Say(" Very well."),), vocab_of=lambda _settings: chatty, settings=settings
    ) as bench:
        await bench.ready()
        for action in EVERY:
            await enter(bench, mode, file)
            here = DOCUMENT + ("" if mode in ("completed", "inline") else TYPED)
            chat = [turn for turn in bench.session.turns() if turn[0]]
            if bench.studio.check_action(action, ()):
                await bench.app._act(action)
                await bench.pilot.pause()
                await bench.settled()
                if action == "undo":
                    await bench.pilot.press("ctrl+y")
            saved = file.read_text()
            assert saved == (here if action == "save_as" else DOCUMENT), (action, saved)
            if action in ("new", "sessions"):
                continue
            texts = list(written(bench))
            assert any(text.startswith(here) for text in texts), (action, texts)
            if mode in ("unsaid", "answered"):
                assert any(MESSAGE in text for text in texts), (action, texts)
            for _, text in chat:
                assert any(text in other for other in texts), (action, text, texts)


async def test_saving_in_a_chat_writes_the_document(
    studio: Studio, chatty: Vocab, tmp_path: Path
) -> None:
    file = tmp_path / "chapter.txt"
    async with studio((Say(" Yes."),), vocab_of=lambda _settings: chatty, toasts=True) as bench:
        await bench.ready()
        await enter(bench, "unsaid", file)
        await bench.pilot.press("ctrl+s")
        await bench.until(lambda: "Wrote 20 characters" in bench.screen(), "what was written")
        assert file.read_text() == DOCUMENT + TYPED
        assert bench.document == MESSAGE


async def test_a_conversation_without_a_document_is_not_written_to_a_file(
    studio: Studio, chatty: Vocab, tmp_path: Path
) -> None:
    async with studio((Say(" Yes."),), vocab_of=lambda _settings: chatty) as bench:
        await bench.ready()
        bench.workspace.text_file = TextFile(tmp_path / "chapter.txt")
        await bench.pilot.press("f3")
        await bench.type("Hello")
        await bench.pilot.press("ctrl+s")
        await bench.until(lambda: "no document beside" in bench.screen(), "why not")
        assert not (tmp_path / "chapter.txt").exists()


async def test_the_persons_editor_has_the_message_in_a_chat(
    studio: Studio, chatty: Vocab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "editor"
    program.write_text('#!/bin/sh\nprintf "%s, edited" "$(cat "$1")" > "$1"\n')
    program.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(program))
    async with studio((Say(" Yes."),), vocab_of=lambda _settings: chatty) as bench:
        await bench.ready()
        await enter(bench, "answered", tmp_path / "chapter.txt")
        turns = bench.session.turns()
        monkeypatch.setattr(bench.app, "suspend", Lent)
        await bench.pilot.press("f4")
        assert bench.document == f"{MESSAGE}, edited"
        assert bench.session.turns() == turns
        await bench.pilot.press("ctrl+z")
        assert bench.document == MESSAGE
        await bench.pilot.press("f3")
        assert bench.document == DOCUMENT + TYPED


class Lent:
    """A terminal that is lent to nobody: there is none in a test."""

    def __enter__(self) -> None: ...
    def __exit__(self, *_error: object) -> None: ...


async def test_undo_leads_out_of_a_chat_and_redo_back_into_it(
    studio: Studio, chatty: Vocab, tmp_path: Path
) -> None:
    async with studio((Say(" Yes."),), vocab_of=lambda _settings: chatty) as bench:
        await bench.ready()
        await enter(bench, "completed", tmp_path / "chapter.txt")
        await bench.pilot.press("f3")
        await bench.type("Hello")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        for _ in range(20):
            if not bench.workspace.text.chatting:
                break
            await bench.pilot.press("ctrl+z")
        assert bench.document == DOCUMENT
        assert bench.output.startswith(" Yes.")
        assert "─ Message" not in bench.screen()
        for _ in range(20):
            if bench.workspace.text.chatting:
                break
            await bench.pilot.press("ctrl+y")
        await bench.pilot.pause()
        assert bench.workspace.text.chatting
        assert "── You ──" in bench.screen()
