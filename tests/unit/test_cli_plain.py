"""The line-mode workbench: lines in, text out, nothing painted over."""

from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path

import pytest

from fixtures.scripts import End, Gate, Say, Script, Scripted, gated
from qwen_tui import settings
from qwen_tui.cli.line_mode import LineMode
from qwen_tui.cli.stdout import Output
from qwen_tui.session.session import Session


class Bench:
    """A workbench over a script, with what it wrote."""

    def __init__(self, script: Script, lines: str, *, context: int = 4096, **flags: object) -> None:
        self.session = Session.new()
        self.backend = Scripted(script, context=context)
        self.stream = io.BytesIO()
        chosen = settings.load({"max_tokens": 20, **flags})
        self.bench = LineMode(
            chosen,
            self.session,
            lambda chosen, reporter: self.backend,
            lines=io.StringIO(lines),
            output=Output(self.stream, "it", shown=True),
        )
        self.code = self.bench.run()

    @property
    def said(self) -> str:
        return self.stream.getvalue().decode()


def test_lines_become_text_and_a_colon_goes_on() -> None:
    bench = Bench([Say(" was a fox."), End("length")], "Once\nthere\n:\n")
    assert bench.code == 0
    assert bench.session.text == "Once\nthere was a fox."
    assert bench.said.splitlines()[1:] == [" was a fox."]
    assert bench.backend.closed


def test_typing_after_the_model_goes_straight_on() -> None:
    bench = Bench([Say(" fox")], "A\n:\n and more\nnext\n::not a command\n:show\n")
    assert bench.session.text == "A fox and more\nnext\n:not a command"
    assert bench.said.endswith("A fox and more\nnext\n:not a command\n")


def test_another_completion_keeps_the_first() -> None:
    answers = iter([" one", " two"])
    bench = Bench(lambda request, branch: [Say(next(answers))], "Say\n:\n:again\n:undo\n:undo\n")
    texts = {node.tokens[0].data for node in bench.session.tree.nodes.values() if node.tokens}
    assert {b" one", b" two"} <= texts


def test_tokens_tell_what_they_beat() -> None:
    bench = Bench([Say(" fox")], "A\n:\n:tokens\n")
    assert '60% " fox"   not 20% " the", 10% " a"' in bench.said


def test_values_are_set_checked_and_sent(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ":set temp 0.25\n:set top-k 7\n:set min_p 9\n:n 3\n:n many\n:wat\nA\n:\n"
    bench = Bench([Say(" b c d e f")], lines)
    sent = bench.backend.requests[0]
    assert (sent.sampling.temperature, sent.sampling.top_k, sent.max_tokens) == (0.25, 7, 3)
    assert sent.sampling.min_p == 0.05
    err = capsys.readouterr().err
    for part in ("min-p goes from", "whole number", "no command :wat"):
        assert part in err


def test_the_text_is_written_into_a_file(tmp_path: Path) -> None:
    place = tmp_path / "text.txt"
    Bench([Say(" fox")], f"A\n:\n:write {place}\n:title My text\n")
    assert place.read_text() == "A fox"


def test_control_characters_of_the_model_are_shown_not_executed() -> None:
    bench = Bench([Say(" \x1b[2J")], "A\n:\n")
    assert "\x1b" not in bench.said
    assert "␛[2J" in bench.said


def test_ctrl_c_stops_and_keeps_what_came() -> None:
    gate = Gate()
    gate.allow(2)

    def interrupt() -> None:
        while not gate.waited_at:
            pass
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    bench = Bench(gated(" one two three", gate), "Count\n:\n")
    assert bench.session.text == "Count one two"
    assert bench.code == 0


def test_stop_strings_and_shortening_count_here_too(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = {"stop": ["###"], "ignore_eos": True, "truncate": "left"}
    bench = Bench([Say(" end")], "word " * 60 + "\n:\n", context=40, **chosen)
    asked = bench.backend.requests[0]
    assert (asked.stop, asked.ignore_eos) == (("###",), True)
    assert len(asked.prompt) + asked.max_tokens <= 40
    assert "tokens dropped from the beginning" in capsys.readouterr().err
