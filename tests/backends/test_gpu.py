"""The GPU ring: the same laws on a CUDA device. Skipped, with a line, where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fixtures.checkpoints import qwen2
from fixtures.opening import asked, end, ids, local, run
from qwen_tui.backends.local.nn.linear import Int8, integers
from qwen_tui.types import Sampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return qwen2(tmp_path / "model", hidden=128, intermediate=192, layers=3)


@pytest.mark.parametrize("path", ["reference", "fast"])
def test_float32_greedy_ids_are_the_cpus(folder: Path, path: str) -> None:
    wanted = ids(run(local(folder, device="cpu", dtype="fp32"), asked(range(40), max_tokens=48)))
    backend = local(folder, path=path, device="cuda", dtype="fp32")
    assert ids(run(backend, asked(range(40), max_tokens=48))) == wanted


def test_siblings_are_what_each_would_be_alone(folder: Path) -> None:
    backend = local(folder, path="fast", device="cuda", dtype="fp32")
    sampling = Sampling(seed=11)
    together = run(backend, asked(range(30), sampling=sampling, branches=4, max_tokens=24))
    assert len({tuple(ids(together, branch)) for branch in range(4)}) > 1
    first = run(backend, asked(range(30), sampling=sampling, max_tokens=24))
    assert ids(first) == ids(together, 0)


@pytest.mark.parametrize("quant", ["none", "int8", "nf4"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_every_kind_generates(folder: Path, quant: str, dtype: str) -> None:
    backend = local(folder, path="fast", device="cuda", dtype=dtype, quant=quant)
    events = run(backend, asked(range(200), max_tokens=16))
    assert len(ids(events)) == 16
    assert end(events).reason == "length"


def test_few_rows_of_int8_are_multiplied_as_they_lie() -> None:
    device = torch.device("cuda")
    assert integers(device)
    dice = torch.Generator().manual_seed(0)
    layer = Int8.of(torch.randn(192, 128, generator=dice), torch.randn(192, generator=dice))
    x = torch.randn(3, 128, generator=dice)
    wanted = layer.in_integers(x)
    assert layer.bias is not None
    there = Int8(layer.weight.to(device), layer.scale.to(device), layer.bias.to(device))
    torch.testing.assert_close(there(x.to(device)).cpu(), wanted, rtol=1e-5, atol=1e-5)


def test_an_edited_prompt_runs_only_its_tail(folder: Path) -> None:
    backend = local(folder, path="fast", device="cuda", dtype="fp32")
    run(backend, asked(range(200), max_tokens=4))
    edited = run(backend, asked([*range(190), 5, 6, 7], max_tokens=4))
    assert end(edited).stats.reused >= 190
    fresh = local(folder, path="fast", device="cuda", dtype="fp32")
    assert ids(edited) == ids(run(fresh, asked([*range(190), 5, 6, 7], max_tokens=4)))
