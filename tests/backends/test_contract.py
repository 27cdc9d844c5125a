"""One contract over every backend: what a session and an interface may count on, whoever speaks."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fixtures import servers
from fixtures.checkpoints import qwen2
from fixtures.scripts import Emit, Gate, Say, Scripted, Wait, spelled, words
from qwen_tui import backends, settings
from qwen_tui.backends.replay import Replay, takes
from qwen_tui.journal import ids_sha256
from qwen_tui.types import (
    Backend,
    Emitted,
    Event,
    Finished,
    Happened,
    Prefilled,
    Progress,
    Request,
    Sampling,
    Scored,
    Started,
    Token,
    joined,
)
from qwen_tui.vocab import Vocab

TEXT = "Once upon a time"
PROMPT = spelled(TEXT)
TEXT_ONLY = (Token(-1, TEXT.encode()),)
PLACES: list[Vocab] = []
"""The vocabulary of the checkpoint behind the servers."""
GREEDY = Sampling(temperature=0.0, min_p=0.0, seed=7)
ENDS = ("eos", "stop", "length", "cancelled", "oom", "nan", "eof", "failed")

Make = Callable[[], Backend]


def scripted() -> Backend:
    return Scripted([Say(" there was a fox that said: mañana 🦊, and then slept for a year")])


def replay() -> Backend:
    """What the scripted backend says, recorded and played back as fast as it goes."""
    entries: list[Started | Happened] = []
    for branches in (1, 2, 3):
        request = asked(branches=branches, choices=5)
        nodes = tuple(str(branch) for branch in range(branches))
        prompt = {"n": len(PROMPT), "sha256": ids_sha256(PROMPT)}
        entries.append(Started(f"g{branches}", nodes, "", prompt, {}))
        for event in scripted().stream(request, threading.Event()):
            assert not isinstance(event, Progress | Scored)
            entries.append(Happened(f"g{branches}", event))
    return Replay(takes(entries), speed=float("inf"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = qwen2(tmp_path_factory.mktemp("contract"))
    PLACES[:] = [Vocab.load(folder)]
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Iterator[servers.Model]:
    """What stands behind the servers."""
    model = servers.Model(checkpoint)
    yield model
    model.close()


WITHIN = ("llama.cpp", "ollama")
"""These servers stream no probabilities of what ends within a character."""
SERVERS = {
    "vllm": servers.vllm,
    "llama.cpp": servers.llamacpp,
    "ollama": servers.ollama,
    "openai": servers.openai,
}


@pytest.fixture(params=["scripted", "replay", "local", *SERVERS])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    makers: dict[str, Make] = {"scripted": scripted, "replay": replay}
    if request.param in SERVERS:
        with servers.serving(SERVERS[request.param](request.getfixturevalue("model"))) as server:
            made = remote(server.url)
            yield made
            made.close()
        return
    made = makers[request.param]() if request.param in makers else local(request)
    yield made
    made.close()


def remote(url: str) -> Backend:
    """A server on loopback through the real door."""
    return backends.open(settings.load({"engine": url}), lambda progress: None, threading.Event())


def local(request: pytest.FixtureRequest) -> Backend:
    """A real tiny checkpoint through the real door."""
    folder = request.getfixturevalue("checkpoint")
    chosen = settings.load({"model": str(folder), "threads": 1})
    return backends.open(chosen, lambda progress: None, threading.Event())


def asked(backend: Backend | None = None, **kwargs: object) -> Request:
    prompt = PROMPT
    if backend is not None and "path" in backend.environment.model and backend.name != "scripted":
        prompt = Vocab.load(Path(str(backend.environment.model["path"]))).encode(TEXT)
    elif backend is not None and "remote" in backend.environment.engine:
        prompt = PLACES[0].encode(TEXT) if backend.abilities.token_ids else TEXT_ONLY
    values: dict[str, object] = {"prompt": prompt, "sampling": GREEDY, "max_tokens": 12}
    return Request(**(values | kwargs))  # type: ignore[arg-type]


def run(backend: Backend, request: Request, cancel: threading.Event | None = None) -> list[Event]:
    return list(backend.stream(request, cancel or threading.Event()))


def is_text(data: bytes) -> bool:
    return "\ufffd" not in data.decode("utf-8", "replace")


def said(events: list[Event], branch: int = 0) -> tuple[Token, ...]:
    return tuple(
        token
        for event in events
        if isinstance(event, Emitted) and event.branch == branch
        for token in event.tokens
    )


def ends(events: list[Event]) -> dict[int, Finished]:
    found = [event for event in events if isinstance(event, Finished)]
    assert len({end.branch for end in found}) == len(found), "a branch finished twice"
    return {end.branch: end for end in found}


def test_it_says_what_it_is(backend: Backend) -> None:
    assert backend.name
    assert backend.context > 0
    assert backend.environment.engine
    assert backend.why
    assert backend.abilities.choices >= 0


def test_every_branch_ends_exactly_once_and_last(backend: Backend) -> None:
    branches = 3 if backend.abilities.branches else 1
    events = run(backend, asked(backend, branches=branches))
    assert set(ends(events)) == set(range(branches))
    for branch in range(branches):
        mine = [event for event in events if getattr(event, "branch", None) == branch]
        assert isinstance(mine[-1], Finished)
        assert mine[-1].reason in ENDS


def test_the_prompt_is_prefilled_before_anything_is_emitted(backend: Backend) -> None:
    events = [event for event in run(backend, asked(backend)) if not isinstance(event, Progress)]
    assert isinstance(events[0], Prefilled)
    assert events[0].prompt == len(asked(backend).prompt)
    assert 0 <= events[0].reused < len(asked(backend).prompt)


def test_indexes_and_times_run_on(backend: Backend) -> None:
    events = run(backend, asked(backend))
    index, ms = 0, 0
    for event in events:
        if isinstance(event, Emitted):
            assert event.index == index
            assert event.ms >= ms
            index, ms = index + len(event.tokens), event.ms
    assert index > 0


def test_statistics_count_what_was_emitted(backend: Backend) -> None:
    branches = 2 if backend.abilities.branches else 1
    events = run(backend, asked(backend, branches=branches))
    for branch, end in ends(events).items():
        assert end.stats.emitted == len(said(events, branch))
        assert end.stats.prompt == len(asked(backend).prompt)


def test_max_tokens_is_kept(backend: Backend) -> None:
    events = run(backend, asked(backend, max_tokens=3))
    assert len(said(events)) <= 3
    none = run(backend, asked(backend, max_tokens=0))
    assert said(none) == ()
    assert len(ends(none)) == 1


def test_a_cancelled_generation_ends_and_the_next_one_works(backend: Backend) -> None:
    cancel = threading.Event()
    events: list[Event] = []
    for event in backend.stream(asked(backend), cancel):
        events.append(event)
        if isinstance(event, Emitted):
            cancel.set()
    first = said(events)
    assert ends(events)[0].reason in ("cancelled", "length", "eos")
    assert len(first) >= 1
    again = said(run(backend, asked(backend)))
    assert joined(again).startswith(joined(first))


def test_cancelled_before_it_began_it_says_nothing(backend: Backend) -> None:
    cancel = threading.Event()
    cancel.set()
    branches = 2 if backend.abilities.branches else 1
    events = run(backend, asked(backend, branches=branches), cancel)
    assert {end.reason for end in ends(events).values()} == {"cancelled"}
    assert len(ends(events)) == branches
    assert said(events) == ()


def test_a_stream_that_is_dropped_leaves_the_backend_usable(backend: Backend) -> None:
    stream = backend.stream(asked(backend), threading.Event())
    for event in stream:
        if isinstance(event, Emitted):
            break
    stream.close()  # type: ignore[attr-defined]
    assert said(run(backend, asked(backend)))


def test_choices_are_lawful(backend: Backend) -> None:
    if not backend.abilities.choices:
        pytest.skip("reports none")
    for token in said(run(backend, asked(backend, choices=5))):
        assert len(token.choices) <= 5
        weights = [choice.logprob for choice in token.choices]
        assert weights == sorted(weights, reverse=True)
        assert all(weight <= 1e-6 for weight in weights)
        if backend.environment.engine.endswith(WITHIN) and not is_text(token.data):
            continue
        assert token.logprob is not None
        own = [choice for choice in token.choices if choice.id == token.id]
        if token.id < 0:  # a server that gives text only
            own = [choice for choice in own if choice.data == token.data]
        assert all(abs(choice.logprob - token.logprob) < 1e-4 for choice in own)


def test_stop_strings_are_cut_exactly(backend: Backend) -> None:
    if backend.name == "replay":
        pytest.skip("what is played back has been decided")
    whole = joined(said(run(backend, asked(backend))))
    start = next(at for at in range(2, len(whole)) if whole[at : at + 2].isascii())
    stop = whole[start : start + 2]
    events = run(backend, asked(backend, stop=(stop.decode(),)))
    assert joined(said(events)) == whole[: whole.index(stop)]
    assert ends(events)[0].reason == "stop"
    assert ends(events)[0].stop == stop.decode()


def test_what_a_person_wrote_can_be_scored(backend: Backend) -> None:
    if not backend.abilities.score:
        pytest.skip("scores nothing")
    request = asked(backend, score=True, max_tokens=0, choices=3)
    events = run(backend, request)
    scored = {
        place: token
        for event in events
        if isinstance(event, Scored)
        for place, token in enumerate(event.tokens, event.start)
    }
    assert [scored[place].id for place in range(len(request.prompt))] == [
        token.id for token in request.prompt
    ]
    assert scored[0].logprob is None
    assert all((scored[place].logprob or 1) <= 1e-6 for place in range(1, len(scored)))
    assert said(events) == ()
    assert ends(events)[0].reason == "length"


def test_closing_twice_is_fine(backend: Backend) -> None:
    backend.close()
    backend.close()


# -- what the scripted backend promises to tests beyond that ---------------------------------------


@pytest.mark.parametrize(
    ("stop", "said_before"),
    [("fox", " there was a "), ("x that", " there was a fo"), ("🦊", " there was a fox: ")],
)
def test_a_stop_string_across_tokens_is_cut_exactly(stop: str, said_before: str) -> None:
    text = " there was a fox that slept" if stop != "🦊" else " there was a fox: 🦊!"
    backend = Scripted([Say(text)])
    events = run(backend, asked(stop=(stop,)))
    assert joined(said(events)).decode() == said_before
    assert ends(events)[0].reason == "stop"
    assert ends(events)[0].stop == stop


def test_a_false_alarm_of_a_stop_string_loses_nothing() -> None:
    events = run(Scripted([Say(" a b a b c")]), asked(stop=(" a b d", "c d")))
    assert joined(said(events)).decode() == " a b a b c<|endoftext|>"


def test_drafted_tokens_come_in_one_step() -> None:
    pair = tuple(dataclasses.replace(token, drafted=True) for token in spelled(" two words"))
    events = run(Scripted([Emit(pair)]), asked())
    steps = [event for event in events if isinstance(event, Emitted)]
    assert [len(step.tokens) for step in steps] == [2, 1]
    assert [step.index for step in steps] == [0, 2]


def test_a_gate_lets_tokens_through_one_by_one() -> None:
    gate = Gate()
    stream = Scripted([Say(" one two", gate=gate)]).stream(asked(), threading.Event())
    assert isinstance(next(stream), Prefilled)
    gate.allow()
    assert joined(said([next(stream)])) == b" one"
    gate.allow()
    assert joined(said([next(stream)])) == b" two"


def test_a_gate_gives_way_to_cancel() -> None:
    cancel = threading.Event()
    stream = Scripted([Wait(Gate())]).stream(asked(), cancel)
    next(stream)
    threading.Timer(0.05, cancel.set).start()
    assert [end.reason for end in ends(list(stream)).values()] == ["cancelled"]


def test_ignoring_the_end_it_goes_on() -> None:
    events = run(Scripted(words(2)), asked(ignore_eos=True, max_tokens=7))
    assert len(said(events)) == 7
    assert ends(events)[0].reason == "length"


# -- replay ----------------------------------------------------------------------------------------


def recording(*steps: tuple[int, str], end: bool = True) -> Replay:
    prompt = {"n": len(PROMPT), "sha256": ids_sha256(PROMPT)}
    entries: list[Started | Happened] = [Started("g", ("n",), "", prompt, {})]
    for index, (ms, text) in enumerate(steps):
        event = Emitted((Token(index, text.encode()),), ms=ms, index=index)
        entries.append(Happened("g", event))
    if end:
        entries.append(Happened("g", Finished("eos")))
    return Replay(takes(entries), speed=float("inf"))


class Waits(threading.Event):
    """A cancel event that notes how long it was asked to wait, and waits for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(round(timeout or 0.0, 3))
        self.now += timeout or 0.0
        return False


