"""A draft model changes the work, never the text: a perfect one, a wrong one, one that fails."""

from __future__ import annotations

import json
import random
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.checkpoints import other, qwen2
from fixtures.opening import asked, end, ids, local, run, tokens
from fixtures.tokenizers import build_tokenizer
from qwen_tui import hub
from qwen_tui.backends.local.backend import Local
from qwen_tui.backends.local.nn.qwen2_model import FastModel
from qwen_tui.backends.local.planning import draft_model, hardware
from qwen_tui.backends.local.planning import plan as planning
from qwen_tui.cli import main
from qwen_tui.settings import load
from qwen_tui.types import (
    NO_INPUT,
    TEMPORARY,
    USAGE,
    Emitted,
    Event,
    Progress,
    Request,
    Sampling,
    Trouble,
)
from qwen_tui.vocab import Vocab

PROMPT = [5, 6, 7, 8, 9, 10, 5, 6, 7, 8, 9, 11, 5, 6]
SAMPLINGS = {
    "greedy": Sampling(temperature=0.0, min_p=0.0),
    "sampled": Sampling(temperature=1.0, seed=9),
    "penalised": Sampling(
        temperature=0.8, seed=3, repetition_penalty=1.2, frequency_penalty=0.2, repeat_last_n=16
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen2(tmp_path_factory.mktemp("model") / "m", hidden=64, intermediate=96, layers=2)


@pytest.fixture(scope="module")
def twin(folder: Path) -> Path:
    """The same weights under another name: every guess comes true."""
    return shutil.copytree(folder, folder.parent / "twin")


@pytest.fixture(scope="module")
def stranger(folder: Path) -> Path:
    """Other weights over the same vocabulary: nearly every guess is wrong."""
    return qwen2(folder.parent / "stranger", layers=1, seed=7)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Local:
    return local(folder, path="fast", lookup=False)


def drafting(folder: Path, draft: Path, **flags: Any) -> Local:
    """The model with a draft, and nothing looked up, so that every guess is the draft's. A twin
    costs as much as the model and would not be asked for long: here it counts as cheap.
    """
    backend = local(folder, path="fast", **{"lookup": False, "draft": str(draft), **flags})
    if backend._engine.drafter is not None:
        assert backend._engine.drafter.cost > 0
        backend._engine.drafter.cost = 0.02
    return backend


@pytest.mark.parametrize("kind", SAMPLINGS)
def test_a_perfect_draft_is_taken_at_its_word(
    folder: Path, twin: Path, plain: Local, kind: str
) -> None:
    request = asked(PROMPT, max_tokens=60, sampling=SAMPLINGS[kind])
    events = run(drafting(folder, twin), request)
    assert ids(events) == ids(run(plain, request))
    found = end(events)
    assert found.stats.accepted == found.stats.drafted > 35
    assert sum(token.drafted for token in tokens(events)) == found.stats.accepted
    assert sum(count for _, count in found.schedule["drafts"]) == found.stats.drafted


@pytest.mark.parametrize("kind", SAMPLINGS)
def test_a_wrong_draft_costs_work_only(
    folder: Path, stranger: Path, plain: Local, kind: str
) -> None:
    request = asked(PROMPT, max_tokens=60, sampling=SAMPLINGS[kind])
    events = run(drafting(folder, stranger), request)
    assert ids(events) == ids(run(plain, request))
    stats = end(events).stats
    assert 0 < stats.drafted < 60, "it goes on guessing although nothing comes true"
    assert stats.accepted < stats.drafted


def test_what_stood_before_is_looked_up_first(folder: Path, stranger: Path, plain: Local) -> None:
    """A draft that is always wrong, and a text that was written before: only one can be right."""
    request = asked(PROMPT, max_tokens=60)
    wanted = ids(run(plain, request))
    known = asked(PROMPT, max_tokens=60, sources=((*PROMPT, *wanted),))
    events = run(drafting(folder, stranger, lookup=True), known)
    assert ids(events) == wanted
    assert end(events).stats.accepted > 40


@pytest.mark.parametrize("kind", SAMPLINGS)
def test_after_random_edits_the_text_is_that_of_a_fresh_model(
    folder: Path, twin: Path, stranger: Path, plain: Local, kind: str
) -> None:
    dice = random.Random(kind)
    backends = [drafting(folder, twin), drafting(folder, stranger)]
    accepted, text = 0, list(PROMPT)
    for turn in range(12):
        cut = dice.randrange(1, len(text) + 1)
        text = text[:cut] + [dice.randrange(300) for _ in range(dice.randrange(1, 5))]
        request = asked(text, max_tokens=dice.randrange(4, 16), sampling=SAMPLINGS[kind])
        wanted = ids(run(plain, request))
        events = run(backends[turn % 3 == 2], request)
        assert ids(events) == wanted
        accepted += end(events).stats.accepted
        text += wanted
    assert accepted > 20


@pytest.mark.parametrize("kind", ["greedy", "sampled"])
def test_cancelled_at_any_token_and_gone_on_with(
    folder: Path, twin: Path, stranger: Path, plain: Local, kind: str
) -> None:
    wanted = ids(run(plain, asked(PROMPT, max_tokens=36, sampling=SAMPLINGS[kind])))
    for draft in (twin, stranger):
        backend = drafting(folder, draft)
        for stop_after in range(1, 20):
            request = asked(PROMPT, max_tokens=36, sampling=SAMPLINGS[kind])
            got = ids(stopped(backend, request, stop_after))
            assert got == wanted[: len(got)]
            assert stop_after <= len(got) < 36
            whole(backend)
            rest = asked([*PROMPT, *got], max_tokens=36 - len(got), sampling=SAMPLINGS[kind])
            assert got + ids(run(backend, rest)) == wanted


def stopped(backend: Local, request: Request, after: int) -> list[Event]:
    """What a generation says that is cancelled after so many tokens."""
    cancel, events = threading.Event(), []
    for event in backend.stream(request, cancel):
        events.append(event)
        if len(tokens(events)) >= after:
            cancel.set()
    return events


def whole(backend: Local) -> None:
    """Both caches hold what they are said to hold."""
    engine = backend._engine
    assert engine.model.length == len(engine.cache.ids)
    assert engine.drafter is not None
    assert engine.drafter._cache is not None
    assert engine.drafter._cache.model.length == len(engine.drafter.ids)


class Patience(threading.Event):
    """A cancellation that comes when it was asked for the n-th time: anywhere in the work."""

    def __init__(self, asks: int) -> None:
        super().__init__()
        self.left = asks

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_cancelled_at_any_place_of_the_work_both_caches_are_whole(
    folder: Path, twin: Path, plain: Local
) -> None:
    request = asked(PROMPT, max_tokens=12)
    wanted = ids(run(plain, request))
    backend = drafting(folder, twin, chunk=4)
    reasons = set()
    for asks in range(120):
        events = list(backend.stream(request, Patience(asks)))
        reasons.add(end(events).reason)
        got = ids(events)
        assert got == wanted[: len(got)]
        whole(backend)
        if asks % 7 == 0:
            assert ids(run(backend, request)) == wanted
    assert reasons == {"cancelled", "length"}


def test_a_long_prompt_is_read_between_tokens_and_not_before_the_first(
    folder: Path, twin: Path, plain: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FastModel, "chunk", 8)
    dice = random.Random(2)
    request = asked([dice.randrange(300) for _ in range(50)], max_tokens=40)
    backend = drafting(folder, twin)
    drafter = backend._engine.drafter
    assert drafter is not None
    events = backend.stream(request, threading.Event())
    lengths = [len(drafter.ids) for event in events if isinstance(event, Emitted)]
    assert lengths[:7] == [0, 8, 16, 24, 32, 40, 48]
    again = run(backend, request)
    assert ids(again) == ids(run(plain, request))
    assert end(again).stats.accepted > 20


def test_a_short_completion_of_a_long_text_is_not_worth_reading_it(
    folder: Path, twin: Path
) -> None:
    backend = drafting(folder, twin)
    dice = random.Random(2)
    text = [dice.randrange(300) for _ in range(400)]
    assert end(run(backend, asked(text, max_tokens=8))).stats.drafted == 0
    assert end(run(backend, asked(text, max_tokens=40))).stats.drafted > 0


def test_siblings_are_not_drafted_and_the_last_one_left_is(
    folder: Path, twin: Path, plain: Local
) -> None:
    request = asked(PROMPT, max_tokens=30, branches=3, sampling=SAMPLINGS["sampled"])
    backend = drafting(folder, twin)
    expected, events = run(plain, request), run(backend, request)
    for branch in range(3):
        assert ids(events, branch) == ids(expected, branch)
        assert end(events, branch).stats.drafted == 0
    word = next(t.data for t in tokens(expected, 0)[3:] if t.data.isascii()).decode()
    request = asked(PROMPT, max_tokens=40, branches=2, stop=(word,), sampling=SAMPLINGS["sampled"])
    expected, events = run(plain, request), run(backend, request)
    for branch in range(2):
        assert ids(events, branch) == ids(expected, branch)
        assert end(events, branch).reason == end(expected, branch).reason
    assert sum(end(events, branch).stats.accepted for branch in range(2)) > 0


def test_a_stop_string_inside_a_guess_cuts_exactly(folder: Path, twin: Path, plain: Local) -> None:
    wanted = tokens(run(plain, asked(PROMPT, max_tokens=40)))
    word = next(token.data for token in wanted[12:] if token.data.isascii()).decode()
    request = asked(PROMPT, max_tokens=40, stop=(word,))
    ours, theirs = run(drafting(folder, twin), request), run(plain, request)
    assert end(ours).reason == end(theirs).reason == "stop"
    assert end(ours).stop == word
    assert [token.data for token in tokens(ours)] == [token.data for token in tokens(theirs)]
    assert end(ours).stats.accepted > 0


@pytest.mark.parametrize("length", range(1, 12))
def test_length_and_context_are_met_to_the_token(
    folder: Path, twin: Path, plain: Local, length: int
) -> None:
    wanted = ids(run(plain, asked(PROMPT, max_tokens=length)))
    backend = drafting(folder, twin, context=len(PROMPT) + length)
    for most in (length, -1):
        events = run(backend, asked(PROMPT, max_tokens=most))
        assert ids(events) == wanted
        assert end(events).reason == "length"
    assert (end(events).stats.accepted > 0) == (length > 2)


def test_the_same_seed_gives_the_same_schedule(folder: Path, stranger: Path, twin: Path) -> None:
    request = asked(PROMPT, max_tokens=50, sampling=SAMPLINGS["sampled"])
    for draft in (twin, stranger):
        one, two = (end(run(drafting(folder, draft), request)) for _ in range(2))
        assert one.schedule == two.schedule
        assert one.schedule["drafts"]


# -- drafts that fail ------------------------------------------------------------------------------


def broken(backend: Local, forward: Any, monkeypatch: pytest.MonkeyPatch) -> FastModel:
    """The draft's own forward replaced by one that fails in some way."""
    assert backend._engine.drafter is not None
    assert backend._engine.drafter._cache is not None
    model = backend._engine.drafter._cache.model
    assert isinstance(model, FastModel)
    monkeypatch.setattr(model, "forward", forward)
    return model


def test_a_draft_that_gives_no_numbers_gives_no_guess(
    folder: Path, twin: Path, plain: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(PROMPT, max_tokens=20)
    backend = drafting(folder, twin)
    real = backend._engine.drafter._cache.model.forward  # type: ignore[union-attr]
    broken(backend, lambda *args, **rest: real(*args, **rest) * float("nan"), monkeypatch)
    events = run(backend, request)
    assert ids(events) == ids(run(plain, request))
    assert end(events).stats.drafted == 0


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_draft_that_runs_out_of_memory_is_dropped(
    folder: Path, twin: Path, plain: Local, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    request = asked(PROMPT, max_tokens=30)
    backend = drafting(folder, twin)
    real = backend._engine.drafter._cache.model.forward  # type: ignore[union-attr]
    calls = iter(range(1000))

    def forward(*args: Any, **rest: Any) -> torch.Tensor:
        if next(calls) >= after:
            raise torch.OutOfMemoryError("out of memory")
        found: torch.Tensor = real(*args, **rest)
        return found

    broken(backend, forward, monkeypatch)
    wanted = ids(run(plain, request))
    events = run(backend, request)
    assert ids(events) == wanted
    assert end(events).reason == "length"
    assert backend._engine.drafter.memory() == 0  # type: ignore[union-attr]
    assert ids(run(backend, request)) == wanted
    backend.close()


def test_when_the_model_runs_out_of_memory_the_draft_lets_go_of_its_cache(
    folder: Path, twin: Path, plain: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(PROMPT, max_tokens=30)
    backend = drafting(folder, twin)
    real, calls = backend._model.forward, iter(range(1000))

    def forward(*args: Any, **rest: Any) -> torch.Tensor:
        if next(calls) == 4:
            raise torch.OutOfMemoryError("out of memory")
        return real(*args, **rest)

    monkeypatch.setattr(backend._model, "forward", forward)
    wanted = ids(run(plain, request))
    assert ids(run(backend, request)) == wanted
    assert backend._engine.drafter.ids == ()  # type: ignore[union-attr]
    again = run(backend, request)
    assert ids(again) == wanted
    assert end(again).stats.accepted > 0, "it drafts again in the next generation"


def test_ids_that_the_draft_has_no_rows_for_are_not_guessed_after(
    folder: Path, tmp_path: Path, plain: Local
) -> None:
    small = qwen2(tmp_path / "small", padding=0)
    padded = [*PROMPT, 325, 5]
    events = run(drafting(folder, small), asked(padded, max_tokens=20))
    assert ids(events) == ids(run(plain, asked(padded, max_tokens=20)))
    assert end(events).stats.drafted == 0


# -- which drafts are taken ------------------------------------------------------------------------


def test_the_draft_is_named_among_the_reasons_and_not_in_the_environment(
    folder: Path, twin: Path, plain: Local
) -> None:
    reports: list[Progress] = []
    backend = drafting(folder, twin, reports=reports)
    assert any(f"drafts by {twin}" in line for line in backend.why)
    assert backend.environment == plain.environment
    assert [each.done == each.total for each in reports].count(True) == 2
    assert backend._engine.memory() > plain._engine.memory()
    backend.close()
    backend.close()


def test_a_draft_with_another_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    draft = qwen2(tmp_path / "draft", known=330)
    with pytest.raises(Trouble, match=r"token \d+ is not the model's") as caught:
        drafting(folder, draft)
    assert caught.value.code == USAGE
    assert "--draft" in caught.value.hint


def test_a_tokenizer_written_otherwise_is_the_same_vocabulary(
    folder: Path, tmp_path: Path, plain: Local
) -> None:
    draft = shutil.copytree(folder, tmp_path / "draft")
    file = draft / "tokenizer.json"
    build_tokenizer(draft, vocab_size=320, normalise=False)
    assert file.read_bytes() != (folder / "tokenizer.json").read_bytes()
    request = asked(PROMPT, max_tokens=20)
    events = run(drafting(folder, draft), request)
    assert ids(events) == ids(run(plain, request))
    assert end(events).stats.accepted > 0


def test_another_architecture_or_the_model_itself_is_refused(folder: Path, tmp_path: Path) -> None:
    for draft, words in (
        (other(tmp_path / "llama", "llama"), "no plain Qwen2"),
        (folder, "itself"),
    ):
        with pytest.raises(Trouble, match=words) as caught:
            drafting(folder, draft)
        assert caught.value.code == USAGE


def test_beside_a_model_that_runs_through_transformers_it_is_not_loaded(
    folder: Path, twin: Path, plain: Local
) -> None:
    backend = local(folder, path="reference", draft=str(twin))
    assert backend._engine.drafter is None
    assert any("no drafts by" in line for line in backend.why)
    request = asked(PROMPT, max_tokens=8)
    assert ids(run(backend, request)) == ids(run(plain, request))


def test_a_draft_that_does_not_fit_beside_the_model_is_refused_with_numbers(
    folder: Path, twin: Path
) -> None:
    chosen = load({"model": str(folder), "draft": str(twin)}, env={}, cwd=folder)
    snapshot = hub.find(str(folder))
    card = hub.card(folder)
    machine = hardware.probe()
    plan = planning.plan(card, chosen, machine)
    free = {"cpu": int(plan.need_bytes / planning.KEPT_FREE) + 1000}
    narrow = planning.Machine(
        ("cpu",), free, machine.native, machine.bitsandbytes, machine.threads, machine.names
    )
    plan = planning.plan(card, chosen, narrow)
    draft = draft_model.find_card(chosen)
    with pytest.raises(Trouble, match=r"GiB of memory .* beside .* free on cpu") as caught:
        draft_model.plan_draft(chosen, draft, snapshot, Vocab.load(folder), plan, narrow)
    assert caught.value.code == TEMPORARY
    assert draft_model.plan_draft(
        chosen, draft, snapshot, Vocab.load(folder), plan, machine
    ).name == str(twin)


# -- from the command line -------------------------------------------------------------------------


def test_the_flag_the_variable_and_the_file_set_it(tmp_path: Path) -> None:
    env = {"QWEN_TUI_HOME": str(tmp_path / "home")}
    assert load({}, env=env, cwd=tmp_path).draft == ""
    found = load({}, env={**env, "QWEN_TUI_DRAFT": "one"}, cwd=tmp_path)
    assert (found.draft, str(found.origin["draft"])) == ("one", "environment QWEN_TUI_DRAFT")
    found = load({"draft": ""}, env={**env, "QWEN_TUI_DRAFT": "one"}, cwd=tmp_path)
    assert (found.draft, str(found.origin["draft"])) == ("", "flag --draft")
    (tmp_path / "qwen-tui.toml").write_text("draft = 'x'\n")
    found = load({}, env=env, cwd=tmp_path)
    assert found.draft == ""
    assert "may not set" in found.warnings[0]


def test_complete_says_the_same_with_a_draft_and_counts_its_guesses(
    folder: Path, twin: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    common = ["complete", "-p", "The quick", "-m", str(folder), "-s", "4", "-n", "24", "-q"]
    common += ["--threads", "1", "--no-lookup"]

    def said(*more: str) -> bytes:
        assert main([*common, *more]) == 0
        return capsysbinary.readouterr().out

    assert said() == said("--draft", str(twin)) != b""
    assert drafted(said("--json")) == 0
    assert drafted(said("--json", "--draft", str(twin))) > 0


def drafted(out: bytes) -> int:
    """How many tokens of a recorded completion had been guessed."""
    records = map(json.loads, out.splitlines())
    return sum(each["stats"]["drafted"] for each in records if "stats" in each)


@pytest.mark.parametrize("command", [["complete", "-p", "x", "-n", "2"], ["doctor"]])
def test_a_draft_that_is_not_here_exits_66_and_names_the_cure(
    folder: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", str(folder), "--draft", "Qwen/Qwen2.5-0.5B", "--threads", "1"]
    assert main([*command, *arguments]) == NO_INPUT
    said = capsys.readouterr()
    assert "models pull Qwen/Qwen2.5-0.5B" in said.out + said.err


def test_doctor_tells_how_the_draft_would_run(
    folder: Path, twin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "-m", str(folder), "--draft", str(twin), "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert f"{twin}  (flag --draft)" in out
    assert f"drafts by {twin}" in out


def test_the_models_context_leaves_room_for_the_draft(folder: Path, twin: Path) -> None:
    chosen = load({"model": str(folder), "draft": str(twin)}, env={}, cwd=folder)
    card, machine = hub.card(folder), hardware.probe()
    wide = replace(card, context=10**6)
    plan = planning.plan(wide, chosen, machine)
    tight = replace(plan, free_bytes=int(plan.need_bytes / planning.KEPT_FREE))
    narrowed = draft_model.leave_room(tight, wide, draft_model.find_card(chosen), chosen)
    assert planning.LEAST_CONTEXT <= narrowed.context < tight.context
    assert narrowed.need_bytes < tight.need_bytes
    assert "fits in beside it" in narrowed.why[-1]
    asked_for = replace(chosen, context=100)
    assert draft_model.leave_room(tight, wide, draft_model.find_card(asked_for), asked_for) == tight
    assert (
        draft_model.leave_room(
            replace(plan, free_bytes=2**50), wide, draft_model.find_card(chosen), chosen
        ).context
        == plan.context
    )


def test_a_draft_that_fails_is_dropped_too(
    folder: Path,
    twin: Path,
    plain: Local,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def forward(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    request = asked(PROMPT, max_tokens=30)
    backend = drafting(folder, twin)
    broken(backend, forward, monkeypatch)
    events = run(backend, request)
    assert ids(events) == ids(run(plain, request))
    assert end(events).stats.drafted == 0
    assert "drafts no more: no such kernel" in caplog.text
    backend.close()
