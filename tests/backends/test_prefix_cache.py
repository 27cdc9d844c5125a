"""What the cache held before is not run again: siblings, texts stepped back from, any order."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
import torch

from fixtures.checkpoints import qwen2
from fixtures.opening import asked, end, ids, local, run
from qwen_tui.backends.local.backend import Local
from qwen_tui.backends.local.kv.prefix_cache import SEGMENT_BUDGET, PrefixCache
from qwen_tui.backends.local.nn.model import Cancelled
from qwen_tui.types import Sampling, Scored, Token

PROMPT = list(range(40, 80))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return qwen2(tmp_path / "m", hidden=64, intermediate=96, layers=2, context=4096)


@pytest.fixture
def backend(folder: Path) -> Local:
    return local(folder, path="fast")


def test_every_sibling_can_be_taken_up_without_running_it_again(
    folder: Path, backend: Local
) -> None:
    wanted = run(backend, asked(PROMPT, branches=4, max_tokens=24, sampling=Sampling(seed=3)))
    for branch in (2, 0, 3, 1, 2):
        prompt = PROMPT + ids(wanted, branch)
        again = run(backend, asked(prompt, max_tokens=6))
        assert end(again).stats.reused >= len(prompt) - 2
        fresh = run(local(folder, path="fast"), asked(prompt, max_tokens=6))
        assert ids(again) == ids(fresh)


def test_a_sibling_that_ended_early_is_kept_too(backend: Local) -> None:
    request = asked(PROMPT, branches=3, max_tokens=40, sampling=Sampling(seed=3), stop=("e",))
    wanted = run(backend, request)
    early = min(range(3), key=lambda branch: len(ids(wanted, branch)))
    found = ids(wanted, early)
    again = run(backend, asked([*PROMPT, *found], max_tokens=1))
    if len(found) > 10:
        assert end(again).stats.reused >= len(PROMPT) + len(found) - 2
    else:
        assert end(again).stats.reused >= len(PROMPT)


def test_a_text_stepped_back_from_is_there_again(folder: Path, backend: Local) -> None:
    long = [*PROMPT, *range(100, 160)]
    run(backend, asked(long, max_tokens=2))
    run(backend, asked([*PROMPT, 7, 8, 9], max_tokens=2))
    again = run(backend, asked([*long, 5], max_tokens=8))
    assert end(again).stats.reused == len(long)
    assert ids(again) == ids(run(local(folder, path="fast"), asked([*long, 5], max_tokens=8)))


def test_any_order_of_texts_gives_what_a_fresh_start_gives(folder: Path, backend: Local) -> None:
    dice = random.Random(8)
    texts = [PROMPT]
    reused = 0
    for _ in range(60):
        base = dice.choice(texts)
        cut = dice.randint(1, len(base))
        text = base[:cut] + dice.choices(range(300), k=dice.randint(1, 30))
        texts.append(text)
        for prompt in (text, dice.choice(texts)):
            events = run(backend, asked(prompt, max_tokens=3))
            fresh = local_fresh(folder, prompt)
            assert ids(events) == fresh
            reused += end(events).stats.reused
    assert reused > 1000, "hardly anything was reused: the test says nothing"


_FRESH: dict[str, Local] = {}


def local_fresh(folder: Path, prompt: list[int]) -> list[int]:
    """Greedy ids from a backend that scores first, and so has forgotten everything."""
    backend = _FRESH.setdefault(str(folder), local(folder, path="fast", lookup=False))
    return ids(run(backend, asked(prompt, max_tokens=3, score=True)))


def test_what_is_kept_is_bounded(backend: Local) -> None:
    dice = random.Random(2)
    for _ in range(12):
        run(backend, asked(dice.choices(range(300), k=1500), max_tokens=1))
    kept = sum(map(len, backend._engine.cache.segments))
    assert 0 < kept <= SEGMENT_BUDGET


def test_scoring_runs_every_position_whatever_is_kept(backend: Local) -> None:
    long = [*PROMPT, *range(100, 160)]
    wanted = scored(backend, long)
    run(backend, asked(long, max_tokens=2))
    run(backend, asked([*range(200, 240)], max_tokens=2))
    assert scored(backend, long) == wanted


def scored(backend: Local, prompt: list[int]) -> list[Token]:
    events = run(backend, asked(prompt, score=True, max_tokens=0))
    found = [token for event in events if isinstance(event, Scored) for token in event.tokens]
    assert [token.id for token in found] == prompt
    assert end(events).stats.reused == 0
    return found


@pytest.mark.parametrize("where", ["extract", "select"])
def test_memory_that_ran_out_for_what_may_be_useful_later_costs_nothing(
    folder: Path, backend: Local, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def refused(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    request = asked(PROMPT, branches=3, max_tokens=20, sampling=Sampling(seed=3))
    after = asked([*range(200, 240)], max_tokens=5)
    wanted, later = run(backend, request), ids(run(backend, after))
    backend = local(folder, path="fast")
    with monkeypatch.context() as patch:
        if where == "extract":
            patch.setattr(backend._model, "extract", refused)
        else:
            patch.setattr(backend._model, "select", refused)
        again = run(backend, request)
        assert [ids(again, branch) for branch in range(3)] == [
            ids(wanted, branch) for branch in range(3)
        ]
        assert {end(again, branch).reason for branch in range(3)} == {"length"}
        assert backend._model.rows == 1
        assert backend._model.length == len(backend._engine.cache.ids)
        assert ids(run(backend, after)) == later


@pytest.mark.parametrize("path", ["fast", "reference"])
def test_ids_and_positions_agree_whatever_is_done_and_fails(folder: Path, path: str) -> None:
    """A thousand random operations, some of them cancelled inside the forward pass."""
    dice, never = random.Random(6), threading.Event()
    always = threading.Event()
    always.set()
    model = local(folder, path=path)._model
    cache = PrefixCache(model)
    held: list[list[int]] = [[]]
    for _ in range(1000):
        deed = dice.choice(["append", "append", "cancel", "rewind", "keep", "trim", "rows"])
        if deed == "append":
            new = [dice.choices(range(300), k=2) for _ in held]
            cache.append(new, cancel=never)
            held = [row + more for row, more in zip(held, new, strict=True)]
        elif deed == "cancel":
            with pytest.raises(Cancelled):
                cache.append([[1, 2, 3]] * len(held), cancel=always)
        elif deed == "rewind":
            to = dice.randint(0, len(held[0]))
            assert cache.rewind(to) == to
            held = [row[:to] for row in held]
        elif deed == "rows" and len(held) > 1:
            rows = sorted(dice.sample(range(len(held)), dice.randint(1, len(held))))
            cache.select(rows)
            held = [held[row] for row in rows]
        elif deed == "rows":
            cache.branch(3)
            held = [list(held[0]) for _ in range(3)]
        elif len(held) == 1:
            text = [*held[0][: dice.randint(0, len(held[0]))], *dice.choices(range(300), k=12)]
            reached = cache.keep(text) if deed == "keep" else cache.trim(text)
            held = [text[:reached]]
        assert (model.rows, model.length) == (len(held), len(held[0]))
        assert (cache.rows, cache.length, list(cache.ids)) == (*map(len, (held, held[0])), held[0])
        if len(held[0]) > 400:
            cache.rewind(0)
            held = [[] for _ in held]
    cache.reset()
    assert (cache.length, model.length, cache.segments) == (0, 0, [])
