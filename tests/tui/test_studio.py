"""Writing in the studio: what a person presses, and what then stands on the screen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.widgets import OptionList

from fixtures.checkpoints import BOS, special_ids, with_bos
from fixtures.scripts import Gate, Say
from fixtures.tokenizers import build_tokenizer
from qwen_tui.settings import Settings
from qwen_tui.tui.recent_models import recent_models
from qwen_tui.tui.screens.models import Models
from qwen_tui.tui.widgets.tabs import SiblingTabs
from qwen_tui.types import NO_INPUT, Progress, Sampling, Trouble
from qwen_tui.vocab import Vocab

Studio = Callable[..., Any]
STORY = " there was a king who had a golden ball and a well"
BEGINNING = "In olden times"


async def test_the_completion_streams_token_by_token(studio: Studio) -> None:
    async with studio(gated=True, text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        bench.gate.allow(1)
        await bench.until(lambda: bench.output == " there", "the first token")
        bench.gate.allow(2)
        await bench.until(lambda: bench.output == " there was a", "three tokens")
        assert bench.document == BEGINNING
        assert "there was a" in bench.screen()
        assert bench.made[0].requests[0].prompt


async def test_exactly_what_was_typed_is_sent(studio: Studio) -> None:
    async with studio() as bench:
        await bench.ready()
        await bench.type("  Two lines\nand a bit ")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        sent = b"".join(token.data for token in bench.made[0].requests[0].prompt)
        assert sent.decode() == "  Two lines\nand a bit "


async def test_enter_never_submits(studio: Studio) -> None:
    async with studio() as bench:
        await bench.ready()
        await bench.type("a\n\nb")
        assert bench.document == "a\n\nb"
        assert bench.made[0].requests == []


@pytest.mark.parametrize("key", ["ctrl+j", "f5", "ctrl+enter", "ctrl+@", "ctrl+\r"])
async def test_every_key_that_continues(studio: Studio, key: str) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press(key)
        await bench.settled()
        assert bench.output.startswith(" there was a king")


async def test_escape_stops_and_keeps_the_text(studio: Studio) -> None:
    async with studio(gated=True, text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        bench.gate.allow(3)
        await bench.until(lambda: bench.output == " there was a")
        await bench.pilot.press("escape")
        await bench.settled()
        assert bench.output == " there was a"
        assert "stopped" in bench.screen()


async def test_ctrl_c_stops_where_nothing_is_selected(studio: Studio) -> None:
    async with studio(gated=True, text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        bench.gate.allow(1)
        await bench.until(lambda: bench.output == " there")
        await bench.pilot.press("ctrl+c")
        await bench.settled()
        assert bench.output == " there"


async def test_typing_while_it_streams_neither_stops_nor_changes_the_stream(
    studio: Studio,
) -> None:
    async with studio(gated=True, text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        bench.gate.allow(1)
        await bench.until(lambda: bench.output == " there")
        await bench.type(" long ago")
        assert bench.workspace.completer.running
        bench.gate.open()
        await bench.settled()
        assert bench.output.startswith(" there was a king who had a golden ball")
        assert bench.document == BEGINNING + " long ago"
        assert len(bench.made[0].requests) == 1


async def test_keys_that_come_in_one_burst_keep_their_order(studio: Studio) -> None:
    """As a terminal multiplexer, a slow line or a loading program delivers them."""

    def sent(request: int) -> str:
        return b"".join(token.data for token in bench.made[0].requests[request].prompt).decode()

    def asked(count: int) -> Callable[[], bool]:
        return lambda: bool(bench.made) and len(bench.made[0].requests) == count

    async with studio() as bench:
        await bench.ready()
        for key in (*"Once", "space", *"upon", "ctrl+j"):
            character = " " if key == "space" else key if len(key) == 1 else None
            bench.app.post_message(events.Key(key, character))
        await bench.until(asked(1), "the first request")
        assert sent(0) == "Once upon"
        await bench.settled()
        for key in ("tab", "!", "?", "ctrl+j"):
            bench.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await bench.until(asked(2), "the second request")
        assert sent(1) == f"Once upon{STORY}!?"


async def test_tab_accepts_and_continuing_goes_on_after_it(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("tab")
        whole = BEGINNING + " there was a king who had a golden ball and a well"
        assert bench.document == whole
        assert bench.output == ""
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        sent = b"".join(token.data for token in bench.made[0].requests[1].prompt).decode()
        assert sent == whole


async def test_continuing_accepts_what_stands_there(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert bench.document.endswith("golden ball and a well")
        assert bench.output.startswith(" there was")


async def test_what_was_accepted_keeps_its_colours_and_typing_has_none(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("tab")
        coloured = bench.editor.get_line(0).spans
        assert coloured
        assert min(span.start for span in coloured) >= len(BEGINNING)
        await bench.pilot.press("alt+c")
        assert not bench.editor.get_line(0).spans
        await bench.pilot.press("alt+c")
        assert bench.editor.get_line(0).spans == coloured


async def test_tab_moves_the_focus_where_there_is_nothing_to_accept(studio: Studio) -> None:
    async with studio(text=BEGINNING, settings=replace(Settings(), tab="focus")) as bench:
        await bench.ready()
        before = bench.app.focused
        await bench.pilot.press("tab")
        assert bench.app.focused is not before
        assert bench.document == BEGINNING


async def test_what_was_written_for_another_text_is_dim_and_says_so(studio: Studio) -> None:
    def first_word() -> Any:
        row = bench.pane.render_line(0)
        return next(s.style.clear_meta_and_links() for s in row if s.text.strip())

    async with studio((Say("a king who", logprob=-3.0),), text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert "─ Completion ─" in bench.screen()
        coloured = first_word()
        output = bench.pane
        dim = output.rich_style + output.heat.palette.context
        assert coloured != dim
        await bench.pilot.press("x")
        await bench.until(lambda: "─ Completion of the text before the edit ─" in bench.screen())
        assert first_word() == dim
        await bench.pilot.press("backspace")
        await bench.until(lambda: "─ Completion ─" in bench.screen(), "the edit is taken back")
        assert first_word() == coloured
        await bench.pilot.press("x", "ctrl+j")
        await bench.settled()
        assert "─ Completion ─" in bench.screen()


async def test_a_word_can_be_accepted_at_a_time(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("ctrl+right", "ctrl+right")
        assert bench.document == BEGINNING + " there was"
        assert bench.output.startswith(" a king")


async def test_undo_takes_back_typing_first_and_then_steps(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("tab")
        accepted = bench.document
        await bench.type("!")
        await bench.pilot.press("ctrl+z")
        assert bench.document == accepted
        await bench.pilot.press("ctrl+z")
        assert bench.document == BEGINNING
        assert bench.output.startswith(" there was")
        await bench.pilot.press("ctrl+y")
        assert bench.document == accepted


async def test_regenerating_keeps_the_old_one_as_a_sibling(studio: Studio) -> None:
    chosen = replace(Settings(), sampling=Sampling(seed=7))
    async with studio(text=BEGINNING, settings=chosen) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("ctrl+r")
        await bench.settled()
        assert "2 of 2" in bench.screen()
        assert [request.sampling.seed for request in bench.made[0].requests] == [7, 8]
        await bench.pilot.press("alt+up")
        assert "1 of 2" in bench.screen()
        await bench.pilot.press("alt+down")
        assert "2 of 2" in bench.screen()


async def test_an_accepted_completion_can_be_asked_for_again(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("tab", "ctrl+r")
        await bench.settled()
        assert bench.document == BEGINNING
        assert not bench.workspace.text.dirty
        assert "2 of 2" in bench.screen()


async def test_several_completions_at_once_are_tabs(studio: Studio) -> None:
    def script(_request: object, branch: int) -> tuple[Say, ...]:
        return (Say(f" road number {branch}"),)

    async with studio(script, text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+g")
        await bench.settled()
        assert "1 of 4" in bench.screen()
        assert bench.output.startswith(" road number 0")
        await bench.pilot.press("alt+down", "alt+down")
        assert bench.output.startswith(" road number 2")
        await bench.pilot.press("tab")
        assert bench.document == BEGINNING + " road number 2"


async def test_several_completions_of_which_none_is_shown_say_so(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+g")
        await bench.settled()
        assert "Completion 1 of 4" in bench.screen()
        node, at = bench.session.tree.resolve(*bench.session.head)
        bench.studio.move(bench.workspace.text.go, node, at)
        await bench.until(lambda: "4 completions, none shown" in bench.screen())
        assert bench.output == ""
        tabs = bench.studio.query_one(SiblingTabs)
        assert len({s.style for s in tabs.render_line(0) if s.text.strip()}) == 1
        await bench.pilot.press("alt+down")
        await bench.until(lambda: "Completion 1 of 4" in bench.screen())


async def test_the_inspector_takes_another_token_and_goes_on_at_once(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("ctrl+t", "right", "right")
        assert bench.pane.cursor == 2
        assert bench.studio.panes.alternatives.list.token.data == b" a"
        await bench.pilot.press("down", "enter")
        await bench.settled()
        requests = bench.made[0].requests
        assert len(requests) == 2
        assert bench.document.startswith(BEGINNING + " there was ")
        assert bench.document != BEGINNING + " there was a"
        assert bench.output.startswith(" there was a king")
        for _ in range(3):
            await bench.pilot.press("ctrl+z")
        assert bench.document == BEGINNING


async def test_the_old_road_is_still_there_after_taking_another(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        old = bench.session.head.node
        await bench.pilot.press("ctrl+t", "right", "down", "enter")
        await bench.settled()
        assert bench.session.head.node != old
        assert bench.session.tree[old].tokens[2].data == b" a"
        await bench.pilot.press("alt+r")
        await bench.pilot.pause()
        assert "there was a king" in bench.screen()


async def test_parent_and_child_walk_the_road(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("tab", "f9", "alt+left")
        assert bench.document == BEGINNING
        await bench.pilot.press("alt+right")
        assert bench.document.endswith("and a well")


async def test_typing_that_waits_is_kept_as_a_road_when_the_head_moves(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("ctrl+r")
        await bench.settled()
        await bench.type(" precious")
        await bench.pilot.press("alt+up")
        kept = [node for node in bench.session.tree.nodes.values() if node.source == "user"]
        texts = [b"".join(token.data for token in node.tokens) for node in kept]
        assert any(b"precious" in text for text in texts)


# -- the model comes later -------------------------------------------------------------------------


async def test_typing_works_and_continuing_waits_while_the_model_loads(studio: Studio) -> None:
    gate = Gate()
    loading = (Progress("load", 1_200_000_000, 4_700_000_000), gate)
    async with studio(loading=loading) as bench:
        await bench.until(lambda: bench.session.vocab is not None)
        await bench.type("Hello")
        assert bench.document == "Hello"
        await bench.pilot.press("ctrl+j")
        assert bench.workspace.completer.waiting
        await bench.until(lambda: "1.2 GB" in bench.screen(), "the progress in bytes")
        assert "queued" in bench.screen()
        gate.open()
        await bench.until(lambda: bench.output.startswith(" there was"), "the completion")
        assert not bench.workspace.completer.waiting


async def test_what_waits_can_be_stopped(studio: Studio) -> None:
    gate = Gate()
    async with studio(loading=(gate,), text=BEGINNING) as bench:
        await bench.until(lambda: bench.session.vocab is not None)
        await bench.pilot.press("ctrl+j")
        assert bench.workspace.completer.waiting
        await bench.pilot.press("escape")
        assert not bench.workspace.completer.waiting
        gate.open()
        await bench.ready()
        assert bench.made[0].requests == []


async def test_a_model_that_cannot_be_loaded_is_named_and_the_rest_goes_on(studio: Studio) -> None:
    trouble = Trouble("the weights are broken", hint="fetch them again")
    async with studio(loading=(trouble,)) as bench:
        await bench.until(lambda: "the weights are broken" in bench.screen())
        assert "fetch them again" in bench.screen()
        await bench.type("still here")
        assert bench.document == "still here"
        assert "the weights are broken" in bench.screen()
        await bench.pilot.press("escape")
        assert "the weights are broken" not in bench.screen()


async def test_a_missing_model_opens_the_chooser_once(studio: Studio) -> None:
    def missing(_settings: Settings) -> None:
        raise Trouble("Qwen2.5-7B is not on this disk", code=NO_INPUT)

    async with studio(vocab_of=missing) as bench:
        await bench.until(lambda: isinstance(bench.app.screen, Models))
        await bench.pilot.pause()
        assert bench.app.screen.query_one(OptionList).option_count > 4
        await bench.pilot.press("escape")
        assert not isinstance(bench.app.screen, Models)
        assert "not on this disk" in bench.screen()


async def test_what_was_asked_of_a_missing_model_is_done_by_the_one_that_is_chosen(
    studio: Studio, vocab: Vocab, tmp_path: Path
) -> None:
    def here(settings: Settings) -> Vocab:
        if settings.model != str(tmp_path):
            raise Trouble("Qwen2.5-7B is not on this disk", code=NO_INPUT)
        return vocab

    async with studio(vocab_of=here) as bench:
        await bench.until(lambda: isinstance(bench.app.screen, Models))
        await bench.pilot.press("escape")
        await bench.type("Once")
        await bench.pilot.press("ctrl+j")
        await bench.until(lambda: not bench.workspace.completer.waiting)
        await bench.pilot.press("f8")
        await bench.until(lambda: isinstance(bench.app.screen, Models))
        bench.app.screen.dismiss(str(tmp_path))
        await bench.until(lambda: bench.output.startswith(" there was"), "the completion")
        assert bench.document == "Once"


async def test_the_folder_that_a_person_began_with_can_be_chosen_again(
    studio: Studio, tmp_path: Path
) -> None:
    settings = replace(Settings(), model=str(tmp_path))
    async with studio(save=True, settings=settings) as bench:
        await bench.ready()
        await bench.pilot.press("f8")
        await bench.until(lambda: isinstance(bench.app.screen, Models))
        assert recent_models() == [str(tmp_path)]


async def test_another_model_is_opened_without_the_draft_of_the_last(
    studio: Studio, tmp_path: Path
) -> None:
    async with studio() as bench:
        await bench.ready()
        first = replace(bench.workspace.settings, draft="small")
        for model, draft in ((first.model, "small"), (str(tmp_path), "")):
            bench.workspace.settings = first
            await bench.pilot.press("f8")
            await bench.until(lambda: isinstance(bench.app.screen, Models))
            bench.app.screen.dismiss(model)
            await bench.until(lambda: bench.workspace.settings is not first, "the other model")
            assert (bench.workspace.settings.model, bench.workspace.settings.draft) == (
                model,
                draft,
            )


async def test_a_generation_that_fails_says_why_and_keeps_what_came(studio: Studio) -> None:
    from fixtures.scripts import End

    script = (Say(" so far"), End("oom", "out of memory", "try --quant nf4"))
    async with studio(script, text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert bench.output == " so far"
        assert "out of memory" in bench.screen()
        assert "try --quant nf4" in bench.screen()


async def test_a_text_that_does_not_fit_is_refused_with_the_numbers(studio: Studio) -> None:
    async with studio(text="word " * 50, context=16) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.pilot.pause()
        assert "context of 16" in bench.screen()
        assert bench.made[0].requests == []
        assert bench.document == "word " * 50
        assert "Shorten long prompts" in bench.screen()


async def test_a_text_that_does_not_fit_is_shortened_when_one_says_so(studio: Studio) -> None:
    async with studio(text="word " * 50, context=16) as bench:
        await bench.ready()
        await bench.pilot.press("alt+l")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        (request,) = bench.made[0].requests
        assert len(request.prompt) < 16
        assert b"".join(token.data for token in request.prompt).endswith(b"word ")
        assert "dropped from the beginning" in bench.screen()
        assert bench.document.startswith("word " * 50)


async def test_one_key_shows_everything_once(studio: Studio) -> None:
    async with studio(text=BEGINNING, gated=True) as bench:
        await bench.ready()
        shows: list[int] = []
        show = bench.studio.panes.show
        bench.studio.panes.show = lambda work: (shows.append(1), show(work))
        for key in ("ctrl+j", "ctrl+right", "ctrl+z", "alt+c", "alt+i", "alt+i"):
            shows.clear()
            await bench.pilot.press(key)
            assert len(shows) == 1, key
            bench.gate.allow(1)
            await bench.until(lambda: bench.gate.waited_at, "the model at its next token")
        shows.clear()
        bench.gate.open()
        await bench.settled()
        assert len(shows) == 1, "tokens are painted as what grew; only the end shows everything"


# -- what is shown ---------------------------------------------------------------------------------


async def test_the_context_meter_counts_as_one_types(studio: Studio) -> None:
    async with studio() as bench:
        await bench.ready()
        await bench.until(lambda: "0 / 4,096" in bench.screen())
        await bench.type("Hello world")
        count = len(bench.session.vocab.encode("Hello world"))
        await bench.until(lambda: f"{count} / 4,096" in bench.screen(), "the count")


async def test_the_keys_that_work_right_now_are_shown(studio: Studio) -> None:
    async with studio(gated=True, text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.pause()
        last = bench.screen().splitlines()[-1]
        assert "Continue" in last
        assert "Stop" not in last
        assert "Accept" not in last
        await bench.pilot.press("ctrl+j")
        bench.gate.allow(1)
        await bench.until(lambda: "Stop" in bench.screen().splitlines()[-1])
        bench.gate.open()
        await bench.settled()
        await bench.until(lambda: "Stop" not in bench.screen().splitlines()[-1])
        assert "Accept" in bench.screen().splitlines()[-1]


async def test_the_seed_that_was_used_is_shown(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        seed = bench.made[0].requests[0].sampling.seed
        assert f"seed {seed}" in bench.screen()
        await bench.pilot.press("alt+s")
        assert bench.sampling.controls.sampling.seed == seed


async def test_hostile_text_is_shown_and_never_executed(studio: Studio) -> None:
    script = (Say("\x1b[31mred \x9b1m [bold]no[/bold] [@click=app.bell]x[/] \u202eabc"),)
    async with studio(script, text="[/nope] \x1b]0;title\x07") as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("ctrl+t")
        shown = bench.screen()
        assert not {c for c in shown if c in "\x1b\x9b\u202e\x07"}
        assert "[bold]no[/bold]" in shown
        assert "[/nope]" in shown
        assert "\x1b" in bench.output


async def test_colours_can_be_switched_off_and_themes_on_the_way(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert "rarer" in bench.screen()
        await bench.pilot.press("alt+c")
        assert "rarer" not in bench.screen()
        before = bench.app.theme
        heat = bench.pane.heat
        await bench.pilot.press("alt+t")
        await bench.pilot.pause()
        assert bench.app.theme != before
        assert bench.pane.heat is not heat


async def test_a_selection_is_copied_without_its_controls(studio: Studio) -> None:
    async with studio(text="ab\x1bcd") as bench:
        await bench.ready()
        bench.editor.select(0, 5)
        await bench.pilot.press("ctrl+c")
        assert bench.app.clipboard == "abcd"


async def test_a_person_may_bind_other_keys(studio: Studio) -> None:
    chosen = replace(Settings(), keys={"generate": "f12", "nonsense": "f11"})
    async with studio(text=BEGINNING, settings=chosen) as bench:
        await bench.ready()
        assert any("nonsense" in line for line in bench.app.key_complaints)
        await bench.pilot.press("ctrl+j")
        assert bench.made[0].requests == []
        await bench.pilot.press("f12")
        await bench.settled()
        assert bench.output.startswith(" there was")


async def test_the_palette_runs_any_action(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+p")
        await bench.pilot.pause()
        await bench.type("neutralise")
        await bench.until(lambda: "own distribution" in bench.screen())
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.sampling.controls.sampling.min_p == 0.0)


async def test_a_sampler_is_switched_on_from_the_palette(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        assert "XTC" not in bench.screen()
        await bench.pilot.press("ctrl+p")
        await bench.pilot.pause()
        await bench.type("xtc")
        await bench.until(lambda: "Switch on DRY" in bench.screen())
        await bench.pilot.press("enter")
        await bench.until(lambda: "tail-free" in bench.screen())
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.sampling.controls.sampling.dry_multiplier == 0.8)
        await bench.until(lambda: "DRY allowed" in bench.screen())
        assert bench.sampling.row == "dry_multiplier"


async def test_leaving_while_it_writes_keeps_what_came(studio: Studio) -> None:
    async with studio(gated=True, text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        bench.gate.allow(2)
        await bench.until(lambda: bench.output == " there was")
        await bench.pilot.press("ctrl+q")
        await bench.pilot.pause()
        assert bench.app.return_code == 0
        node = bench.session.tree[bench.session.head.node]
        assert node.reason == "cancelled"
        assert b"".join(token.data for token in node.tokens) == b" there was"


@pytest.mark.parametrize("bos", [True, False])
async def test_a_bos_is_sent_before_the_text_and_the_pane_says_so(
    studio: Studio, tmp_path: Path, bos: bool
) -> None:
    folder = with_bos(build_tokenizer(tmp_path / "bos"))
    vocab = Vocab.load(folder)
    async with studio(
        text=BEGINNING, settings=Settings(bos=bos), vocab_of=lambda _: vocab
    ) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        assert (f"after {BOS}" in bench.screen()) == bos
        sent = bench.made[0].requests[0].prompt
        assert (sent[0].id == special_ids(folder)[BOS]) == bos
        assert b"".join(token.data for token in sent[bos:]).decode() == BEGINNING
        assert bench.document == BEGINNING


# -- undo ------------------------------------------------------------------------------------------


async def test_undo_after_a_generation_takes_typing_back_word_by_word(studio: Studio) -> None:
    async with studio() as bench:
        await bench.ready()
        await bench.type("one two three")
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        seen = []
        for _ in range(4):
            await bench.pilot.press("ctrl+z")
            seen.append((bench.document, bench.output[:6]))
        assert seen == [("one two three", ""), ("one two", ""), ("one", ""), ("", "")]
        for _ in range(4):
            await bench.pilot.press("ctrl+y")
        assert bench.document == "one two three"
        assert bench.output.startswith(" there")


async def test_undo_after_hiding_shows_the_branch_again(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        node = bench.session.head.node
        await bench.pilot.press("alt+r")
        tree = bench.studio.panes.branches.tree_view
        while tree.rows[tree.cursor].node.id != node:
            await bench.pilot.press("down")
        await bench.pilot.press("delete")
        assert bench.session.tree[node].hidden
        assert bench.output == ""
        await bench.pilot.press("escape", "ctrl+z")
        assert not bench.session.tree[node].hidden
        assert bench.output.startswith(" there was")
        assert bench.document == BEGINNING


async def test_typing_left_by_a_move_comes_back_by_undo(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        for key in ("ctrl+j", "ctrl+r"):
            await bench.pilot.press(key)
            await bench.settled()
        await bench.type(" precious")
        await bench.pilot.press("alt+up")
        assert bench.document == BEGINNING
        assert "1 of 2" in bench.screen()
        await bench.pilot.press("ctrl+z", "ctrl+z")
        assert bench.document == BEGINNING + " precious"


async def test_a_new_session_is_typed_in_at_once(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+j")
        await bench.settled()
        await bench.pilot.press("ctrl+t", "ctrl+n")
        await bench.type("Hi")
        assert bench.document == "Hi"


async def test_a_fork_keeps_typing_that_was_not_committed(studio: Studio) -> None:
    async with studio(text=BEGINNING) as bench:
        await bench.ready()
        await bench.pilot.press("ctrl+end")
        await bench.type(" and more")
        old = bench.session
        await bench.pilot.press("alt+k")
        assert bench.session is not old
        assert bench.document == BEGINNING + " and more"
