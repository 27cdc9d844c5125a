"""The channel: nothing lost, nothing doubled, nobody stuck."""

from __future__ import annotations

import asyncio
import threading

import pytest

from qwen_tui.engine.channel import Channel
from qwen_tui.types import Emitted, Event, Finished, Token


def emitted(index: int, branch: int = 0) -> Emitted:
    return Emitted((Token(index, b"x"),), branch=branch, index=index)


def write(channel: Channel, events: list[Event], answers: list[bool]) -> threading.Thread:
    def run() -> None:
        answers.extend(channel.put(event) for event in events)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


async def ended(thread: threading.Thread) -> None:
    async with asyncio.timeout(5):
        while thread.is_alive():
            await asyncio.sleep(0)


async def test_a_slow_reader_gets_everything_once_and_in_order() -> None:
    channel = Channel(asyncio.get_running_loop(), threading.Event(), limit=8)
    sent: list[Event] = [*map(emitted, range(1000)), Finished("length")]
    answers: list[bool] = []
    thread = write(channel, sent, answers)
    got: list[Event] = []
    largest = 0
    async for batch in channel:
        largest = max(largest, len(batch))
        got += batch
        for _ in range(3):
            await asyncio.sleep(0)
    await ended(thread)
    assert got == sent
    assert largest <= 8
    assert answers == [True] * len(sent)
    assert await channel.take() == []


async def test_the_loop_is_woken_once_for_a_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    wakes: list[object] = []
    plain = loop.call_soon_threadsafe

    def counted(callback, *args, **kwargs):  # type: ignore[no-untyped-def]
        wakes.append(callback)
        return plain(callback, *args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    channel = Channel(loop, threading.Event())
    for index in range(100):
        channel.put(emitted(index))
    assert len(wakes) == 1
    assert len(await channel.take()) == 100
    channel.put(emitted(100))
    assert len(wakes) == 2
    assert len(await channel.take()) == 1


async def test_a_waiting_writer_is_freed_by_cancel_and_loses_nothing() -> None:
    cancel = threading.Event()
    channel = Channel(asyncio.get_running_loop(), cancel, limit=4)
    sent: list[Event] = [*map(emitted, range(6)), Finished("cancelled")]
    answers: list[bool] = []
    thread = write(channel, sent, answers)
    async with asyncio.timeout(5):
        while len(answers) < 4:
            await asyncio.sleep(0)
    assert thread.is_alive()
    cancel.set()
    channel.nudge()
    await ended(thread)
    assert answers == [True] * 4 + [False] * 3
    got = [event async for batch in channel for event in batch]
    assert got == sent


def test_a_writer_outlives_its_loop() -> None:
    loop = asyncio.new_event_loop()
    channel = Channel(loop, threading.Event(), limit=2)
    answers: list[bool] = []
    thread = write(channel, [*map(emitted, range(5)), Finished("length")], answers)
    while len(answers) < 2:
        pass
    loop.close()
    thread.join(5)
    assert not thread.is_alive()
    assert answers == [True, True, False, False, False, False]
    assert channel.put(Finished("failed")) is False


async def test_it_closes_behind_the_last_branch() -> None:
    channel = Channel(asyncio.get_running_loop(), threading.Event(), branches=2)
    channel.put(Finished("eos", branch=1))
    assert channel.unfinished == (0,)
    assert not channel.closed
    channel.put(Finished("failed", branch=1))
    channel.put(emitted(0))
    channel.put(Finished("length", branch=0))
    assert channel.closed
    assert channel.put(emitted(1)) is False
    reasons = [event.reason for event in await channel.take() if isinstance(event, Finished)]
    assert reasons == ["eos", "length"]
    assert await channel.take() == []


async def test_take_waits_for_the_first_event() -> None:
    channel = Channel(asyncio.get_running_loop(), threading.Event())
    waiting = asyncio.create_task(channel.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    thread = write(channel, [emitted(0)], [])
    async with asyncio.timeout(5):
        assert await waiting == [emitted(0)]
    assert channel.drain() == []
    await ended(thread)