@pytest.mark.parametrize(
    ("speed", "max_gap", "waits"),
    [
        (1.0, None, [0.1, 2.9, 0.5]),
        (2.0, None, [0.05, 1.45, 0.25]),
        (1.0, 1.0, [0.1, 1.0, 0.5]),
        (float("inf"), None, [0.0, 0.0, 0.0]),
    ],
)
def test_replay_keeps_the_rhythm(speed: float, max_gap: float | None, waits: list[float]) -> None:
    cancel = Waits()
    recorded = recording((100, "a"), (3000, "b"), (3500, "c"))
    backend = Replay(recorded._recorded, speed=speed, max_gap=max_gap, clock=lambda: cancel.now)
    assert joined(said(run(backend, asked(), cancel))) == b"abc"
    assert cancel.waits == waits


def test_a_recording_broken_off_says_so() -> None:
    events = run(recording((1, "a"), end=False), asked())
    assert joined(said(events)) == b"a"
    assert ends(events)[0].reason == "eof"
    assert "breaks off" in ends(events)[0].message


def test_replay_knows_only_the_prompts_that_were_recorded() -> None:
    events = run(recording((1, "a")), asked(prompt=spelled("Something else")))
    assert ends(events)[0].reason == "failed"


def test_sessions_folder_is_never_touched(home: Path) -> None:
    run(recording((1, "a")), asked())
    assert not home.exists()
