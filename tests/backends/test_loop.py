"""The local backend on real tiny checkpoints: the same ids however the work was cut up."""

from __future__ import annotations

import math
import random
import re
import threading
import weakref
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from fixtures.checkpoints import other, qwen2, special_ids
from fixtures.opening import GREEDY, asked, end, ids, local, run, tokens
from qwen_tui.backends.local.backend import Local
from qwen_tui.backends.local.nn.qwen2 import KV, Qwen2
from qwen_tui.types import (
    Emitted,
    Finished,
    Prefilled,
    Progress,
    Sampling,
    Scored,
    joined,
)
from qwen_tui.vocab.alignment import shared_length as common

PROMPT = [
    40,
    7,
    190,
    22,
    64,
    65,
    101,
    300,
    12,
    90,
    31,
    5,
    77,
    250,
    11,
    42,
    8,
    33,
    120,
    9,
    201,
    3,
    4,
]
KNOWN = 320
RAW = Sampling(min_p=0.0, seed=11)


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QWEN_TUI_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen2(tmp_path_factory.mktemp("checkpoint"), layers=3)


@pytest.fixture(scope="module", params=["reference", "fast"])
def backend(request: pytest.FixtureRequest, folder: Path) -> Iterator[Local]:
    made = local(folder, path=request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference(folder: Path) -> Iterator[Local]:
    made = local(folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Any:
    """transformers alone, with the padding rows cut off."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(oracle: Any, prompt: Sequence[int]) -> torch.Tensor:
    """[n, KNOWN] logits of a whole prompt, without any cache."""
    with torch.inference_mode():
        found: torch.Tensor = oracle(torch.tensor([prompt])).logits[0, :, :KNOWN]
    return found


def whole(backend: Local) -> bool:
    """Whether the cache holds exactly the ids that are written down."""
    model, cache = backend._model, backend._engine.cache
    return model.rows == cache.rows == 1 and model.length == len(cache.ids)


# -- the same ids, however it was cut up -----------------------------------------------------------


def test_greedy_ids_are_those_of_transformers_generate(backend: Local, oracle: Any) -> None:
    for prompt in (PROMPT, PROMPT[:1], PROMPT[::-1]):
        padding = list(range(KNOWN, oracle.config.vocab_size))
        expected = oracle.generate(
            torch.tensor([prompt]), max_new_tokens=24, do_sample=False, suppress_tokens=padding
        )[0, len(prompt) :].tolist()
        assert ids(run(backend, asked(prompt, max_tokens=24))) == expected


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 8, 22, 23, 24])
def test_every_chunk_size_gives_the_same(folder: Path, backend: Local, chunk: int) -> None:
    path = "fast" if backend.environment.kernels == "qwen-tui" else "reference"
    cut = local(folder, path=path, chunk=chunk)
    events = run(cut, asked(PROMPT))
    assert ids(events) == ids(run(backend, asked(PROMPT)))
    chunks = end(events).schedule["chunks"]
    assert sum(chunks) == len(PROMPT)
    assert max(chunks) == min(chunk, len(PROMPT))
    steps = [event for event in events if isinstance(event, Progress)]
    assert [each.done for each in steps] == sorted({each.done for each in steps})
    assert not steps or (steps[0].done, steps[-1].done) == (0, len(PROMPT))
    cut.close()


def test_two_hundred_random_edits_reuse_what_is_left(backend: Local, oracle: Any) -> None:
    dice = random.Random(5)
    prompt = list(PROMPT)
    run(backend, asked(prompt))
    for _ in range(200):
        place = dice.randrange(len(prompt) + 1)
        gone = dice.randrange(4)
        prompt[place : place + gone] = [dice.randrange(KNOWN) for _ in range(dice.randrange(4))]
        prompt = prompt[:60] or [1]
        held = list(backend._engine.cache.ids)
        events = run(backend, asked(prompt, max_tokens=2))
        (ready,) = [event for event in events if isinstance(event, Prefilled)]
        assert ready.reused == min(common(held, prompt), len(prompt) - 1)
        first = tokens(events)[0]
        expected = logits(oracle, prompt)[-1].log_softmax(-1)
        assert first.id == int(expected.argmax())
        assert first.logprob == pytest.approx(float(expected.max()), abs=1e-3)
        assert whole(backend)


def test_sampled_text_does_not_depend_on_what_ran_before(backend: Local) -> None:
    request = asked(PROMPT, sampling=RAW, max_tokens=16)
    backend._engine.cache.reset()
    fresh = ids(run(backend, request))
    run(backend, asked([*PROMPT[:9], 1, 2, 3], sampling=RAW))
    assert ids(run(backend, request)) == fresh
    assert ids(run(backend, request)) == fresh
    other_seed = asked(PROMPT, sampling=Sampling(min_p=0.0, seed=12), max_tokens=16)
    assert ids(run(backend, other_seed)) != fresh


def test_without_a_seed_two_runs_differ(reference: Local) -> None:
    request = asked(PROMPT, sampling=Sampling(min_p=0.0, temperature=3.0), max_tokens=12)
    assert ids(run(reference, request)) != ids(run(reference, request))


def test_batched_branches_are_the_single_ones(backend: Local) -> None:
    three = run(backend, asked(PROMPT, sampling=RAW, branches=3, max_tokens=12))
    assert ids(three, 0) == ids(run(backend, asked(PROMPT, sampling=RAW, max_tokens=12)))
    two = run(backend, asked(PROMPT, sampling=RAW, branches=2, max_tokens=12))
    assert [ids(two, each) for each in range(2)] == [ids(three, each) for each in range(2)]
    assert len({tuple(ids(three, each)) for each in range(3)}) == 3
    assert whole(backend)


def test_branches_that_end_early_leave_the_others_exact(backend: Local) -> None:
    """A stop string ends each branch where its text has it; the rest run on in a smaller batch."""
    free = run(backend, asked(PROMPT, sampling=RAW, branches=4, max_tokens=20))
    stop = next(
        text
        for text in (token.data.decode("utf-8", "ignore") for token in tokens(free, 1)[2:9])
        if text.strip()
    )
    events = run(backend, asked(PROMPT, sampling=RAW, branches=4, max_tokens=20, stop=(stop,)))
    assert end(events, 1).reason == "stop"
    for branch in range(4):
        text = joined(tokens(free, branch))
        assert joined(tokens(events, branch)) == text.partition(stop.encode())[0]
    lengths = [len(ids(events, branch)) for branch in range(4)]
    longest = end(events, lengths.index(max(lengths)))
    sizes = [rows for _, rows in longest.schedule["batch"]]
    assert sizes[0] == 4
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) > 1 or min(lengths) == max(lengths)
    assert whole(backend)


# -- cancelled is whole ----------------------------------------------------------------------------


def test_cancelled_at_every_token_it_goes_on_exactly(backend: Local) -> None:
    full = ids(run(backend, asked(PROMPT, max_tokens=10)))
    for count in range(1, 10):
        backend._engine.cache.reset()
        cancel, events = threading.Event(), []
        for event in backend.stream(asked(PROMPT, max_tokens=10), cancel):
            events.append(event)
            if len(ids(events)) == count:
                cancel.set()
        assert end(events).reason == "cancelled"
        assert ids(events) == full[:count]
        assert whole(backend)
        rest = run(backend, asked(PROMPT + full[:count], max_tokens=10 - count))
        assert ids(rest) == full[count:]
        assert end(rest).stats.reused >= len(PROMPT) + count - 1


class Trips(threading.Event):
    """A cancel event that is set by being asked for the n-th time."""

    def __init__(self, asks: int) -> None:
        super().__init__()
        self.asks = asks

    def is_set(self) -> bool:
        """One ask fewer is left."""
        self.asks -= 1
        return self.asks < 0


def test_cancelled_wherever_it_asks_nothing_is_torn(folder: Path, backend: Local) -> None:
    """Between chunks, between layers, between steps: each place where cancel is looked at."""
    path = "fast" if backend.environment.kernels == "qwen-tui" else "reference"
    full = ids(run(backend, asked(PROMPT, max_tokens=4)))
    cut, finished = local(folder, path=path, chunk=8), False
    for asks in range(200):
        events = list(cut.stream(asked(PROMPT, max_tokens=4), Trips(asks)))
        assert whole(cut)
        assert ids(events) == full[: len(ids(events))]
        if end(events).reason == "length":
            finished = True
            break
        cut._engine.cache.reset()
        assert end(events).reason == "cancelled"
        list(cut.stream(asked(PROMPT, max_tokens=4), Trips(asks)))
        assert ids(run(cut, asked(PROMPT, max_tokens=4))) == full
        cut._engine.cache.reset()
    assert finished
    cut.close()


def test_a_dropped_stream_leaves_it_whole(backend: Local) -> None:
    full = ids(run(backend, asked(PROMPT, branches=2, sampling=RAW)), 1)
    for count in range(6):
        stream = backend.stream(asked(PROMPT, branches=2, sampling=RAW), threading.Event())
        for _, _event in zip(range(count), stream, strict=False):
            pass
        stream.close()  # type: ignore[attr-defined]
        assert whole(backend)
    assert ids(run(backend, asked(PROMPT, branches=2, sampling=RAW)), 1) == full


# -- what a token says -----------------------------------------------------------------------------


def test_padding_rows_are_never_seen(backend: Local, oracle: Any) -> None:
    """The checkpoint's padding rows have the largest logits of all."""
    with torch.inference_mode():
        row = oracle(torch.tensor([PROMPT])).logits[0, -1]
    assert int(row.argmax()) >= KNOWN
    events = run(backend, asked(PROMPT, choices=100, sampling=RAW, max_tokens=30))
    expected = row[:KNOWN].log_softmax(-1)
    first = tokens(events)[0]
    assert first.logprob == pytest.approx(float(expected[first.id]), abs=1e-4)
    assert len(first.choices) == 100
    for token in tokens(events):
        assert token.id < KNOWN
        assert all(choice.id < KNOWN for choice in token.choices)
        assert sum(math.exp(choice.logprob) for choice in token.choices) <= 1 + 1e-5


@pytest.mark.parametrize("chunk", [0, 5])
def test_scores_are_those_of_the_whole_prompt(folder: Path, oracle: Any, chunk: int) -> None:
    scoring = local(folder, chunk=chunk)
    run(scoring, asked(PROMPT))
    events = run(scoring, asked(PROMPT, score=True, choices=3, max_tokens=0))
    scored = [event for event in events if isinstance(event, Scored)]
    assert [event.start for event in scored] == sorted(event.start for event in scored)
    found = [token for event in scored for token in event.tokens]
    assert [token.id for token in found] == PROMPT
    assert found[0].logprob is None
    expected = logits(oracle, PROMPT).log_softmax(-1)
    for place, token in enumerate(found[1:]):
        assert token.logprob == pytest.approx(float(expected[place, token.id]), abs=1e-3)
        assert [each.id for each in token.choices] == expected[place].topk(3).indices.tolist()
    assert end(events).reason == "length"
    assert ids(run(scoring, asked(PROMPT, score=True))) == ids(run(scoring, asked(PROMPT)))
    scoring.close()


def test_times_and_statistics_add_up(backend: Local) -> None:
    events = run(backend, asked(PROMPT, max_tokens=6))
    times = [event.ms for event in events if isinstance(event, Emitted)]
    assert times == sorted(times)
    assert [event.index for event in events if isinstance(event, Emitted)] == list(range(6))
    stats = end(events).stats
    assert (stats.prompt, stats.emitted) == (len(PROMPT), 6)
    assert 0 < stats.prefill_s <= stats.ttft_s
    assert stats.decode_s > 0
    assert stats.tok_s > 0
    assert stats.peak_bytes > 0


# -- ends ------------------------------------------------------------------------------------------


def test_every_eos_of_the_generation_config_ends_it(tmp_path: Path) -> None:
    folder = qwen2(tmp_path / "chat", chat=True)
    chat = local(folder)
    added = special_ids(folder)
    for spelling in ("<|endoftext|>", "<|im_end|>"):
        likely = Sampling(temperature=0.0, logit_bias=((added[spelling], 1000.0),))
        events = run(chat, asked(PROMPT, sampling=likely))
        assert end(events).reason == "eos"
        assert [token.data for token in tokens(events)] == [spelling.encode()]
        on = run(chat, asked(PROMPT, sampling=likely, ignore_eos=True))
        assert end(on).reason == "length"
        assert ids(on) == [added[spelling]] * 8
    chat.close()


def test_stop_strings_cut_exactly_wherever_they_stand(backend: Local) -> None:
    free = joined(tokens(run(backend, asked(PROMPT, max_tokens=40, sampling=RAW))))
    runs = [found.group().decode() for found in re.finditer(rb"[ -~]{2,}", free)]
    stops = {text[start:] for text in runs for start in range(len(text))}
    assert len(stops) > 3
    for stop in sorted(stops):
        request = asked(PROMPT, max_tokens=40, sampling=RAW, stop=("never there", stop))
        events = run(backend, request)
        assert (end(events).reason, end(events).stop) == ("stop", stop)
        assert joined(tokens(events)) == free.partition(stop.encode())[0]
        assert whole(backend)


def test_a_stop_string_that_never_completes_loses_nothing(backend: Local) -> None:
    free = tokens(run(backend, asked(PROMPT, max_tokens=12)))
    almost = joined(free[-3:]) + b"\x00"
    stop = almost.decode("utf-8", "ignore")
    events = run(backend, asked(PROMPT, max_tokens=12, stop=(stop,)))
    assert tokens(events) == free
    assert end(events).reason == "length"


def test_the_context_is_a_limit_that_is_named(tmp_path: Path) -> None:
    small = local(qwen2(tmp_path / "small", context=32))
    assert small.context == 32
    events = run(small, asked(PROMPT, max_tokens=-1))
    assert (end(events).reason, len(ids(events))) == ("length", 32 - len(PROMPT))
    full = run(small, asked([1] * 32))
    assert (end(full).reason, ids(full)) == ("length", [])
    over = run(small, asked([1] * 33, branches=2))
    assert {end(over, branch).reason for branch in (0, 1)} == {"failed"}
    assert "33" in end(over).message
    assert "32" in end(over).message
    small.close()


def test_a_smaller_context_can_be_asked_for(folder: Path) -> None:
    made = local(folder, context=30)
    assert made.context == 30
    assert len(ids(run(made, asked(PROMPT, max_tokens=-1)))) == 7
    made.close()


def test_an_empty_prompt_is_seeded_with_the_end_of_text(folder: Path, reference: Local) -> None:
    seeded = run(reference, asked([special_ids(folder)["<|endoftext|>"]]))
    assert ids(run(reference, asked([]))) == ids(seeded)


def test_tokens_of_another_tokenizer_are_refused(reference: Local) -> None:
    for bad in (5000, -1):
        events = run(reference, asked([*PROMPT, bad]))
        assert end(events).reason == "failed"
        assert end(events).message
        assert whole(reference)


def test_a_bias_that_bans_everything_is_said(reference: Local) -> None:
    banned = Sampling(logit_bias=tuple((each, -math.inf) for each in range(KNOWN)))
    events = run(reference, asked(PROMPT, sampling=banned))
    assert end(events).reason == "failed"
    assert "banned" in end(events).message


# -- the first tokens spell the prefix -------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["wor", "The", " hel", "\n", "日本", "zzq"])
def test_the_first_tokens_spell_the_prefix(backend: Local, prefix: str) -> None:
    for sampling in (GREEDY, RAW):
        events = run(backend, asked(PROMPT, prefix=prefix.encode(), sampling=sampling))
        assert joined(tokens(events)).startswith(prefix.encode())
        assert all(token.logprob is not None for token in tokens(events))


# -- what goes wrong -------------------------------------------------------------------------------


class Failing:
    """The real model, except that some forwards run out of memory or give NaN."""

    def __init__(self, model: Any, *, oom: Sequence[int] = (), nan: Sequence[int] = ()) -> None:
        self.model, self.oom, self.nan, self.calls = model, set(oom), set(nan), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def forward(self, ids: Any, **kwargs: Any) -> torch.Tensor:
        """Count, and fail when it is time."""
        self.calls += 1
        if self.calls in self.oom:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        found: torch.Tensor = self.model.forward(ids, **kwargs)
        return found * math.nan if self.calls in self.nan else found

    def prefill(self, ids: Any, **kwargs: Any) -> Generator[float, None, torch.Tensor]:
        """One forward, which may fail."""
        yield 0.0
        return self.forward([ids], **kwargs)


@pytest.fixture
def failing(folder: Path, request: pytest.FixtureRequest) -> Iterator[Local]:
    made = local(folder)
    made._engine.cache.model = Failing(made._model, **request.param)
    yield made
    made.close()


@pytest.mark.parametrize("failing", [{"oom": [4]}], indirect=True)
def test_out_of_memory_once_it_goes_on(failing: Local, reference: Local) -> None:
    events = run(failing, asked(PROMPT))
    assert ids(events) == ids(run(reference, asked(PROMPT)))
    assert end(events).reason == "length"
    assert sum(end(events).schedule["chunks"]) > len(PROMPT)


@pytest.mark.parametrize("failing", [{"oom": [4]}], indirect=True)
def test_out_of_memory_with_branches_one_goes_on(failing: Local, reference: Local) -> None:
    events = run(failing, asked(PROMPT, branches=3, sampling=RAW))
    assert [end(events, branch).reason for branch in range(3)] == ["length", "oom", "oom"]
    assert "memory" in end(events, 1).message
    assert end(events, 1).hint
    alone = run(reference, asked(PROMPT, sampling=RAW))
    assert ids(events, 0) == ids(alone)
    assert len(ids(events, 1)) == 3


@pytest.mark.parametrize("failing", [{"oom": [4, 5]}], indirect=True)
def test_out_of_memory_twice_it_ends_and_keeps_the_tokens(failing: Local, reference: Local) -> None:
    events = run(failing, asked(PROMPT))
    assert end(events).reason == "oom"
    expected = ids(run(reference, asked(PROMPT)))
    assert ids(events) == expected[:3]
    assert ids(run(failing, asked(PROMPT))) == expected


@pytest.mark.parametrize("failing", [{"oom": [1]}], indirect=True)
def test_out_of_memory_in_the_prompt_ends(failing: Local) -> None:
    events = run(failing, asked(PROMPT))
    assert (end(events).reason, ids(events)) == ("oom", [])
    assert end(run(failing, asked(PROMPT))).reason == "length"


@pytest.mark.parametrize("failing", [{"nan": [3]}], indirect=True)
def test_logits_that_are_not_finite_end_it(failing: Local) -> None:
    events = run(failing, asked(PROMPT))
    assert end(events).reason == "nan"
    assert len(ids(events)) == 2
    assert str(len(PROMPT) + 2) in end(events).message
    assert "--dtype" in end(events).hint


def test_a_defect_is_not_hidden(folder: Path) -> None:
    made = local(folder)

    def broken(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("size mismatch")

    made._model.forward = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="size mismatch"):
        run(made, asked(PROMPT))


# -- long, and other architectures -----------------------------------------------------------------


def test_eight_thousand_tokens_with_memory_for_the_cache_alone(tmp_path: Path) -> None:
    folder = qwen2(tmp_path / "long", layers=1, hidden=16, heads=2, kv_heads=1, context=16_384)
    made = local(folder, path="fast")
    events = run(made, asked([1, 2, 3], max_tokens=8192))
    assert (end(events).reason, len(ids(events))) == ("length", 8192)
    held = made._model._cache.nbytes  # type: ignore[attr-defined]
    assert held <= 2 * 2 * 8 * 4 * (8192 + 3) + 2 * 512 * 8 * 4
    made.close()


def test_the_reference_cache_grows_by_a_quarter_at_most(tmp_path: Path) -> None:
    folder = qwen2(tmp_path / "long", layers=1, hidden=16, heads=2, kv_heads=1)
    made = local(folder)
    run(made, asked([1, 2, 3], max_tokens=600))
    (layer,) = made._model._cache.states.layers  # type: ignore[attr-defined]
    assert layer.keys.shape[2] == 602
    assert layer._rooms[0].shape[2] <= 602 * 1.25 + 1
    made.close()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "mamba"])
