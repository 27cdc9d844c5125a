"""Verifying a replay: the right prompt, the largest difference, and what of the machine changed."""

from __future__ import annotations

import dataclasses
import random
import threading

import pytest

from fixtures.scripts import Say, Scripted
from qwen_tui import context_window
from qwen_tui.cli.stderr import Reporter
from qwen_tui.cli.verify import compare, differences, print_verdict, stored, tolerance
from qwen_tui.journal import ids_sha256
from qwen_tui.session.session import Session
from qwen_tui.types import Added, Environment, Happened, Sampling, Scored, Started, Token

THEN = Environment("a", "local", {"repo": "Q", "commit": "1"}, "bf16", "none", vers={"torch": "2"})


@pytest.mark.parametrize("side", [None, "left", "middle"])
def test_the_prompt_is_found_again_however_it_was_cut(side: context_window.Truncate | None) -> None:
    numbers = random.Random(7)
    tokens = tuple(Token(n, numbers.choice([b" a", b"\xc3", b"\xa9", b"xyz"])) for n in range(100))
    context = 40 if side else 400
    prompt, _ = context_window.fit(tokens, 5, context, side, True)
    session = Session.new()
    session.apply(Added("root", None, 0, "user", tokens=tokens))
    session.apply(Added("said", "root", 100, "model"))
    known = {"n": len(prompt), "sha256": ids_sha256(prompt)}
    session.apply(Started("gen", ("said",), "", known, {}))
    assert session.generations["gen"].prompt(tokens) == prompt
    session.generations["gen"].started.prompt["sha256"] = "0"  # type: ignore[index]
    assert session.generations["gen"].prompt(tokens) is None


class Off(Scripted):
    """Scores one place `by` away from what it said."""

    def __init__(self, place: int, by: float) -> None:
        super().__init__([Say(" b c d")])
        self.place = place
        self.by = by

    def stream(self, request, cancel):  # type: ignore[no-untyped-def]
        for event in super().stream(request, cancel):
            if isinstance(event, Scored):
                tokens = list(event.tokens)
                found = tokens[self.place]
                tokens[self.place] = dataclasses.replace(found, logprob=found.logprob + self.by)
                event = Scored(event.start, tuple(tokens))
            yield event


def saved() -> Session:
    """A session with token ids whose completion was surprising nowhere."""
    session = Session.new()
    backend = Scripted([Say(" b c d")])
    session.apply(Added("root", None, 0, "user", tokens=(Token(1, b"A"), Token(2, b" z"))))
    session.go("root")
    request = session.request(Sampling(seed=1))
    generation, _ = session.start(request, backend.environment)
    for event in backend.stream(request, threading.Event()):
        session.happen(generation, event)
    return session


def test_the_largest_difference_is_named_with_its_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = saved()
    reporter = Reporter(quiet=True)
    completions = list(stored(session, reporter))
    backend = Off(place=4, by=-0.75)
    worst, count = compare(session, completions, backend, reporter, threading.Event())
    assert worst is not None
    assert (count, worst.index) == (4, 2)
    assert worst.delta == pytest.approx(0.75)
    assert print_verdict(worst, count, THEN) == 1
    out = capsys.readouterr().out
    assert out.startswith("different: tolerance 0.25 for bf16")
    assert "at token 2 ' d'" in out
    same, _ = compare(session, completions, Off(4, 0.1), reporter, threading.Event())
    assert print_verdict(same, 4, THEN) == 0


def test_quantised_weights_are_given_more_room() -> None:
    assert tolerance(dataclasses.replace(THEN, dtype="fp32")) < tolerance(THEN)
    assert tolerance(THEN) < tolerance(dataclasses.replace(THEN, quant="nf4"))


def test_what_of_the_environment_changed_is_said() -> None:
    now = dataclasses.replace(
        THEN, dtype="fp32", model={"repo": "Q", "commit": "2"}, vers={"torch": "3", "new": "1"}
    )
    assert differences(THEN, THEN) == []
    said = differences(THEN, now)
    assert said == [
        "dtype was bf16, is fp32",
        "the model's commit is not the same",
        "new was none, is 1",
        "torch was 2, is 3",
    ]


def test_completions_without_ids_are_skipped_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    session = Session.new()
    session.commit("Words without a vocabulary")
    session.apply(Added("said", session.head.node, session.head.at, "model"))
    known = {"n": session.head.at, "sha256": ids_sha256(session.tokens)}
    session.apply(Started("gen", ("said",), "", known, {}))
    for event in Scripted([Say(" x")]).stream(session.request(Sampling(seed=1)), threading.Event()):
        session.apply(Happened("gen", event))  # type: ignore[arg-type]
    assert list(stored(session, Reporter())) == []
    assert "no token ids" in capsys.readouterr().err
