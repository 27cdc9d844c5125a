"""Where arithmetic rounds by shape, the recorded schedule decides the text: done again, it is the
same, in every kind of weights.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.checkpoints import qwen2
from fixtures.opening import asked, end, ids, local, run
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
