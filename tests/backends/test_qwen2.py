"""Our own forward against the reference, on tiny real checkpoints: the same numbers, faster."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fixtures.checkpoints import qwen2
from qwen_tui.backends.local.nn import int4
from qwen_tui.backends.local.nn.attention import attended, folded
from qwen_tui.backends.local.nn.int4 import Int4
from qwen_tui.backends.local.nn.linear import Dense, Int8, Kind, integers
from qwen_tui.backends.local.nn.model import Cancelled
from qwen_tui.backends.local.nn.nf4 import Nf4
from qwen_tui.backends.local.nn.qwen2 import DecoderLayer, Qwen2
from qwen_tui.backends.local.weights import packed_file
from qwen_tui.hub import Shape
from qwen_tui.types import Progress, Trouble


def shape_of(folder: Path) -> Shape:
    shape = Shape.of(json.loads((folder / "config.json").read_text("utf-8")))
    assert shape is not None
    return shape


def open_network(
    folder: Path,
    kind: Kind = "dense",
    dtype: torch.dtype = torch.float32,
    cache: Path | None = None,
) -> Qwen2:
    return opened(folder, kind, dtype, cache).network


def opened(
    folder: Path, kind: Kind, dtype: torch.dtype, cache: Path | None
) -> packed_file.PackedNetwork:
    return packed_file.load(
        folder,
        shape_of(folder),
        kind=kind,
        dtype=dtype,
        device=torch.device("cpu"),
        cache=cache,
        report=lambda progress: None,
    )


def reference_logits(folder: Path, ids: Tensor) -> Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    with torch.inference_mode():
        logits: Tensor = model(ids).logits
    return logits


def some_ids(count: int, seed: int = 0) -> Tensor:
    return torch.tensor([random.Random(seed).choices(range(300), k=count)])


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return qwen2(tmp_path / "model", hidden=64, intermediate=128, layers=3, tied=request.param)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Wide enough for the kernels of the quantised kinds."""
    return qwen2(tmp_path / "model", hidden=128, intermediate=192, layers=2)


def test_logits_are_the_references(folder: Path) -> None:
    ids = some_ids(60)
    network = open_network(folder)
    ours = network.forward(ids, network.cache(), last=60)
    assert torch.allclose(ours, reference_logits(folder, ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 16, 59])
def test_any_chunking_gives_the_same_logits(folder: Path, chunk: int) -> None:
    ids = some_ids(60)
    network = open_network(folder)
    whole = network.forward(ids, network.cache(), last=1)
    cache = network.cache()
    for start in range(0, 60, chunk):
        part = network.forward(ids[:, start : start + chunk], cache)
    assert torch.allclose(part, whole, atol=1e-4, rtol=1e-4)
    assert cache.length == 60


def test_a_rewound_cache_goes_on_as_if_nothing_had_been_there(folder: Path) -> None:
    network = open_network(folder)
    cache = network.cache()
    dice = random.Random(3)
    held: list[int] = []
    for _ in range(200):
        keep = dice.randint(0, len(held))
        cache.rewind(keep)
        fresh = dice.choices(range(300), k=dice.randint(1, 9))
        held = held[:keep] + fresh
        ours = network.forward(torch.tensor([fresh]), cache)
        if len(held) > 900:
            held, _ = [], cache.rewind(0)
    again = network.forward(torch.tensor([held]), network.cache()) if held else ours
    assert torch.allclose(ours, again, atol=1e-4, rtol=1e-4)


def test_rows_of_a_batch_do_not_see_each_other(folder: Path) -> None:
    network = open_network(folder)
    prompt, tails = some_ids(20), [some_ids(5, seed)[0].tolist() for seed in (1, 2, 3)]
    cache = network.cache()
    network.forward(prompt, cache, last=0)
    cache.select([0, 0, 0])
    together = network.forward(torch.tensor(tails), cache)
    for row, tail in enumerate(tails):
        alone = network.forward(torch.cat([prompt, torch.tensor([tail])], dim=1), network.cache())
        assert torch.allclose(together[row], alone[0], atol=1e-4, rtol=1e-4)
    cache.select([2])
    left = network.forward(torch.tensor([[7]]), cache)
    alone = network.forward(
        torch.cat([prompt, torch.tensor([[*tails[2], 7]])], dim=1), network.cache()
    )
    assert torch.allclose(left, alone, atol=1e-4, rtol=1e-4)


