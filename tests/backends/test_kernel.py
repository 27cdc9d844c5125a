"""Our own kernel: what it computes on every CPU, what it refuses, and life without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fixtures.checkpoints import qwen2
from qwen_tui.backends.local.nn import nf4
from qwen_tui.backends.local.nn.kernel import build, installed, kernel_linear
from qwen_tui.backends.local.nn.kernel.kernel_linear import KernelLinear
from qwen_tui.backends.local.nn.kernel.library import KINDS, KernelKind, Library, Unusable
from qwen_tui.backends.local.nn.linear import Kind
from qwen_tui.backends.local.planning import kernel_speed
from qwen_tui.backends.local.planning.machine import Speeds
from qwen_tui.backends.local.weights import packed_file
from qwen_tui.hub import Shape

FINER = 254
NF4_LEVELS = torch.tensor([-112, -78, -59, -44, -32, -21, -10, 0, 9, 18, 28, 38, 49, 63, 81, 112])
ROWS = (*range(1, 10), 64, 300)
KINDS_AND_TERMS = [(kind, terms) for kind in KINDS for terms in (1, 2)]


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("kernel") / build.LIBRARY
    made = build.build(to)
    if not made.done:
        pytest.skip(f"the kernel cannot be compiled here: {made.said}")
    return to


@pytest.fixture(scope="session")
def libraries(file: Path) -> list[Library]:
    """The library at every level of this CPU, the plain C path first."""
    return [Library.opened(file, level) for level in Library.opened(file).levels]


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(layer: KernelLinear) -> tuple[Tensor, Tensor, Tensor]:
    """Signed weights [N, K] in steps, and scale and zero [N, groups], all rounded up, unpacked."""
    panels, groups, lines, _ = layer.weight.shape
    lanes = layer.weight.view(panels, groups, lines, 16, 4)
    if layer.kind == "int8":
        steps = lanes.long() - 128
    else:
        codes = torch.stack((lanes & 15, lanes >> 4), dim=4).long()
        steps = NF4_LEVELS[codes] if layer.kind == "nf4" else codes - 8
    order = (0, 3, 1, 2, 4, 5) if layer.kind != "int8" else (0, 3, 1, 2, 4)
    weight = steps.permute(*order).reshape(panels * 16, groups * 64)
    scale = layer.scale.float().transpose(1, 2).reshape(panels * 16, groups)
    zero = torch.zeros_like(scale)
    if layer.zero is not None:
        zero = layer.zero.float().transpose(1, 2).reshape(panels * 16, groups)
    return weight, scale, zero


def weights(layer: KernelLinear) -> Tensor:
    """The weights [N, K] that a layer stands for."""
    steps, scale, zero = whole(layer)
    rows, columns, unit = layer.size.tolist()
    grouped = steps.view(len(steps), -1, 64) * scale[..., None] + zero[..., None]
    return (grouped.flatten(1) * unit)[: int(rows), : int(columns)]


def near(found: Tensor, right: Tensor) -> bool:
    return ((found - right).norm() / right.norm()).item() < 1e-4


def fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a·b + c in float32 with one rounding."""
    return (a.double() * b.double() + c.double()).float()


def modelled(layer: KernelLinear, x: Tensor) -> Tensor:
    """The kernel's arithmetic, step by step."""
    weight, scale, zero = whole(layer)
    groups = scale.shape[1]
    x = F.pad(x, (0, groups * 64 - x.shape[1])).view(len(x), groups, 64)
    largest = x.abs().amax(-1)
    some = largest > 1e-30
    # Not 127 / largest, which torch computes as a reciprocal times 127.
    fine = x * torch.where(some, torch.tensor(127.0) / largest, torch.zeros(()))[..., None]
    first = fine.round()
    step = torch.where(some, largest / 127, torch.zeros(()))
    codes = first.long()
    if layer.terms == 2:
        codes = FINER * codes + ((fine - first) * FINER).round().long()
        step = step / FINER
    step = step * layer.size[2]
    dots = torch.einsum("mgk,ngk->gmn", codes.double(), weight.view(-1, groups, 64).double())
    sums = torch.zeros(len(x), len(weight))
    share = step * codes.sum(-1).float()
    for group in range(groups):
        worth = scale[:, group] * step[:, group, None]
        sums = fused(dots[group].float(), worth, sums)
        if layer.kind == "int4":
            sums = fused(zero[:, group].expand_as(sums), share[:, group, None], sums)
    sums = sums[:, : layer.rows]
    return sums if layer.bias is None else sums + layer.bias