def test_other_architectures_run_on_the_reference_path(tmp_path: Path, kind: str) -> None:
    """A sliding window (mistral's) cannot be rewound once it has slid: then all is run again. A
    recurrent state (mamba's) cannot be fed in parts: then each step runs all of it.
    """
    folder = other(tmp_path / kind, kind)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    made = local(folder, path="auto", chunk=10)
    for prompt in (PROMPT, [*PROMPT[:14], 1, 2, 3], PROMPT[:5]):
        expected = network.generate(torch.tensor([prompt]), max_new_tokens=10, do_sample=False)
        events = run(made, asked(prompt, max_tokens=10))
        assert ids(events) == expected[0, len(prompt) :].tolist()
        assert whole(made)
    three = run(made, asked(PROMPT, sampling=RAW, branches=3))
    assert ids(three, 0) == ids(run(made, asked(PROMPT, sampling=RAW)))
    made.close()


def test_fast_and_reference_agree_on_a_tied_checkpoint(tmp_path: Path) -> None:
    folder = qwen2(tmp_path / "tied", tied=True, shards=3)
    found = []
    for path in ("reference", "fast"):
        made = local(folder, path=path)
        found.append(ids(run(made, asked(PROMPT, sampling=RAW, max_tokens=24))))
        made.close()
    assert found[0] == found[1]