def test_cancelled_between_products_leaves_the_cache_whole(folder: Path) -> None:
    network = open_network(folder)
    cache = network.cache()
    network.forward(some_ids(10), cache, last=0)
    expected = network.forward(torch.tensor([[5]]), cache)
    for patience in range(3 * network.shape.layers):
        cache.rewind(10)
        asked = iter(range(10_000))
        with pytest.raises(Cancelled):
            network.forward(some_ids(7, 9), cache, stopped=lambda a=asked, p=patience: next(a) >= p)
        assert cache.length == 10
        assert torch.allclose(network.forward(torch.tensor([[5]]), cache), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_int8_in_integers_errs_by_its_weights_alone(dtype: torch.dtype) -> None:
    """What a GPU runs, by the same operator on the CPU; an outlier must not swallow the rest."""
    assert integers(torch.device("cpu"))
    dice = torch.Generator().manual_seed(0)
    bias = torch.randn(96, generator=dice).to(dtype)
    layer = Int8.of(torch.randn(96, 256, generator=dice), bias)
    x = torch.randn(3, 256, generator=dice)
    x[1, 7], x[2] = 300.0, 0.0
    x = x.to(dtype)
    found = layer.in_integers(x)
    right = x.double() @ (layer.weight * layer.scale[:, None].double()).T + bias
    assert found.dtype == dtype
    worst = {torch.bfloat16: 4e-3, torch.float32: 3e-4}[dtype]
    assert ((found - right).norm(dim=1) / right.norm(dim=1)).max() < worst
    assert torch.equal(found[2], bias)
    assert torch.equal(found[:1], layer.in_integers(x[:1]))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("count", [1, 6])
def test_folded_groups_attend_as_groups_do(
    rows: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What GPUs run, and CPUs for few positions, against torch's own grouped attention; also where
    the kernel lays its result out by positions, as flash attention does.
    """
    dice = torch.Generator().manual_seed(0)
    query = torch.randn(rows, count, 12, 16, generator=dice).transpose(1, 2)
    keys, values = (torch.randn(rows, 3, 40, 16, generator=dice) for _ in range(2))
    mask = torch.zeros(count, 40)
    mask[:, 34:] = torch.full((count, 6), float("-inf")).triu(1) if count > 1 else 0.0
    wanted = F.scaled_dot_product_attention(query, keys, values, mask, enable_gqa=True)
    torch.testing.assert_close(folded(query, keys, values, mask), wanted)
    attend = F.scaled_dot_product_attention

    def flash(*args: Any) -> Tensor:
        return attend(*args).transpose(1, 2).contiguous().transpose(1, 2)

    monkeypatch.setattr(F, "scaled_dot_product_attention", flash)
    torch.testing.assert_close(folded(query, keys, values, mask), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_step_attends_as_a_prompt_does(rows: int, count: int, dtype: torch.dtype) -> None:
    dice = torch.Generator().manual_seed(0)
    qkv = torch.randn(rows * count, (12 + 2 * 3) * 16, generator=dice).to(dtype)
    cos, sin = (torch.randn(count, 16, generator=dice).to(dtype) for _ in range(2))
    held = [torch.randn(rows, 3, 50, 16, generator=dice).to(dtype) for _ in range(2)]
    mask = torch.full((count, 34 + count), float("-inf"), dtype=dtype).triu(35)

    def attend(few: int) -> list[Tensor]:
        keys, values = (side.clone() for side in held)
        some = mask if count > 1 else None
        return [attended(qkv, cos, sin, keys, values, 34, some, few), keys, values]

    for step, prompt in zip(attend(count), attend(0), strict=True):
        torch.testing.assert_close(step, prompt)


def test_int8_in_fp16_keeps_sums_that_unscaled_weights_would_overflow() -> None:
    layer = Int8.of(torch.full((8, 64), 0.01), None)
    found = layer(torch.full((30, 64), 20.0, dtype=torch.float16))
    torch.testing.assert_close(found.float(), torch.full((30, 8), 12.8), rtol=5e-3, atol=0)


def test_nf4_by_bitsandbytes_choice_is_the_same_layer() -> None:
    """The operator that GPUs run, by its CPU kernel."""
    dice = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(64, 128, generator=dice), torch.randn(64, generator=dice)
    layer = Nf4.of(weight, bias, torch.float32)
    if layer.interleaved:
        pytest.skip("this CPU has a layout of its own")
    x = torch.randn(5, 128, generator=dice)
    torch.testing.assert_close(layer.by_its_choice(x), layer(x), rtol=1e-4, atol=1e-4)


def test_pairs_of_rows_in_a_byte_are_unpacked_too() -> None:
    """The layout of int4 weights on an Arm, put together by hand."""
    steps = torch.randint(0, 16, (32, 64), generator=torch.Generator().manual_seed(0))
    pairs = steps.to(torch.uint8).view(2, 8, 2, 64)
    packed = (pairs[:, :, 0] | pairs[:, :, 1] << 4).transpose(1, 2).reshape(32, 32)
    assert torch.equal(int4._steps(packed, 16, False), steps.to(torch.uint8))


def test_the_cache_has_no_more_room_than_was_planned_for(folder: Path) -> None:
    """A GPU really holds what is allocated; a plan for 700 positions must not end at 512."""
    network = open_network(folder)
    cache = network.cache(700)
    network.forward(some_ids(500), cache)
    network.forward(some_ids(100), cache)
    assert cache.capacity == 700
    cache.select([0, 0, 0])
    assert (cache.rows, cache.capacity) == (3, 700)
    wide = network.cache()
    wide.reserve(20_000)
    network.forward(some_ids(100), wide)
    wide.select([0, 0])
    assert wide.capacity == 100 + 512
    assert torch.equal(wide.keys[0][0, :, :100], wide.keys[0][1, :, :100])


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (4, 1), (1, 5)])
def test_a_forward_asks_nothing_of_its_device(folder: Path, rows: int, count: int) -> None:
    """On the meta device tensors have no values: whatever waited for one would fail, as a GPU would
    have to be waited for.
    """
    shape, meta = shape_of(folder), torch.device("meta")

    def linear(outputs: int, inputs: int, *, bias: bool = False) -> Dense:
        one = torch.empty(outputs, device=meta) if bias else None
        return Dense(torch.empty(outputs, inputs, device=meta), one)

    wide = (shape.heads + 2 * shape.kv_heads) * shape.head
    norm = torch.empty(shape.hidden, device=meta)
    layer = DecoderLayer(
        norm1=norm,
        qkv=linear(wide, shape.hidden, bias=True),
        out=linear(shape.hidden, shape.heads * shape.head),
        norm2=norm,
        gate_up=linear(2 * shape.intermediate, shape.hidden),
        down=linear(shape.hidden, shape.intermediate),
    )
    head = linear(shape.vocab, shape.hidden)
    network = Qwen2(shape, head.weight, [layer] * 2, norm, head, dtype=torch.float32)
    cache = network.cache()
    cache.select([0] * rows)
    for _ in range(2):
        ids = torch.zeros(rows, count, dtype=torch.int64, device=meta)
        logits = network.forward(ids, cache, last=count)
    assert logits.shape == (rows, count, shape.vocab)
    assert (logits.device, cache.length) == (meta, 2 * count)


def test_what_it_cannot_do_is_left_to_the_reference(tmp_path: Path) -> None:
    config = json.loads((qwen2(tmp_path / "m") / "config.json").read_text("utf-8"))
    assert Shape.of(config) is not None
    assert Shape.of({**config, "model_type": "llama"}) is None
    assert Shape.of({**config, "use_sliding_window": True}) is None
    assert Shape.of({**config, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}) is None


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(Trouble, match=name):
        open_network(qwen2(tmp_path / "m", omit=name))


# -- quantised kinds and the packed file -----------------------------------------------------------


@pytest.mark.parametrize(("kind", "worst"), [("int8", 0.12), ("int4", 0.9), ("nf4", 0.9)])
def test_quantised_logits_stay_near_the_full_ones(wide: Path, kind: Kind, worst: float) -> None:
    """Random weights are the hardest case; the bound is about twice what rounding explains."""
    ids = some_ids(40)
    network = open_network(wide, kind, torch.bfloat16)
    full = reference_logits(wide, ids)[..., :320]
    ours = network.forward(ids, network.cache(), last=40)[..., :320]
    assert ((ours - full).norm() / full.norm()).item() < worst


@pytest.mark.parametrize("kind", ["int8", "int4", "nf4"])
def test_many_rows_and_few_rows_agree(wide: Path, kind: Kind) -> None:
    """The kernel for few rows and the big product over unpacked weights are the same layer."""
    network = open_network(wide, kind, torch.bfloat16)
    layer = network.layers[0].gate_up
    rows = torch.randn(400, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    many = layer(rows).float()
    few = torch.cat([layer(rows[start : start + 4]) for start in range(0, 400, 4)]).float()
    assert ((many - few).norm() / many.norm()).item() < 0.01


@pytest.mark.parametrize("kind", ["int8", "int4", "nf4"])
def test_the_second_load_is_mapped_from_the_packed_file(
    wide: Path, tmp_path: Path, kind: Kind
) -> None:
    cache, ids = tmp_path / "packed", some_ids(12)
    first = opened(wide, kind, torch.bfloat16, cache)
    (file,) = cache.iterdir()
    stages: list[Progress] = []
    second = packed_file.load(
        wide,
        shape_of(wide),
        kind=kind,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        cache=cache,
        report=stages.append,
    )
    assert second.packed == first.packed == file
    assert {progress.stage for progress in stages} == {"load"}
    in_memory = open_network(wide, kind, torch.bfloat16)
    logits = [
        network.forward(ids, network.cache(), last=12)
        for network in (first.network, second.network, in_memory)
    ]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("rows", [48, 64, 96, 128, 320])
def test_four_bits_of_any_number_of_rows_are_what_the_kernel_reads(rows: int) -> None:
    """Layouts differ between instruction sets, and at the last rows; the kernel is the yardstick,
    given a unit vector for each column.
    """
    weight = torch.randn(rows, 128, generator=torch.Generator().manual_seed(rows))
    layer = Int4.of(weight, None)
    read = layer(torch.eye(128)).T
    span = weight.view(rows, 2, 64).amax(-1) - weight.view(rows, 2, 64).amin(-1)
    off = (read - weight).view(rows, 2, 64).abs().amax(-1)
    assert (off <= span / 15 * 0.6 + 0.02).all()
    if rows % 64 == 0:
        assert torch.allclose(layer.unpacked(torch.float32), read, atol=2e-2)


def test_changed_weights_are_packed_anew(wide: Path, tmp_path: Path) -> None:
    cache = tmp_path / "packed"
    opened(wide, "int8", torch.bfloat16, cache)
    qwen2(wide, hidden=128, intermediate=192, layers=2, seed=5)
    opened(wide, "int8", torch.bfloat16, cache)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "header", "body", "empty"])
def test_a_damaged_packed_file_is_made_anew(wide: Path, tmp_path: Path, damage: str) -> None:
    cache, ids = tmp_path / "packed", some_ids(12)
    first = opened(wide, "int8", torch.bfloat16, cache)
    whole = first.network.forward(ids, first.network.cache())
    assert first.packed is not None
    data = bytearray(first.packed.read_bytes())
    if damage == "cut":
        del data[-5000:]
    elif damage == "header":
        data[20] ^= 0xFF
    elif damage == "body":
        data[-10] ^= 0xFF
    else:
        data.clear()
    first.packed.unlink()
    first.packed.write_bytes(data)
    again = opened(wide, "int8", torch.bfloat16, cache)
    assert "packed again" in again.note
    assert torch.equal(again.network.forward(ids, again.network.cache()), whole)


def test_no_bit_of_a_packed_files_header_can_stop_a_start(wide: Path, tmp_path: Path) -> None:
    cache = tmp_path / "packed"
    first = opened(wide, "int8", torch.bfloat16, cache).packed
    assert first is not None
    data = first.read_bytes()
    length = len(data[8 : 8 + packed_file.HEADER_ROOM].rstrip())
    dice = random.Random(0)
    for _ in range(150):
        place = 8 + dice.randrange(length)
        flipped = bytearray(data)
        flipped[place] ^= 1 << dice.randrange(8)
        damaged = tmp_path / "damaged"
        damaged.write_bytes(flipped)
        with contextlib.suppress(packed_file._Unusable):
            packed_file._parts(damaged)


def test_a_cache_that_cannot_be_written_is_only_a_note(wide: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    loaded = opened(wide, "int8", torch.bfloat16, blocked / "packed")
    assert loaded.packed is None
    assert "in memory" in loaded.note
    ids = some_ids(5)
    assert loaded.network.forward(ids, loaded.network.cache()).isfinite().all()


def test_loading_can_be_stopped_and_leaves_nothing_behind(wide: Path, tmp_path: Path) -> None:
    cache = tmp_path / "packed"
    with pytest.raises(Trouble, match="stopped"):
        packed_file.load(
            wide,
            shape_of(wide),
            kind="int8",
            dtype=torch.bfloat16,
            device=torch.device("cpu"),
            cache=cache,
            report=lambda progress: None,
            stopped=lambda: True,
        )
    assert not list(cache.iterdir())