# -- what is computed ------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "terms"), KINDS_AND_TERMS)
@settings(max_examples=25)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 330),
    count=st.sampled_from(ROWS),
    seed=st.integers(0, 9999),
    size=st.sampled_from([1e-6, 0.02, 1.0, 3e4]),
)
def test_every_instruction_set_computes_the_bits_of_the_model(
    libraries: list[Library],
    kind: KernelKind,
    terms: int,
    rows: int,
    columns: int,
    count: int,
    seed: int,
    size: float,
) -> None:
    weight, bias = made(rows, columns, seed=seed) * size, made(rows, seed=seed + 1)
    x = made(count, columns, seed=seed + 2)
    x[:, ::7] *= 50
    x[0, : columns // 2] = 0
    layers = [KernelLinear.of(kind, weight, bias, library, terms) for library in libraries]
    first, *rest = layers
    for layer in rest:
        assert all(
            torch.equal(layer.tensors()[name], part) for name, part in first.tensors().items()
        )
    right = modelled(first, x)
    for layer in layers:
        assert torch.equal(layer(x), right), layer.library.level


@pytest.mark.parametrize(("kind", "terms"), KINDS_AND_TERMS)
def test_a_row_is_the_same_bits_whatever_stands_beside_it(
    libraries: list[Library], kind: KernelKind, terms: int
) -> None:
    x, weight = made(64, 1000, seed=1), made(500, 1000)
    for library in libraries:
        layer = KernelLinear.of(kind, weight, None, library, terms)
        together = layer(x)
        for rows in (1, 2, 3, 5, 8, 9):
            assert torch.equal(layer(x[7 : 7 + rows]), together[7 : 7 + rows])


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_no_bit(libraries: list[Library], kind: KernelKind) -> None:
    layer = KernelLinear.of(kind, made(4000, 1024), None, libraries[-1])
    x, threads = made(70, 1024, seed=1), torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(torch.cat((layer(x), layer(x[:1]))))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("kind", "terms", "error"),
    [("int4", 1, 0.007), ("nf4", 1, 0.007), ("int8", 1, 0.007),
     ("int4", 2, 3e-5), ("nf4", 2, 3e-5), ("int8", 2, 3e-5)],
)  # fmt: skip
def test_activations_in_integers_err_little(
    libraries: list[Library], kind: KernelKind, terms: int, error: float
) -> None:
    layer = KernelLinear.of(kind, made(300, 2000), None, libraries[-1], terms)
    x = made(9, 2000, seed=1)
    right = x.double() @ weights(layer).double().T
    assert ((layer(x) - right).norm() / right.norm()).item() < error


