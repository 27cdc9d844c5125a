"""The runner: one thread, one job at a time, and an end to every generation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from fixtures.scripts import (
    Fail,
    Gate,
    Say,
    Script,
    Scripted,
    asked,
    gated,
    opener,
    spelled,
    words,
)
from qwen_tui.engine.runner import Generation, Runner
from qwen_tui.types import Emitted, Event, Finished, Progress, Trouble, text_of

Make = Callable[..., Runner]


@pytest.fixture
def make() -> Iterator[Make]:
    runners: list[Runner] = []

    def build(script: Script = (), **kwargs: object) -> Runner:
        runners.append(Runner(opener(script, **kwargs)))  # type: ignore[arg-type]
        return runners[-1]

    yield build
    for runner in runners:
        assert runner.close(5)


async def events(generation: Generation) -> list[Event]:
    async with asyncio.timeout(5):
        return [event async for batch in generation.channel for event in batch]


async def until(true: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(5):
            while not true():
                await asyncio.sleep(0.001)
    except TimeoutError:
        pytest.fail(f"never happened: {what}")


def said(got: list[Event]) -> str:
    return text_of(token for event in got if isinstance(event, Emitted) for token in event.tokens)


def reasons(got: list[Event]) -> list[tuple[int, str]]:
    return [(event.branch, event.reason) for event in got if isinstance(event, Finished)]


async def test_the_first_submit_opens_the_backend_and_runs(make: Make) -> None:
    runner = make([Say(" there was a fox.")])
    assert runner.state == "idle"
    assert runner.opened is None
    got = await events(runner.submit(asked()))
    assert said(got) == " there was a fox.<|endoftext|>"
    assert reasons(got) == [(0, "eos")]
    assert runner.state == "ready"
    assert runner.opened is not None
    assert runner.opened.context == 4096


async def test_loading_reports_and_is_observable(make: Make) -> None:
    gate = Gate()
    seen: list[Progress] = []
    runner = make(words(1), loading=(Progress("load", 50, 100), gate, Progress("load", 100, 100)))
    runner.on_progress = seen.append
    loading = runner.load()
    assert runner.load() is loading
    await until(lambda: gate.waited_at, "loading stands at the gate")
    assert runner.state == "loading"
    assert runner.progress == Progress("load", 50, 100)
    generation = runner.submit(asked())
    assert runner.busy
    gate.open()
    opened = await asyncio.wrap_future(loading)
    assert opened.name == "scripted"
    assert reasons(await events(generation)) == [(0, "eos")]
    assert [progress.done for progress in seen] == [50, 100]
    assert runner.progress is None
    assert not runner.busy


async def test_a_failed_load_is_trouble_and_the_next_one_tries_again() -> None:
    attempts: list[int] = []
    fine = opener(words(1))

    def flaky(report: Callable[[Progress], None], cancel: threading.Event) -> Scripted:
        attempts.append(1)
        if len(attempts) == 1:
            raise Trouble("no such folder", hint="look again", code=66)
        return fine(report, cancel)

    runner = Runner(flaky)
    first = runner.submit(asked(branches=2))
    got = await events(first)
    ends = [event for event in got if isinstance(event, Finished)]
    assert [(end.branch, end.reason, end.message, end.hint) for end in ends] == [
        (0, "failed", "no such folder", "look again"),
        (1, "failed", "no such folder", "look again"),
    ]
    assert runner.state == "failed"
    assert runner.trouble is not None
    assert runner.trouble.code == 66
    assert reasons(await events(runner.submit(asked()))) == [(0, "eos")]
    assert runner.state == "ready"
    assert runner.close(5)


async def test_a_load_that_raises_anything_is_trouble_for_the_one_who_asked(make: Make) -> None:
    runner = make(loading=(RuntimeError("shapes differ"),))
    with pytest.raises(Trouble, match="RuntimeError: shapes differ"):
        await asyncio.wrap_future(runner.load())


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (Trouble("the server went away", hint="start it"), "failed", "the server went away"),
        (ValueError("a defect"), "failed", "ValueError: a defect"),
        (MemoryError(), "oom", "out of memory"),
        (SystemExit(3), "failed", "SystemExit: 3"),
    ],
)
async def test_no_exception_crosses_the_channel(
    make: Make, error: BaseException, reason: str, message: str
) -> None:
    runner = make(lambda request, branch: [Say(" so far"), Fail(error)])
    got = await events(runner.submit(asked(branches=2)))
    assert said(got) == " so so far far"
    ends = [event for event in got if isinstance(event, Finished)]
    assert [(end.branch, end.reason, end.message) for end in ends] == [
        (0, reason, message),
        (1, reason, message),
    ]
    again = runner.submit(asked())
    assert reasons(await events(again)) == [(0, reason)]


async def test_one_job_at_a_time_and_a_new_one_does_not_cancel(make: Make) -> None:
    gate = Gate()
    made: list[Scripted] = []
    runner = make(gated(" one two", gate), made=made)
    first, second = runner.submit(asked("first")), runner.submit(asked("second"))
    await until(lambda: gate.waited_at, "the first stands at the gate")
    assert [request.prompt for request in made[0].requests] == [spelled("first")]
    assert not first.cancelled
    gate.open()
    assert reasons(await events(first)) == [(0, "eos")]
    assert reasons(await events(second)) == [(0, "eos")]


async def test_cancel_keeps_what_was_said(make: Make) -> None:
    gate = Gate()
    runner = make(gated(" one two three", gate))
    generation = runner.submit(asked(branches=2))
    gate.allow(3)
    got: list[Event] = []
    async with asyncio.timeout(5):
        while len([event for event in got if isinstance(event, Emitted)]) < 3:
            got += await generation.channel.take()
    generation.cancel()
    got += await events(generation)
    assert said(got) == " one one two"
    assert sorted(reasons(got)) == [(0, "cancelled"), (1, "cancelled")]


async def test_one_that_waits_for_the_load_ends_at_once_when_cancelled(make: Make) -> None:
    gate = Gate()
    runner = make(words(3), loading=(gate,))
    generation = runner.submit(asked(branches=2))
    await until(lambda: gate.waited_at, "loading stands at the gate")
    generation.cancel()
    generation.cancel()
    assert reasons(await events(generation)) == [(0, "cancelled"), (1, "cancelled")]
    assert runner.state == "loading"
    assert not runner.busy
    gate.open()
    assert reasons(await events(runner.submit(asked()))) == [(0, "eos")]


async def test_a_slow_reader_holds_the_backend_and_loses_nothing(make: Make) -> None:
    runner = make(words(2000))
    generation = runner.submit(asked(max_tokens=2000))
    await until(lambda: len(generation.channel) == 256, "the channel is full")
    assert len(generation.channel) == 256
    got = await events(generation)
    indexes = [event.index for event in got if isinstance(event, Emitted)]
    assert indexes == list(range(2000))


async def test_swap_cancels_closes_and_opens_the_other(make: Make) -> None:
    gate = Gate()
    old: list[Scripted] = []
    runner = make(gated(" never more", gate), made=old)
    generation = runner.submit(asked())
    await until(lambda: gate.waited_at, "the old one stands at the gate")
    new: list[Scripted] = []
    opened = await asyncio.wrap_future(runner.swap(opener([Say(" new")], name="other", made=new)))
    assert opened.name == "other"
    assert reasons(await events(generation)) == [(0, "cancelled")]
    assert old[0].closed
    assert not new[0].closed
    assert said(await events(runner.submit(asked()))) == " new<|endoftext|>"


async def test_swap_gives_up_a_load_under_way(make: Make) -> None:
    gate = Gate()
    runner = make(words(1), loading=(gate,))
    first = runner.load()
    await until(lambda: gate.waited_at, "loading stands at the gate")
    opened = await asyncio.wrap_future(runner.swap(opener(words(2), name="other")))
    assert opened.name == "other"
    assert isinstance(first.exception(), Trouble)
    assert runner.state == "ready"


async def test_close_ends_everything_and_closes_the_backend(make: Make) -> None:
    gate = Gate()
    made: list[Scripted] = []
    runner = make(gated(" one", gate), made=made)
    running, waiting = runner.submit(asked()), runner.submit(asked())
    await until(lambda: gate.waited_at, "it stands at the gate")
    assert runner.close(5)
    assert made[0].closed
    assert reasons(await events(running)) == [(0, "cancelled")]
    assert reasons(await events(waiting)) == [(0, "cancelled")]
    assert runner.state == "closed"
    late = await events(runner.submit(asked()))
    assert reasons(late) == [(0, "failed")]
    with pytest.raises(Trouble, match="closed"):
        await asyncio.wrap_future(runner.load())
    assert runner.close(5)


async def test_close_says_when_the_thread_cannot_leave() -> None:
    kernel, inside = threading.Event(), threading.Event()

    def stuck(report: Callable[[Progress], None], cancel: threading.Event) -> Scripted:
        inside.set()
        kernel.wait()
        return Scripted()

    runner = Runner(stuck)
    runner.load()
    await until(inside.is_set, "the opener is inside")
    assert runner.close(timeout=0.01) is False
    kernel.set()
    assert runner.close(5)


async def test_nothing_is_left_unfinished_when_a_backend_just_stops() -> None:
    class Mute(Scripted):
        def stream(self, request, cancel):  # type: ignore[no-untyped-def]
            return iter(())

    runner = Runner(lambda report, cancel: Mute())
    got = await events(runner.submit(asked(branches=3)))
    assert reasons(got) == [(0, "failed"), (1, "failed"), (2, "failed")]
    assert runner.close(5)
