"""FBGEMM's products: what they compute, when they are chosen, and that they are chosen for good."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fixtures.checkpoints import qwen2
from fixtures.opening import asked, end, ids, local, run
from qwen_tui.backends.local.backend import Local
from qwen_tui.backends.local.nn import fbgemm
from qwen_tui.backends.local.nn.linear import Int8
from qwen_tui.backends.local.nn.torchscript import scripted
from qwen_tui.backends.local.planning import kernel_speed
from qwen_tui.backends.local.planning.machine import Speeds
from qwen_tui.backends.local.weights import packed_file
from qwen_tui.hub import Shape
from qwen_tui.types import Progress, Request, Sampling, Scored, Trouble

needed = pytest.mark.skipif(not fbgemm.available(), reason="this torch has no FBGEMM here")

SLOW16 = Speeds(bf16=9.0, fp32=14.0, int8=6.0, fbgemm16=5.0, fbgemm8=2.5)
FAST16 = Speeds(bf16=6.0, fp32=14.0, int8=3.7, fbgemm16=5.5, fbgemm8=3.3)


def made(shape: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def eight(weight: Tensor, bias: Tensor | None = None) -> tuple[fbgemm.Packed8, Tensor]:
    """A packed layer, and the float32 weights that it stands for."""
    whole = Int8.of(weight, bias)
    with fbgemm.packing():
        packed = fbgemm.Packed8.of(whole.weight, whole.scale, bias)
    return packed, whole.weight.float() * whole.scale[:, None]


# -- what is computed ------------------------------------------------------------------------------


@needed
@pytest.mark.parametrize("rows", [1, 2, 5, 64])
def test_the_8_bit_product_errs_by_its_weights_alone(rows: int) -> None:
    bias = made((300,), 3)
    layer, weight = eight(made((300, 200)), bias)
    x = made((rows, 200), 1)
    right = x @ weight.T + bias
    assert ((layer(x) - right).norm() / right.norm()).item() < 3e-4


@needed
def test_an_outlier_does_not_swallow_the_other_activations() -> None:
    """Qwen2.5 has rows with one activation hundreds of times larger than the rest. In 8 bits of one
    term the rest would all be zero.
    """
    layer, weight = eight(made((64, 512)))
    x = made((1, 512), 1)
    x[0, 7] = 400.0
    rest = x.clone()
    rest[0, 7] = 0.0
    found = layer(x) - 400.0 * weight[:, 7]
    right = rest @ weight.T
    assert ((found - right).norm() / right.norm()).item() < 0.05


@needed
def test_a_row_gives_the_same_whatever_stands_beside_it() -> None:
    layer, _ = eight(made((96, 130)))
    x = made((9, 130), 1) * torch.logspace(-3, 3, 9)[:, None]
    alone = torch.cat([layer(x[row : row + 1]) for row in range(9)])
    assert torch.equal(layer(x), alone)


@needed
@pytest.mark.parametrize("columns", [64, 130, 897])
def test_nor_after_a_norm_or_on_top_of_sums(columns: int) -> None:
    layer, _ = eight(made((96, columns)))
    x = made((9, columns), 1) * torch.logspace(-3, 3, 9)[:, None]
    weight, sums = made((columns,), 2), made((9, 96), 4)
    rows = [slice(row, row + 1) for row in range(9)]
    alone = torch.cat([layer.normed(x[row], weight, 1e-6) for row in rows])
    assert torch.equal(layer.normed(x, weight, 1e-6), alone)
    alone = torch.cat([layer.added_to(sums[row], x[row]) for row in rows])
    assert torch.equal(layer.added_to(sums, x), alone)


@needed
def test_norm_and_sum_are_what_they_are_apart() -> None:
    bias = made((300,), 3)
    layer, _ = eight(made((300, 200)), bias)
    x, weight, sums = made((5, 200), 1) * 7, made((200,), 2), made((5, 300), 4)
    right = layer(F.rms_norm(x, (200,), weight, 1e-6))
    assert torch.allclose(layer.normed(x, weight, 1e-6), right, rtol=1e-3, atol=1e-3)
    assert torch.allclose(layer.added_to(sums, x), sums + layer(x), rtol=1e-5, atol=1e-5)


@needed
def test_no_python_runs_between_the_operators_of_a_product() -> None:
    """A decoding step of a small model is mostly small operators; in Python they take three times
    as long.
    """
    for function in (fbgemm._product, fbgemm._normed, fbgemm._product16, fbgemm._layer):
        assert isinstance(function, torch.jit.ScriptFunction)


def test_where_torch_scripts_no_more_the_function_itself_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def doubled(x: Tensor) -> Tensor:
        return x + x

    monkeypatch.delattr(torch.jit, "script")
    assert scripted(doubled) is doubled


@needed
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so_and_spoils_no_other_row(broken: float) -> None:
    """Integers know no NaN: it must come through all the same, or nobody would ever be told."""
    layer, _ = eight(made((40, 64)))
    x = made((3, 64), 1)
    right = layer(x)
    x[1, 5] = broken
    found = layer(x)
    assert not found[1].isfinite().any()
    assert torch.equal(found[[0, 2]], right[[0, 2]])
    assert not layer.normed(x, torch.ones(64), 1e-6)[1].isfinite().any()


@needed
def test_a_row_of_zeros_gives_the_bias() -> None:
    bias = made((40,), 2)
    layer, _ = eight(made((40, 64)), bias)
    assert torch.equal(layer(torch.zeros(1, 64))[0], bias)


@needed
def test_many_output_rows_are_packed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    with fbgemm.packing():
        whole = fbgemm.Packed16.of(made((150, 64)), None)
        monkeypatch.setattr(fbgemm, "BLOCK_ROWS", 64)
        parts = fbgemm.Packed16.of(made((150, 64)), None)
    assert (len(whole.parts), len(parts.parts)) == (1, 3)
    x = made((3, 64), 1)
    assert torch.equal(whole(x), parts(x))


@needed
def test_fp16_weights_are_as_near_as_fp16_is() -> None:
    bias = made((100,), 2)
    with fbgemm.packing():
        layer = fbgemm.Packed16.of(made((100, 256)), bias)
    x = made((7, 256), 1) * 1e5
    right = x @ made((100, 256)).T + bias
    assert ((layer(x) - right).norm() / right.norm()).item() < 1e-3


@needed
def test_packing_leaves_torchs_engine_as_it_was() -> None:
    before = torch.backends.quantized.engine
    with pytest.raises(ZeroDivisionError), fbgemm.packing():
        1 / 0  # noqa: B018 - what is raised inside
    assert torch.backends.quantized.engine == before


# -- a whole model ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen2(tmp_path_factory.mktemp("model") / "m", hidden=64, intermediate=128, layers=3)


@needed
@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_int8_text_does_not_depend_on_chunks_batch_or_reuse(folder: Path, chunk: int) -> None:
    prompt, sampling = list(range(40, 80)), Sampling(seed=5)
    backend = local(folder, path="fast", quant="int8", chunk=chunk, lookup=False)
    assert backend.environment.kernels == "qwen-tui+fbgemm"
    wanted = ids(run(backend, asked(prompt, max_tokens=24, sampling=sampling)))
    other = local(folder, path="fast", quant="int8")
    together = run(other, asked(prompt, max_tokens=24, sampling=sampling, branches=3))
    assert ids(together) == wanted
    dice = random.Random(chunk)
    for _ in range(20):
        cut = dice.randrange(4, 40)
        run(other, asked([*prompt[:cut], *dice.choices(range(300), k=5)], max_tokens=3))
        again = run(other, asked(prompt, max_tokens=24, sampling=sampling))
        assert ids(again) == wanted
        assert end(again).stats.reused >= min(cut, 39)


@needed
def test_a_layer_run_as_one_function_gives_the_same_bits(folder: Path) -> None:
    """Few rows run it so, many run its parts one after the other, to be stopped in between."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    shape = Shape.of(config)
    assert shape is not None
    network = packed_file.load(
        folder,
        shape,
        kind="int8",
        dtype=torch.float32,
        device=torch.device("cpu"),
        cache=None,
        report=lambda progress: None,
        packing="fbgemm",
    ).network
    found = []
    for limit in (0, 16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("qwen_tui.backends.local.nn.qwen2.WHOLE_ROWS", limit)
            cache = network.cache()
            cache.select([0, 0])
            for count in (5, 1, 3):
                given = torch.arange(2 * count).view(2, count)
                found.append(network.forward(given, cache, last=count))
    assert all(torch.equal(*pair) for pair in zip(found[:3], found[3:], strict=True))


@needed
def test_a_packed_file_is_laid_out_at_every_opening_and_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_TUI_HOME", str(tmp_path))
    texts = []
    for stages in ({"quantise", "pack"}, {"pack"}):
        reports: list[Progress] = []
        backend = local(folder, path="fast", quant="int8", reports=reports)
        assert {each.stage for each in reports} == stages
        texts.append(ids(run(backend, asked(range(30), max_tokens=16))))
    assert texts[0] == texts[1]


@needed
def test_laying_out_can_be_given_up(folder: Path) -> None:
    from qwen_tui import settings
    from qwen_tui.backends.local.opening import opened

    cancel = threading.Event()

    def report(progress: Progress) -> None:
        if progress.stage == "pack":
            cancel.set()

    wanted = settings.load({"model": str(folder), "quant": "int8"}, env={}, cwd=folder)
    with pytest.raises(Trouble, match="stopped"):
        opened(wanted, report, cancel, forward="fast")


def scores(backend: Local, request: Request) -> list[float]:
    """Log-probabilities of the prompt's own tokens."""
    events = [each for each in run(backend, request) if isinstance(each, Scored)]
    return [token.logprob or 0.0 for event in events for token in event.tokens]


@needed
def test_fp16_weights_speak_as_float32_ones_do(folder: Path) -> None:
    backend = local(folder, path="fast", dtype="fp16")
    assert (backend.environment.dtype, backend.environment.kernels) == ("fp16", "qwen-tui+fbgemm")
    exact = local(folder, path="fast", dtype="fp32")
    request = asked(range(60), max_tokens=0, score=True)
    found, right = (torch.tensor(scores(each, request)) for each in (backend, exact))
    assert len(found) == 60
    assert (found - right).abs().max().item() < 0.02


# -- which is chosen -------------------------------------------------------------------------------


def test_a_packing_must_be_much_faster_to_be_chosen() -> None:
    assert (SLOW16.dense(), SLOW16.packing8()) == (("fp16", "fbgemm"), "fbgemm")
    assert (FAST16.dense(), FAST16.packing8()) == (("bf16", ""), "")
    absent = Speeds(bf16=9.0, fp32=7.0, int8=6.0, fbgemm16=0.0, fbgemm8=0.0)
    assert (absent.dense(), absent.packing8()) == (("fp32", ""), "")


def test_every_kernel_is_timed() -> None:
    threads = torch.get_num_threads()
    found = kernel_speed.measured((128, 64))
    assert min(found.bf16, found.fp32, found.int8) > 0
    assert (found.fbgemm8 > 0) == (found.fbgemm16 > 0) == fbgemm.available()
    assert torch.get_num_threads() == threads


@pytest.fixture
def timings(monkeypatch: pytest.MonkeyPatch) -> list[Speeds]:
    """What was measured, each time that it was."""
    found: list[Speeds] = []

    def measure(*, clock: Callable[[], float]) -> Speeds:
        found.append(SLOW16)
        return SLOW16

    monkeypatch.setattr(kernel_speed, "measured", measure)
    return found


def test_it_is_measured_once(tmp_path: Path, timings: list[Speeds]) -> None:
    file = tmp_path / "new" / "kernels.json"
    assert [kernel_speed.speeds(file) for _ in range(3)] == [SLOW16] * 3
    assert len(timings) == 1
    assert [each.name for each in file.parent.iterdir()] == ["kernels.json"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"KEY": 3}', '{"KEY": {"bf16": 1}}', '{"KEY": {"int8": "a"}}', "another"],
)
def test_what_was_measured_elsewhere_or_is_damaged_is_measured_anew(
    tmp_path: Path, timings: list[Speeds], text: str
) -> None:
    file = tmp_path / "kernels.json"
    kernel_speed.speeds(file)
    (key,) = json.loads(file.read_text())
    known: dict[str, Any] = {"another CPU": {"bf16": 1.0}}
    file.write_text(json.dumps(known) if text == "another" else text.replace("KEY", key))
    assert kernel_speed.speeds(file) == SLOW16
    assert len(timings) == 2
    kernel_speed.speeds(file)
    assert len(timings) == 2
    if text == "another":
        assert "another CPU" in json.loads(file.read_text())


def test_a_place_that_cannot_be_written_is_no_failure(
    tmp_path: Path, timings: list[Speeds]
) -> None:
    (tmp_path / "file").write_text("")
    assert kernel_speed.speeds(tmp_path / "file" / "kernels.json") == SLOW16