@pytest.mark.parametrize(("kind", "error"), [("int4", 0.1), ("nf4", 0.1), ("int8", 0.007)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_of_every_dtype_come_near(
    libraries: list[Library], kind: KernelKind, error: float, dtype: torch.dtype
) -> None:
    weight = (made(100, 300) / 40).to(dtype)
    layer = KernelLinear.of(kind, weight, None, libraries[-1])
    assert ((weights(layer) - weight.float()).norm() / weight.float().norm()).item() < error


def test_nf4_is_bitsandbytes_own(libraries: list[Library]) -> None:
    pytest.importorskip("bitsandbytes")
    nf4.install()
    weight = made(640, 640) / 30
    layer = KernelLinear.of("nf4", weight, None, libraries[-1])
    packed, largest = torch.ops.bitsandbytes.quantize_4bit(weight, 64, "nf4", torch.uint8)
    packed = packed.view(640, 320)
    codes = torch.stack((packed >> 4, packed & 15), -1).view(640, 640).long()
    assert (whole(layer)[0] == NF4_LEVELS[codes]).float().mean() > 0.9999
    scale = whole(layer)[1] * layer.size[2] * 112.03
    assert torch.allclose(scale, largest.view(640, 10), rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_surrounds_a_product_is_done_with_it(
    libraries: list[Library], kind: KernelKind
) -> None:
    weight, bias, norm = made(96, 200), made(96, seed=3), made(200, seed=4)
    layer = KernelLinear.of(kind, weight, bias, libraries[-1], 2)
    x, sums = made(5, 200, seed=5) * 30, made(5, 96, seed=6)
    real = weights(layer)
    normed = F.rms_norm(x, (200,), norm, 1e-6) @ real.T + bias
    assert near(layer.normed(x, norm, 1e-6), normed)
    assert torch.equal(layer.added_to(sums, x), layer(x) + sums)
    both = made(5, 400, seed=7) * 4
    gated = (F.silu(both[:, :200]) * both[:, 200:]) @ real.T + bias + sums
    assert near(layer.gated_added_to(sums, both), gated)
    for library in libraries:
        other = KernelLinear.of(kind, weight, bias, library, 2)
        assert torch.equal(other.normed(x, norm, 1e-6), layer.normed(x, norm, 1e-6))
        assert torch.equal(other.gated_added_to(sums, both), layer.gated_added_to(sums, both))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_shows_in_its_row_alone(libraries: list[Library], value: float) -> None:
    for library in libraries:
        layer = KernelLinear.of("int8", made(40, 130), None, library)
        x = made(3, 130, seed=1)
        right = layer(x)
        x[1, 5] = value
        found = layer(x)
        assert found[1].isnan().all()
        assert torch.equal(found[[0, 2]], right[[0, 2]])


def test_half_precision_activations_come_back_as_they_went(libraries: list[Library]) -> None:
    layer = KernelLinear.of("int8", made(40, 130), None, libraries[-1])
    x = made(3, 130, seed=1).bfloat16()
    assert torch.equal(layer(x), layer(x.float()).bfloat16())


# -- what is refused -------------------------------------------------------------------------------


def test_tensors_that_do_not_fit_never_reach_c(libraries: list[Library]) -> None:
    layer = KernelLinear.of("int4", made(40, 130), None, libraries[-1])
    parts = {**layer.tensors()}
    room = torch.zeros(parts["int4_panels"].numel() + 64, dtype=torch.uint8)
    askew = room[1 : 1 + parts["int4_panels"].numel()].view(parts["int4_panels"].shape)
    wrong = {
        "int4_panels": [askew, parts["int4_panels"][:1], parts["int4_panels"].char()],
        "scale": [parts["scale"][:, :1], parts["scale"].float(), parts["scale"].transpose(0, 1)],
        "size": [torch.tensor([400.0, 130, 1]), torch.tensor([40.0, 130, float("nan")])],
    }
    for name, each in wrong.items():
        for part in each:
            with pytest.raises(ValueError, match=r"wanted|multiple|unit|together"):
                kernel_linear.rebuilt({**parts, name: part}, libraries[-1])
    with pytest.raises(ValueError, match="missing"):
        kernel_linear.rebuilt({k: v for k, v in parts.items() if k != "zero"}, libraries[-1])
    for x in (made(3, 129), made(3, 130).double(), made(130)):
        with pytest.raises((ValueError, IndexError)):
            libraries[-1].multiply(layer._layer, x, "plain")


def test_columns_of_a_wider_tensor_are_multiplied_as_what_they_are(
    libraries: list[Library],
) -> None:
    layer = KernelLinear.of("nf4", made(40, 130), None, libraries[-1])
    x = made(3, 260, seed=1)
    assert torch.equal(layer(x[:, 130:]), layer(x[:, 130:].clone()))
    assert torch.equal(layer(x[:0, :130]), torch.empty(0, 40))


def test_weights_that_are_not_finite_are_left_to_others(libraries: list[Library]) -> None:
    weight = made(40, 130)
    weight[3, 4] = float("inf")
    with pytest.raises(ValueError, match="finite"):
        KernelLinear.of("int8", weight, None, libraries[-1])


# -- life without it -------------------------------------------------------------------------------


def test_a_library_of_another_source_is_not_used(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "digest", lambda: "another")
    with pytest.raises(Unusable, match="older than its source"):
        Library.opened(file)


def test_a_file_that_is_no_library_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_bytes(b"\x7fELF, but not really")
    with pytest.raises(Unusable, match="cannot be opened"):
        Library.opened(tmp_path / "broken.so")


def test_an_instruction_set_that_is_not_here_is_refused(file: Path) -> None:
    with pytest.raises(Unusable, match="this CPU has"):
        Library.opened(file, "neon" if "avx2" in Library.opened(file).levels else "avx2")


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(installed.VARIABLE, "off")
    with pytest.raises(Unusable, match="off"):
        installed.found()


def test_without_it_the_reason_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "HERE", tmp_path)
    with pytest.raises(Unusable, match="came without it"):
        installed.found()
    (tmp_path / build.NOTE).write_text("it was not built: no C compiler was found\n")
    with pytest.raises(Unusable, match="no C compiler"):
        installed.found()


def test_no_compiler_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "compilers", list)
    assert not build.build(tmp_path / build.LIBRARY).done
    broken = [sys.executable, "-c", "import sys; sys.exit('no such language')"]
    monkeypatch.setattr(build, "compilers", lambda: [broken, ["/no/such/compiler"]])
    found = build.build(tmp_path / build.LIBRARY)
    assert not found.done
    assert "no such language" in found.said
    assert "/no/such/compiler" in found.said
    assert not list(tmp_path.iterdir())


# -- beyond the edges ------------------------------------------------------------------------------

FUZZ = """
import random, sys, torch
from pathlib import Path
from qwen_tui.backends.local.nn.kernel.kernel_linear import KernelLinear
from qwen_tui.backends.local.nn.kernel.library import KINDS, Library
dice = random.Random(0)
file = Path(sys.argv[1])
for level in Library.opened(file).levels:
    library = Library.opened(file, level)
    for _ in range(40):
        kind, terms = dice.choice(KINDS), dice.choice((1, 2))
        n, k, m = dice.randint(1, 90), dice.randint(1, 400), dice.choice((1, 2, 3, 5, 8, 9, 31))
        scale = dice.choice((0.0, 1e-38, 1e-3, 1.0, 1e30))
        layer = KernelLinear.of(kind, torch.randn(n, k) * scale, torch.randn(n), library, terms)
        x = torch.randn(m, k) * dice.choice((0.0, 1e-38, 1.0, 1e30, float("nan"), float("inf")))
        layer.normed(x, torch.randn(k), 1e-6)
        layer.gated_added_to(torch.randn(m, n), torch.randn(m, 2 * k) * dice.choice((1.0, 1e3)))
        layer(x)
print("whole")
"""


@pytest.mark.slow
def test_no_shape_reaches_beyond_its_memory(tmp_path: Path) -> None:
    to = tmp_path / build.LIBRARY
    checks = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
    found = build.build(to, flags=checks)
    asan = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout.strip()
    if not found.done or not Path(asan).is_file():
        pytest.skip("there is no compiler with sanitizers")
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(to)],
        env={**os.environ, "LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "whole\n", done.stderr[-3000:]


# -- chosen, loaded, run ---------------------------------------------------------------------------


def test_it_is_chosen_where_it_is_the_fastest() -> None:
    plain = {"bf16": 9.0, "fp32": 14.0, "int8": 6.0, "fbgemm16": 5.0, "fbgemm8": 2.5}
    fast = Speeds(**plain, int4=3.0, nf4=4.0, own8=3.0, own4=2.0, own_nf4=2.0)
    assert [fast.packing(quant) for quant in ("int8", "int4", "nf4")] == ["kernel"] * 3
    slow = Speeds(**plain, int4=3.0, nf4=4.0, own8=3.5, own4=3.5, own_nf4=4.5)
    assert [slow.packing(quant) for quant in ("int8", "int4", "nf4")] == ["fbgemm", "", ""]
    alone = Speeds(**plain, own8=9.0, own4=9.0, own_nf4=9.0)
    assert [alone.packing(quant) for quant in ("int8", "int4", "nf4")] == [
        "fbgemm",
        *["kernel"] * 2,
    ]
    absent = Speeds(**plain, int4=3.0)
    assert [absent.packing(quant) for quant in ("int8", "int4", "nf4")] == ["fbgemm", "", ""]


def test_every_kind_of_it_is_measured(
    libraries: list[Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "available", lambda: libraries[-1])
    found = kernel_speed.measured((128, 64))
    assert min(found.own8, found.own4, found.own_nf4, found.int4) > 0


def network(folder: Path, kind: Kind, cache: Path | None) -> packed_file.PackedNetwork:
    shape = Shape.of(json.loads((folder / "config.json").read_text("utf-8")))
    assert shape is not None
    return packed_file.load(
        folder,
        shape,
        kind=kind,
        dtype=torch.float32,
        device=torch.device("cpu"),
        cache=cache,
        report=lambda progress: None,
        packing="kernel",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_packed_once_then_mapped_and_computes_the_same(
    libraries: list[Library], kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "available", lambda: libraries[-1])
    folder = qwen2(tmp_path / "model")
    given, logits = torch.arange(20).view(1, -1), []
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        loaded = network(folder, kind, cache)
        assert not loaded.note
        assert isinstance(loaded.network.layers[0].down, KernelLinear)
        logits.append(loaded.network.forward(given, loaded.network.cache(), last=20))
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    monkeypatch.setattr(installed, "available", lambda: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installed, "available", lambda: None)
        assert "no kernel" in network(folder, kind, tmp_path / "cache").note


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_in_pieces_has_the_logits_of_the_whole(
    libraries: list[Library], kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "available", lambda: libraries[-1])
    net = network(qwen2(tmp_path / "model"), kind, None).network
    given = torch.arange(60).view(1, -1)
    whole_text = net.forward(given, net.cache(), last=60)
    cache = net.cache()
    cut = given.split([30, 1, 1, 20, 8], dim=1)
    pieces = [net.forward(piece, cache, last=piece.shape[1]) for piece in cut]
    # Attention rounds differently in pieces, and what is rounded to steps after it may flip by one.
    assert near(torch.cat(pieces, 1), whole_text)
