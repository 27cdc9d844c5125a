"""Where arithmetic rounds by shape, the recorded schedule decides the text: done again, it is the
same, in every kind of weights.
"""

from __future__ import annotations

import platform
import random
import threading
from pathlib import Path

import pytest
import torch

from fixtures.checkpoints import qwen2
from fixtures.opening import asked, end, ids, local, run
from qwen_tui.backends.local.nn.linear import has
from qwen_tui.types import Sampling

PROMPT = [5, 6, 7, 8, 9, 10, 5, 6, 7, 8, 9, 11, 5, 6, *range(40, 90)]
KINDS = [("bf16", "none"), ("fp16", "none"), ("auto", "int8"), ("bf16", "int4"), ("bf16", "nf4")]


@pytest.mark.parametrize(("dtype", "quant"), KINDS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_same_schedule_gives_the_same_text(
    tmp_path: Path, dtype: str, quant: str, temperature: float
) -> None:
    folder = qwen2(tmp_path / "m", hidden=128, intermediate=192, layers=2)
    sampling = Sampling(temperature=temperature, seed=3, repetition_penalty=1.1)
    told = []
    for _ in range(2):
        backend = local(folder, path="fast", dtype=dtype, quant=quant, chunk=24)
        first = run(backend, asked(PROMPT, max_tokens=30, sampling=sampling))
        sources = ((*PROMPT, *ids(first)),)
        edited = [*PROMPT[:50], 7, *PROMPT[51:]]
        again = asked(edited, max_tokens=30, sampling=sampling, sources=sources, branches=1)
        events = run(backend, again)
        siblings = run(backend, asked(PROMPT, max_tokens=9, sampling=sampling, branches=3))
        told.append(
            [
                (ids(each, branch), end(each, branch).schedule)
                for each, branches in ((first, 1), (events, 1), (siblings, 3))
                for branch in range(branches)
            ]
        )
    assert told[0] == told[1]
    assert told[0][1][1]["reused"] >= 50
    assert len({tuple(text) for text, _ in told[0][2:]}) > (temperature > 0)


@pytest.mark.skipif(
    platform.machine() != "x86_64"
    or not has("_is_avx512_bf16_supported")
    or has("_is_amx_tile_supported"),
    reason="known of the kernels for AVX512-BF16 alone",
)
@pytest.mark.parametrize("rows", [2, 3, 5, 8])
def test_in_bf16_a_position_gives_the_same_however_many_are_run_beside_it(
    tmp_path: Path, rows: int
) -> None:
    """So that a text is the same with speculative decoding and without, whatever the margins: to
    the last bit, over the borders at which the kernels change.
    """
    folder = qwen2(tmp_path / "m", hidden=448, heads=7, kv_heads=1, intermediate=1536, layers=2)
    model = local(folder, path="fast", dtype="bf16")._model
    never, dice = threading.Event(), random.Random(3)
    text = dice.choices(range(300), k=160)
    for start in (1, 20, 70, 130):
        model.rewind(0)
        model.forward([text[:start]], cancel=never)
        one = [model.forward([[id]], cancel=never) for id in text[start : start + 24]]
        model.rewind(start)
        many = [
            model.forward([text[at : at + rows]], every=True, cancel=never)[0]
            for at in range(start, start + 24, rows)
        ]
        assert torch.equal(torch.cat(one), torch.cat(many)[:24])


def test_in_bf16_a_sibling_says_what_it_would_say_alone(tmp_path: Path) -> None:
    folder = qwen2(tmp_path / "m", hidden=128, intermediate=192, layers=2)
    backend = local(folder, path="fast", dtype="bf16")
    sampling = Sampling(seed=3)
    both = run(backend, asked(PROMPT, branches=3, max_tokens=30, sampling=sampling))
    alone = run(backend, asked(PROMPT, max_tokens=30, sampling=sampling))
    assert ids(both, 0) == ids(alone)