def test_what_comes_first_comes_first(backend: Local) -> None:
    """Prefilled before every token, and a branch's end after all of its tokens."""
    events = run(backend, asked(PROMPT, branches=3, sampling=RAW))
    assert isinstance(events[0], Prefilled)
    for branch in range(3):
        mine = [event for event in events if getattr(event, "branch", None) == branch]
        assert [isinstance(event, Finished) for event in mine] == [False] * 8 + [True]


def test_the_retry_has_the_memory_of_what_failed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in flight would keep the old cache alive beside the new one."""
    kept: list[Any] = []
    backend = local(folder, path="fast")
    through = Qwen2.through

    def failing(self: Qwen2, index: int, x: Any, cache: KV, *rest: Any) -> Any:
        if cache.length == len(PROMPT) + 3 and index == 1 and not kept:
            kept.append(weakref.ref(cache))
            raise torch.OutOfMemoryError("CUDA out of memory")
        if len(kept) == 1 and cache is not kept[0]():
            kept.append(kept[0]())
        return through(self, index, x, cache, *rest)

    wanted = ids(run(local(folder, path="fast"), asked(PROMPT)))
    monkeypatch.setattr(Qwen2, "through", failing)
    assert ids(run(backend, asked(PROMPT))) == wanted
    assert kept[1] is None


def test_memory_that_runs_out_in_the_last_product_leaves_the_cache_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = local(folder, path="fast")._model
    model.forward([PROMPT], cancel=threading.Event())
    monkeypatch.setattr(Qwen2, "logits", failing)
    with pytest.raises(torch.OutOfMemoryError):
        model.forward([[5]], cancel=threading.Event())
    assert model.length == len(PROMPT)
