"""The workspace without a screen: the studio's commands on a plain text and a scripted model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fixtures.scripts import Gate, Say
from fixtures.workspaces import BEGINNING, CONTROLS, STORY, workspace
from qwen_tui.session.opening import OpenSession, new_store, open_session
from qwen_tui.session.session import Session
from qwen_tui.settings import Settings
from qwen_tui.tui.studio import view
from qwen_tui.tui.studio.announcement import Announcement
from qwen_tui.types import NO_INPUT, Abilities, Trouble
from qwen_tui.vocab import Vocab


def test_the_workspace_and_what_is_shown_of_it_know_no_textual() -> None:
    program = (
        "import json, sys\n"
        "import qwen_tui.tui.studio.workspace, qwen_tui.tui.studio.view\n"
        "print(json.dumps([name for name in sys.modules if name.split('.')[0] == 'textual']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert json.loads(done.stdout) == [], done.stderr


async def test_what_was_typed_becomes_the_document_and_the_model_goes_on(vocab: Vocab) -> None:
    async with workspace(vocab) as bench:
        bench.buffer.type(BEGINNING)
        assert bench.work.text.dirty
        assert bench.work.generate(CONTROLS)
        await bench.settled()
        assert bench.work.session.text == BEGINNING
        assert bench.completion.startswith(STORY)
        assert bench.work.text.tentative


async def test_only_the_tokens_of_the_shown_completion_are_handed_on(vocab: Vocab) -> None:
    def script(_request: object, branch: int) -> tuple[Say, ...]:
        return (Say(f" branch {branch}"),)

    async with workspace(vocab, script) as bench:
        bench.buffer.type(BEGINNING)
        assert bench.work.several(CONTROLS)
        await bench.settled()
        assert len(bench.work.session.completions()) == 4
        assert b"".join(t.data for t in bench.grown).decode() == bench.completion
        assert bench.completion.startswith(" branch 0")


async def test_going_on_while_it_writes_says_which_keys_help(vocab: Vocab) -> None:
    gate = Gate()
    async with workspace(vocab, (Say(STORY, gate=gate),), text=BEGINNING) as bench:
        assert bench.work.generate(CONTROLS)
        await bench.until(lambda: bench.work.completer.running)
        assert not bench.work.generate(CONTROLS)
        assert bench.told[-1].text == "Still writing. <stop> stops, <regenerate> begins again."
        assert bench.work.stop()
        gate.open()
        await bench.settled()
        assert not bench.work.stop()


async def test_what_is_asked_before_the_model_is_open_waits_for_it(vocab: Vocab) -> None:
    gate = Gate()
    async with workspace(vocab, loading=(gate,), ready=False) as bench:
        bench.buffer.type(BEGINNING)
        assert bench.work.generate(CONTROLS)
        assert bench.work.completer.waiting
        assert "queued" in view.facts(bench.work, 0).state
        gate.open()
        await bench.until(lambda: bench.completion.startswith(STORY))
        assert bench.work.session.text == BEGINNING


async def test_a_model_that_is_missing_is_offered_again_once_and_the_asking_is_kept(
    vocab: Vocab,
) -> None:
    def missing(settings: Settings) -> Vocab:
        if settings.model != "another":
            raise Trouble("it is not on this disk", code=NO_INPUT)
        return vocab

    async with workspace(vocab, vocab_of=missing, ready=False) as bench:
        bench.buffer.type(BEGINNING)
        bench.work.generate(CONTROLS)
        await bench.until(lambda: any(each.offer == "models" for each in bench.told))
        assert "<models> chooses another model" in bench.told[-1].hint
        assert sum(each.offer == "models" for each in bench.told) == 1
        bench.work.use_model("another")
        await bench.until(lambda: bench.completion.startswith(STORY))
        assert bench.work.session.text == BEGINNING


async def test_moves_put_the_document_into_the_buffer_and_keep_typing_as_a_branch(
    vocab: Vocab,
) -> None:
    async with workspace(vocab, text=BEGINNING) as bench:
        text = bench.work.text
        bench.work.generate(CONTROLS)
        await bench.settled()
        assert text.accept_word()
        assert bench.buffer.text == f"{BEGINNING} there"
        assert text.accept()
        assert bench.buffer.text == f"{BEGINNING}{STORY}"
        bench.buffer.type(" of old")
        assert text.parent()
        assert bench.buffer.text == BEGINNING
        nodes = bench.work.session.tree.nodes.values()
        assert any(b"of old" in b"".join(t.data for t in node.tokens) for node in nodes)


async def test_undo_takes_back_typing_first_and_then_the_head(vocab: Vocab) -> None:
    async with workspace(vocab, text=BEGINNING) as bench:
        bench.work.generate(CONTROLS)
        await bench.settled()
        bench.work.text.accept()
        bench.buffer.type("!")
        assert not bench.work.text.undo()  # the head stays
        assert bench.buffer.text == f"{BEGINNING}{STORY}"
        assert bench.work.text.undo()
        assert bench.buffer.text == BEGINNING
        assert bench.work.text.redo()
        assert bench.buffer.text == f"{BEGINNING}{STORY}"


async def test_another_token_is_taken_and_gone_on_from(vocab: Vocab) -> None:
    async with workspace(vocab, text=BEGINNING) as bench:
        bench.work.generate(CONTROLS)
        await bench.settled()
        other = view.completion(bench.work).tokens[1].choices[1].data.decode()
        assert bench.work.take_alternative(1, 1, CONTROLS)
        await bench.settled()
        assert bench.buffer.text == f"{BEGINNING} there{other}"
        assert not bench.work.take_alternative(500, 0, CONTROLS)
        assert bench.told[-1].text == "that token is gone"


async def test_a_session_that_cannot_be_written_is_offered_as_a_fork(
    vocab: Vocab, tmp_path: Path
) -> None:
    session = Session.new()
    store = new_store(session, tmp_path)
    session.commit("Their text")
    store.flush(2.0)
    try:
        async with workspace(vocab, opened=open_session(store.path)) as bench:
            assert bench.told[0].kind == "mild"
            assert not bench.work.generate(CONTROLS)
            assert bench.told[-1].offer == "fork"
            session.commit("Their text goes on")
            store.flush(2.0)
            assert bench.work.poll()
            assert bench.buffer.text == "Their text goes on"
            bench.work.fork()
            assert bench.buffer.text == "Their text goes on"
            assert bench.work.generate(CONTROLS)
    finally:
        store.close()


async def test_a_model_that_completes_one_at_a_time_says_so(vocab: Vocab) -> None:
    able = Abilities(choices=10, score=True, branches=False, token_ids=True)
    async with workspace(vocab, text=BEGINNING, abilities=able) as bench:
        assert bench.work.several(CONTROLS)
        await bench.settled()
        assert "one at a time" in bench.told[-1].text
        assert len(bench.work.session.completions()) == 1


async def test_the_frame_says_which_completion_it_is_and_whether_the_text_was_edited_since(
    vocab: Vocab,
) -> None:
    async with workspace(vocab, text=BEGINNING) as bench:
        assert view.completion_frame(bench.work).hint == view.NOTHING_YET
        bench.work.generate(CONTROLS)
        await bench.settled()
        bench.work.regenerate(CONTROLS)
        await bench.settled()
        frame = view.completion_frame(bench.work)
        assert (frame.title, len(frame.tabs), frame.shown) == ("Completion 2 of 2", 2, 1)
        bench.buffer.type("!")
        frame = view.completion_frame(bench.work)
        assert frame.stale
        assert frame.title.endswith("of the text before the edit")
        assert view.document_title(bench.work, frame) == "Untitled ✎"


async def test_inline_the_title_tells_how_the_completion_stands(vocab: Vocab) -> None:
    settings = replace(Settings(), layout="inline")
    async with workspace(vocab, text=BEGINNING, settings=settings) as bench:
        bench.work.generate(CONTROLS)
        await bench.settled()
        assert view.stands_inline(bench.work)
        assert view.inline_count(bench.work) == len(view.completion(bench.work).tokens) - 1
        title = view.document_title(bench.work, view.completion_frame(bench.work))
        assert title == "Untitled · Completion ■ eos"
        bench.work.leave_inline(30)
        assert "More than 30 characters" in bench.told[-1].text
        assert not view.stands_inline(bench.work)


async def test_another_session_begins_empty_and_the_old_one_is_let_go(
    vocab: Vocab, tmp_path: Path
) -> None:
    session = Session.new()
    store = new_store(session, tmp_path)
    async with workspace(vocab, opened=OpenSession(session, store), text=BEGINNING) as bench:
        bench.buffer.type(" unsent")
        assert bench.work.open(None)
        assert bench.buffer.text == ""
        await bench.until(lambda: not bench.work._tasks)
        assert bench.work.open(store.path)
        assert bench.buffer.text == f"{BEGINNING} unsent"
        assert bench.work.text.dirty
        assert not bench.work.open(tmp_path / "missing.jsonl")
        assert bench.told[-1].kind == "trouble"


async def test_the_text_is_written_to_its_file_whose_name_the_session_bears(
    vocab: Vocab, tmp_path: Path
) -> None:
    async with workspace(vocab, text=BEGINNING) as bench:
        place = tmp_path / "story.txt"
        assert bench.work.save_text(place)
        assert place.read_text() == BEGINNING
        assert bench.work.session.title == "story.txt"
        assert bench.told[-1].text == "Wrote 14 characters to story.txt."
        assert not bench.work.text_file.changed
        place.write_text("somebody else's")
        assert bench.work.text_file.changed
        assert not bench.work.save_text(tmp_path / "no" / "folder.txt")
        assert bench.told[-1].kind == "trouble"
        assert bench.work.text_file.path == place


def shown(told: Sequence[Announcement]) -> list[str]:
    return [each.text for each in told if each.text]


async def test_a_long_prompt_is_refused_and_shortened_where_one_says_so(vocab: Vocab) -> None:
    async with workspace(vocab, text="word " * 50, context=16) as bench:
        bench.work.generate(CONTROLS)
        assert "context of 16" in shown(bench.told)[-1]
        bench.work.shorten()
        assert "the end is sent" in shown(bench.told)[-1]
        bench.work.generate(CONTROLS)
        await bench.settled()
        assert "dropped from the beginning" in shown(bench.told)[-1]
