"""What a person finds after asking: several, none, or one that begins a new line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fixtures.scripts import Emit, Gate, Say
from fixtures.workspaces import BEGINNING, CONTROLS, STORY, workspace
from qwen_tui.tui.studio import view
from qwen_tui.tui.widgets.branch_tree import rows_of
from qwen_tui.types import Request
from qwen_tui.vocab import Vocab


def sent(bench: Any) -> str:
    """The prompt of the newest request."""
    return b"".join(token.data for token in bench.made[0].requests[-1].prompt).decode()


async def completed(bench: Any) -> None:
    assert bench.work.generate(CONTROLS)
    await bench.settled()


async def test_several_after_accepting_go_on_from_the_text_on_the_screen(vocab: Vocab) -> None:
    async with workspace(vocab, text=BEGINNING) as bench:
        await completed(bench)
        assert bench.work.accept()
        assert bench.work.several(CONTROLS)
        await bench.settled()
        assert bench.buffer.text == sent(bench) == BEGINNING + STORY
        assert len(bench.work.session.completions()) == 4


async def test_several_beside_a_completion_keep_it_among_the_tabs(vocab: Vocab) -> None:
    async with workspace(vocab, text=BEGINNING) as bench:
        await completed(bench)
        assert bench.work.several(CONTROLS)
        await bench.settled()
        assert bench.buffer.text == sent(bench) == BEGINNING
        assert len(view.completion_frame(bench.work).tabs) == 5


async def test_an_edit_is_never_replaced_by_turning_to_another_completion(vocab: Vocab) -> None:
    async with workspace(vocab, text=BEGINNING) as bench:
        await completed(bench)
        assert bench.work.regenerate(CONTROLS)
        await bench.settled()
        assert bench.work.accept()
        bench.buffer.type(" and then my own words")
        edited = bench.buffer.text
        assert not bench.work.text.next()
        assert not bench.work.text.previous()
        assert bench.buffer.text == edited
        assert bench.work.text.commit_typing()
        assert not bench.work.text.next()
        assert not bench.work.text.previous()
        assert bench.buffer.text == edited
        assert not view.completion(bench.work).tokens


async def test_every_move_after_an_edit_is_undone_and_done_again(vocab: Vocab) -> None:
    async with workspace(vocab, text=BEGINNING) as bench:
        await completed(bench)
        await bench.until(lambda: bench.work.regenerate(CONTROLS))
        await bench.settled()
        text = bench.work.text
        for move in (text.next, text.accept, text.parent, text.child, text.parent):
            bench.buffer.type("!")
            edited = bench.buffer.text
            if not move():
                text.undo()
                continue
            there = bench.buffer.text, bench.work.session.head
            seen = [bench.buffer.text]
            while bench.buffer.text != edited and text.undo():
                seen.append(bench.buffer.text)
            assert bench.buffer.text == edited, (move.__name__, seen)
            while (bench.buffer.text, bench.work.session.head) != there and text.redo():
                pass
            assert (bench.buffer.text, bench.work.session.head) == there, move.__name__


async def test_typing_comes_back_after_undo_went_beyond_its_completion(vocab: Vocab) -> None:
    async with workspace(vocab, text=BEGINNING) as bench:
        await completed(bench)
        text = bench.work.text
        bench.buffer.type(" and then")
        bench.buffer.type(" my own words")
        states = []
        for _ in range(3):
            text.undo()
            states.append((bench.buffer.text, text.has_tail))
        assert states == [(BEGINNING + " and then", True), (BEGINNING, True), (BEGINNING, False)]
        while text.redo():
            pass
        assert bench.buffer.text == BEGINNING + " and then my own words"


async def test_typing_that_was_deleted_again_comes_back_by_undo(vocab: Vocab) -> None:
    async with workspace(vocab, text=BEGINNING) as bench:
        await completed(bench)
        bench.buffer.type(" my own words")
        bench.buffer.replace_all(BEGINNING)
        assert not bench.work.text.undo()
        assert bench.buffer.text == BEGINNING + " my own words"


async def test_an_end_of_text_at_once_is_said_and_leaves_no_tabs(vocab: Vocab) -> None:
    async with workspace(vocab, (), text=BEGINNING) as bench:
        for _ in range(3):
            await completed(bench)
            frame = view.completion_frame(bench.work)
            assert "The model ends the text here" in frame.hint
            assert len(frame.tabs) == 1
        session = bench.work.session
        assert len(rows_of(session.tree, session.head.node)) == 2


async def test_an_end_of_text_at_once_is_said_in_the_title_inline(vocab: Vocab) -> None:
    async with workspace(vocab, (), text=BEGINNING) as bench:
        bench.work.inline = True
        await completed(bench)
        title = view.document_title(bench.work, view.completion_frame(bench.work))
        assert "The model ends the text here" in title


async def test_of_several_the_first_that_says_something_is_shown(vocab: Vocab) -> None:
    def script(_request: Request, branch: int) -> tuple[Any, ...]:
        return (Say(STORY),) if branch == 2 else ()

    async with workspace(vocab, script, text=BEGINNING) as bench:
        assert bench.work.several(CONTROLS)
        await bench.settled()
        assert bench.completion.startswith(STORY)
        assert len(view.completion_frame(bench.work).tabs) == 1


async def test_stopping_before_the_first_token_leaves_the_completion_there_was(
    vocab: Vocab,
) -> None:
    gate = Gate()
    scripts = iter([(Say(STORY),), (Say(" never", gate=gate),)])
    async with workspace(vocab, lambda _request, _branch: next(scripts), text=BEGINNING) as bench:
        await completed(bench)
        assert bench.work.regenerate(CONTROLS)
        await bench.until(lambda: bench.work.completer.running)
        bench.work.stop()
        gate.open()
        await bench.settled()
        assert bench.completion.startswith(STORY)
        assert len(view.completion_frame(bench.work).tabs) == 1


async def test_stopping_the_first_completion_before_its_first_token_says_so(vocab: Vocab) -> None:
    gate = Gate()
    async with workspace(vocab, (Say(STORY, gate=gate),), text=BEGINNING) as bench:
        assert bench.work.generate(CONTROLS)
        await bench.until(lambda: bench.work.completer.running)
        bench.work.stop()
        gate.open()
        await bench.settled()
        frame = view.completion_frame(bench.work)
        assert "Stopped before the first token." in frame.hint
        assert len(frame.tabs) == 1


async def test_a_file_that_ends_in_a_line_end_says_so_once_and_its_line_is_continued(
    vocab: Vocab, tmp_path: Path
) -> None:
    file = tmp_path / "story.txt"
    async with workspace(vocab, text=BEGINNING + "\n\n", file=file) as bench:
        await completed(bench)
        said = [each.text for each in bench.told if "<continue_line>" in each.text]
        assert len(said) == 1
        assert sent(bench) == BEGINNING + "\n\n"
        assert bench.work.continue_line(CONTROLS)
        await bench.settled()
        assert sent(bench) == bench.buffer.text == BEGINNING
        assert bench.completion.startswith(STORY)
        await completed(bench)
        assert len([each for each in bench.told if "<continue_line>" in each.text]) == 1


async def test_what_is_written_says_that_the_completion_is_not_part_of_it(
    vocab: Vocab, tmp_path: Path
) -> None:
    async with workspace(vocab, (Emit(()), Say(STORY)), text=BEGINNING) as bench:
        await completed(bench)
        assert bench.work.save_text(tmp_path / "story.txt")
        assert bench.told[-1].text.endswith(" without the completion; <accept> accepts it.")
        assert bench.work.accept()
        assert bench.work.save_text(tmp_path / "story.txt")
        assert bench.told[-1].text == f"Wrote {len(BEGINNING + STORY)} characters to story.txt."
