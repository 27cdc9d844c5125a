"""Streaming through runner, channel, pump and session against the bare loop, in its own process.

As in the studio only the engine's thread computes: a second thread that uses torch would make
OpenMP give up its quick waits, and slow both. The bare loop runs on that thread too, and hands over
nothing but its end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from qwen_tui import backends, settings
from qwen_tui.engine.runner import Runner
from qwen_tui.session.session import Session
from qwen_tui.tui.studio.pump import pump
from qwen_tui.types import Event, Finished, Request, Token
from qwen_tui.vocab import Vocab

CHOICES: Final = 10
"""Candidates reported with each token, as the studio asks for."""
THROUGH, BARE = "through channel and pump", "bare loop"


class Either:
    """A backend that streams, or (`bare`) runs its whole loop and tells only how it ended."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.bare = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def stream(self, request: Request, cancel: threading.Event) -> Iterator[Event]:
        """As the backend, without speculative decoding."""
        with self._backend.speculating(lookup=False, draft=False):
            events = self._backend.stream(request, cancel)
            if self.bare:
                yield from [event for event in list(events) if isinstance(event, Finished)]
            else:
                yield from events


async def generated(runner: Runner, request: Request, vocab: Vocab) -> float:
    """Tokens per second of one generation, counted by the engine."""
    opened = await asyncio.wrap_future(runner.load())
    session = Session.new(vocab=vocab)
    generation, _ = session.start(request, opened.environment)
    ends: list[Finished] = []

    def happen(event: Event) -> None:
        session.happen(generation, event)
        if isinstance(event, Finished):
            ends.append(event)

    await pump(runner.submit(request).channel, happen, lambda: None)
    if ends[0].reason != "length":
        raise SystemExit(f"{ends[0].reason}: {ends[0].message}")
    return ends[0].stats.tok_s


def measured(chosen: argparse.Namespace) -> dict[str, list[float]]:
    """Tokens per second of both ways, a pair for each round."""
    from qwen_tui.backends.local.benchmark.workloads import LEAD, SAMPLED

    names = ("quant", "dtype", "device", "threads")
    flags = {"model": str(chosen.model), **{name: getattr(chosen, name) for name in names}}
    wanted = settings.load(flags, env=os.environ, cwd=chosen.model)
    vocab = Vocab.load(chosen.model)
    ids = list(range(1000, 1000 + LEAD))
    prompt = tuple(Token(id, vocab.data(id)) for id in ids)
    held: list[Either] = []

    def opener(report: Any, cancel: threading.Event) -> Any:
        held.append(Either(backends.open(wanted, report, cancel)))
        return held[0]

    runner = Runner(opener)
    found: dict[str, list[float]] = {THROUGH: [], BARE: []}
    for number in range(-1, chosen.rounds):
        request = Request(
            prompt,
            sampling=replace(SAMPLED, seed=max(0, number)),
            max_tokens=chosen.tokens + 1,
            choices=CHOICES,
            ignore_eos=True,
        )
        ways = (THROUGH, BARE) if number % 2 else (BARE, THROUGH)
        for way in ways:
            if held:
                held[0].bare = way == BARE
            rate = asyncio.run(generated(runner, request, vocab))
            if number >= 0:
                found[way].append(rate)
    runner.close(5)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--quant", default="none")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-n", "--tokens", type=int, default=64)
    print(json.dumps(measured(parser.parse_args())))


if __name__ == "__main__":
    main()
