"""Loading a checkpoint: what is planned, what is reported, what is refused and how it is named."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from fixtures.checkpoints import qwen2
from fixtures.opening import asked, ids, local, run
from qwen_tui import hub, settings
from qwen_tui.backends.local.nn import bitsandbytes, nf4
from qwen_tui.backends.local.opening import opened
from qwen_tui.backends.local.planning import hardware
from qwen_tui.backends.local.planning import plan as planning
from qwen_tui.backends.local.planning.machine import GIB, Machine, Speeds
from qwen_tui.backends.local.planning.plan import Plan
from qwen_tui.hub import quantisation
from qwen_tui.journal import environment_id
from qwen_tui.settings import Settings
from qwen_tui.types import NO_INPUT, TEMPORARY, USAGE, Progress, Scored, Trouble

PROMPT = [40, 7, 190, 22, 64, 65, 101, 300, 12, 90, 31]
PATHS = ["reference", "fast"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen2(tmp_path_factory.mktemp("checkpoint"), hidden=64, intermediate=128)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A checkpoint to damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def changed(folder: Path, change: Any) -> None:
    """Rewrite the weights after `change` did something to them."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# -- what is not whole is named --------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "name",
    ["model.layers.1.mlp.up_proj.weight", "lm_head.weight", "model.layers.0.self_attn.q_proj.bias"],
)
def test_a_missing_tensor_is_named(copy: Path, path: str, name: str) -> None:
    changed(copy, lambda tensors: tensors.pop(name))
    with pytest.raises(Trouble) as found:
        local(copy, path=path)
    assert name in found.value.message
    assert found.value.code == NO_INPUT


def test_a_tensor_of_the_wrong_shape_is_named(copy: Path) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    changed(copy, lambda tensors: tensors.update({name: torch.zeros(3, 3)}))
    with pytest.raises(Trouble) as found:
        local(copy)
    assert name in found.value.message
    assert found.value.code == NO_INPUT


def test_a_tensor_too_many_is_named(copy: Path) -> None:
    changed(copy, lambda tensors: tensors.update({"model.layers.9.extra": torch.zeros(3)}))
    with pytest.raises(Trouble) as found:
        local(copy)
    assert "model.layers.9.extra" in found.value.message


@pytest.mark.parametrize("path", PATHS)
def test_a_file_cut_short_is_refused(copy: Path, path: str) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(Trouble) as found:
        local(copy, path=path)
    assert found.value.code == NO_INPUT
    assert "model.safetensors" in found.value.message + found.value.hint


def test_a_pickle_is_never_loaded(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(tensors, copy / "pytorch_model.bin")
    with pytest.raises(Trouble) as found:
        local(copy)
    assert found.value.code == NO_INPUT


def test_code_in_a_checkpoint_is_never_run(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoModelForCausalLM": "evil.Evil"}}
    config["auto_map"]["AutoConfig"] = "evil.EvilConfig"
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "evil.py").write_text(f"open({str(copy / 'ran')!r}, 'w').close()\n")
    with pytest.raises(Trouble) as found:
        local(copy)
    assert found.value.code == NO_INPUT
    assert not (copy / "ran").exists()


def test_weights_of_nan_end_a_generation(copy: Path) -> None:
    changed(copy, lambda tensors: tensors["model.norm.weight"].fill_(float("nan")))
    from fixtures.opening import end

    for path in PATHS:
        assert end(run(local(copy, path=path), asked(PROMPT))).reason == "nan"


# -- progress and giving up ------------------------------------------------------------------------


@pytest.mark.parametrize("quant", ["none", "nf4", "int8"])
def test_loading_reports_bytes_up_to_the_whole(folder: Path, quant: str) -> None:
    reports: list[Progress] = []
    local(folder, quant=quant, reports=reports).close()
    assert reports[0].stage == "import"
    stage = "load" if quant == "none" else "quantise"
    steps = [each for each in reports if each.stage == stage]
    assert [each.done for each in steps] == sorted(each.done for each in steps)
    assert len({each.done for each in steps}) > 10
    assert (steps[0].done, steps[-1].done) == (0, steps[-1].total)
    size = (folder / "model.safetensors").stat().st_size
    assert 0.9 * size < steps[-1].total <= size


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_loading_can_be_given_up(tmp_path: Path, path: Any, quant: str) -> None:
    folder = qwen2(tmp_path / "deep", layers=4, hidden=64, intermediate=128)
    cancel = threading.Event()

    def report(progress: Progress) -> None:
        if progress.stage != "import" and progress.done:
            cancel.set()

    wanted = settings.load({"model": str(folder), "quant": quant}, env={}, cwd=folder)
    with pytest.raises(Trouble, match="stopped"):
        opened(wanted, report, cancel, forward=path)


def test_loading_is_quiet(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for quant in ("none", "nf4", "int8"):
        run(local(folder, quant=quant), asked(PROMPT))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


# -- quantised -------------------------------------------------------------------------------------


def scores(folder: Path, **flags: Any) -> torch.Tensor:
    """Log-probabilities of the prompt's own tokens."""
    made = local(folder, **flags)
    events = run(made, asked(PROMPT, score=True, max_tokens=0))
    made.close()
    found = [token for event in events if isinstance(event, Scored) for token in event.tokens]
    return torch.tensor([token.logprob for token in found[1:]])


def rounded(folder: Path, quant: str) -> torch.Tensor:
    """The same from transformers in float32, over weights that went through the quantisation."""
    from bitsandbytes import functional

    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, parameter in network.named_parameters():
        if "_proj.weight" not in name:
            continue
        weight = parameter.data.to(torch.bfloat16)
        if quant == "nf4":
            packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
            parameter.data = functional.dequantize_4bit(packed, state).float()
        else:
            scale = weight.float().abs().amax(1, keepdim=True) / 127
            parameter.data = (weight.float() / scale).round() * scale
    with torch.inference_mode():
        logits = network(torch.tensor([PROMPT])).logits[0, :-1, :320]
    return logits.log_softmax(-1)[range(len(PROMPT) - 1), PROMPT[1:]]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_quantised_weights_compute_what_they_stand_for(folder: Path, path: str, quant: str) -> None:
    """Within what bf16 arithmetic costs these weights, far less than the quantisation itself."""
    found, expected = scores(folder, path=path, quant=quant), rounded(folder, quant)
    assert float((found - expected).abs().mean()) < 0.15
    exact = scores(folder, path=path)
    assert float((found - exact).abs().max()) > 0.01


def test_quantised_linears_are_repacked_when_loaded(folder: Path) -> None:
    from bitsandbytes.functional import has_avx512bf16
    from bitsandbytes.nn import Linear4bit

    made = local(folder, quant="nf4")
    layers = [
        each
        for each in made._model._network.modules()
        if isinstance(each, Linear4bit)  # type: ignore[attr-defined]
    ]
    assert len(layers) == 14
    for layer in layers:
        assert layer.weight.quant_state.quant_type == "nf4"
        assert layer.compute_dtype == torch.bfloat16
        packed = getattr(layer.weight.quant_state, "packing_format_for_cpu", False)
        assert packed == bool(has_avx512bf16())


def test_the_quick_quantiser_rounds_to_the_nearest_of_the_sixteen() -> None:
    """Where it parts from a search over the midpoints, both neighbours are equally near."""
    bitsandbytes.load()
    nf4.install()
    from bitsandbytes import functional

    weight = torch.randn(96, 256, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    values = functional.get_4bit_type("nf4", device="cpu")
    blocks = weight.float().view(-1, 64)
    scaled = blocks / blocks.abs().amax(1, keepdim=True)
    found = torch.stack((packed.view(-1) >> 4, packed.view(-1) & 15), dim=1).view(-1, 64).int()
    distance = (scaled[..., None] - values).abs()
    chosen = distance.gather(2, found[..., None].long())[..., 0]
    assert float((chosen - distance.amin(2)).max()) < 1e-4
    torch.testing.assert_close(state.absmax, blocks.abs().amax(1))


def test_half_precision_runs(folder: Path) -> None:
    for dtype in ("bf16", "fp16"):
        found = local(folder, dtype=dtype)
        assert found.environment.dtype == dtype
        assert len(ids(run(found, asked(PROMPT)))) == 8


# -- the environment -------------------------------------------------------------------------------


def test_the_environment_says_where_tokens_come_from(folder: Path) -> None:
    made = local(folder)
    env = made.environment
    assert env.id == environment_id(replace(env, id=""))
    assert set(env.model) >= {"path", "commit", "files", "config_sha256", "tokenizer_sha256"}
    assert set(env.model["files"]) >= {"config.json", "tokenizer.json", "model.safetensors"}
    assert (env.model["vocab_tokens"], env.model["vocab_rows"]) == (320, 333)
    assert (env.dtype, env.quant, env.device, env.attn) == ("fp32", "none", "cpu", "sdpa")
    assert env.kernels
    assert {"torch", "transformers", "qwen-tui"} <= set(env.vers)
    assert made.why
    assert local(folder).environment == env
    assert local(folder, path="fast").environment.id != env.id
    made.close()
    made.close()


def test_planning_and_the_room_itself_import_no_torch(folder: Path) -> None:
    code = (
        "import sys, qwen_tui.backends.local, qwen_tui.backends.local.planning.plan;"
        "assert not {'torch', 'transformers', 'bitsandbytes'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_our_own_forward_needs_no_transformers(folder: Path) -> None:
    code = (
        "import sys, threading; from qwen_tui import settings;"
        "from qwen_tui.backends.local import open;"
        f"wanted = settings.load({{'model': {str(folder)!r}}}, env={{}});"
        "open(wanted, lambda _: None, threading.Event());"
        "assert 'torch' in sys.modules;"
        "assert not {'transformers', 'accelerate', 'bitsandbytes'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_kernel_pack_is_never_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes would fetch from the hub at import where `kernels` is installed."""
    for name in [name for name in sys.modules if name.split(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(bitsandbytes.importlib, "import_module", lambda _: sys.modules["kernels"])
    before = sys.modules.get("kernels", "absent")
    bitsandbytes.load()
    assert sys.modules.get("kernels", "absent") == before
    assert logging.getLogger("bitsandbytes").level == logging.ERROR


# -- plans -----------------------------------------------------------------------------------------


def machine(**changes: Any) -> Machine:
    values: dict[str, Any] = {
        "devices": ("cpu",),
        "free": {"cpu": 32 * GIB},
        "native": {
            "cpu": ("bf16", "fp32"),
            "cuda:0": ("bf16", "fp16", "fp32"),
            "cuda:1": ("bf16",),
        },
        "bitsandbytes": True,
        "libraries": quantisation.modules(),
        "threads": 8,
        "names": {"cpu": "CPU", "cuda:0": "GPU", "cuda:1": "GPU", "mps": "Apple GPU"},
    }
    return Machine(**(values | changes))


GPU = {"devices": ("cuda:0", "cpu")}


@pytest.fixture(scope="module")
def seven(folder: Path) -> hub.Card:
    """The card of the 7B: planning is arithmetic over it."""
    return replace(
        hub.card(folder, "Qwen/Qwen2.5-7B"),
        parameters=7_615_616_512,
        table_parameters=2 * 152_064 * 3584,
        bytes=2 * 7_615_616_512,
        layers=28,
        hidden=3584,
        heads=28,
        kv_heads=4,
        head_dim=128,
        context=131_072,
    )


def planned(card: hub.Card, found: Machine, **values: Any) -> Plan:
    return planning.plan(card, Settings(**values), found)


def test_threads_are_the_machines_but_for_a_model_that_fits_in_a_cache(seven: hub.Card) -> None:
    tiny = replace(seven, parameters=3_757_312, bytes=2 * 3_757_312)
    assert planned(seven, machine()).threads == 8
    assert planned(tiny, machine()).threads == 1
    assert any("1 thread" in reason for reason in planned(tiny, machine()).why)
    assert planned(tiny, machine(), threads=4).threads == 4


def test_a_gpu_with_room_runs_bf16(seven: hub.Card) -> None:
    found = planned(seven, machine(**GPU, free={"cuda:0": 80 * GIB, "cpu": 64 * GIB}))
    assert (found.device, found.dtype, found.quant, found.spread) == (
        "cuda:0",
        "bf16",
        "none",
        False,
    )
    assert found.context == 131_072
    assert found.need_bytes == pytest.approx((14.2 + 7 + 0.9) * GIB, rel=0.05)
    assert any("cuda:0" in line for line in found.why)


def test_a_gpu_without_room_takes_four_bits_and_says_why(seven: hub.Card) -> None:
    found = planned(seven, machine(**GPU, free={"cuda:0": 11 * GIB, "cpu": 64 * GIB}))
    assert (found.device, found.dtype, found.quant) == ("cuda:0", "bf16", "nf4")
    assert any(line.startswith("nf4:") and "GiB" in line for line in found.why)
    assert 2048 <= found.context < 131_072
    assert any(line.startswith("context") for line in found.why)


def test_two_gpus_share_what_one_cannot_hold(seven: hub.Card) -> None:
    found = planned(
        seven,
        machine(
            devices=("cuda:0", "cuda:1", "cpu"),
            free={"cuda:0": 11 * GIB, "cuda:1": 11 * GIB, "cpu": 64 * GIB},
        ),
    )
    assert (found.quant, found.spread) == ("none", True)


def test_asked_for_unquantised_a_small_gpu_offloads(seven: hub.Card) -> None:
    found = planned(seven, machine(**GPU, free={"cuda:0": 11 * GIB, "cpu": 64 * GIB}), quant="none")
    assert (found.quant, found.spread) == ("none", True)


def test_what_cannot_fit_is_refused_with_numbers_and_offers(seven: hub.Card) -> None:
    with pytest.raises(Trouble) as found:
        planned(seven, machine(free={"cpu": 10 * GIB}), quant="none")
    assert found.value.code == TEMPORARY
    assert "10.0 GiB" in found.value.message
    assert "--quant nf4" in found.value.hint
    with pytest.raises(Trouble) as found:
        planned(seven, machine(free={"cpu": 3 * GIB}))
    assert "models list" in found.value.hint
    with pytest.raises(Trouble) as found:
        planned(
            seven,
            machine(**GPU, free={"cuda:0": 3 * GIB, "cpu": 64 * GIB}),
            device="cuda",
            quant="nf4",
        )
    assert "--device cpu" in found.value.hint


def test_a_cpu_without_bf16_computes_in_float32_where_it_fits(seven: hub.Card) -> None:
    old = {"native": {"cpu": ("fp32",)}}
    for free, dtype in ((64, "fp32"), (20, "bf16")):
        found = planned(seven, machine(**old, free={"cpu": free * GIB}), quant="none")
        assert (found.dtype, found.quant) == (dtype, "none")
    quantised = planned(seven, machine(**old, free={"cpu": 64 * GIB}), quant="nf4")
    assert (quantised.dtype, quantised.quant) == ("bf16", "nf4")


def test_a_cpu_reads_a_large_model_in_8_bits_unless_told_otherwise(seven: hub.Card) -> None:
    found = planned(seven, machine())
    assert (found.dtype, found.quant) == ("bf16", "int8")
    assert any(line.startswith("int8: half the bytes") for line in found.why)
    assert planned(seven, machine(), quant="none").quant == "none"
    assert planned(seven, machine(), dtype="bf16").quant == "none"
    assert planned(replace(seven, model_type="llama", shape=None), machine()).quant == "none"
    half = replace(seven, parameters=500_000_000, table_parameters=136_000_000)
    assert planned(half, machine()).quant == "none"
    assert planned(seven, machine(free={"cpu": 9 * GIB})).quant == "nf4"


def test_four_bits_are_of_the_kind_that_the_device_multiplies(seven: hub.Card) -> None:
    small = {"free": {"cpu": 8 * GIB, "cuda:0": 9 * GIB}}
    assert planned(seven, machine(**small)).quant == "nf4"
    assert planned(seven, machine(**small, nf4_kernel=False)).quant == "int4"
    assert planned(seven, machine(**small, bitsandbytes=False)).quant == "int4"
    assert planned(seven, machine(**GPU, **small, nf4_kernel=False)).quant == "nf4"
    for found in (machine(**GPU, **small), machine()):
        asked_for = (
            replace(seven, model_type="llama", shape=None) if found.devices == ("cpu",) else seven
        )
        with pytest.raises(Trouble, match="int4"):
            planned(asked_for, found, quant="int4")
    with pytest.raises(Trouble) as refused:
        planned(seven, machine(free={"cpu": 8 * GIB}, nf4_kernel=False), quant="int8")
    assert "--quant int4" in refused.value.hint


def test_kernels_are_measured_where_there_is_a_choice(seven: hub.Card, folder: Path) -> None:
    fast = Speeds(bf16=9.0, fp32=14.0, int8=6.0, fbgemm16=5.0, fbgemm8=2.5)
    even = Speeds(bf16=5.0, fp32=14.0, int8=3.0, fbgemm16=5.0, fbgemm8=2.8)
    for speeds, dtype16, dtype8, packing in (
        (fast, "fp16", "fp32", "fbgemm"),
        (even, *2 * ["bf16"], ""),
    ):
        found = machine(speeds=lambda speeds=speeds: speeds)
        plain, quantised = planned(seven, found, quant="none"), planned(seven, found, quant="int8")
        assert (plain.dtype, plain.packing) == (dtype16, packing)
        assert (quantised.dtype, quantised.packing) == (dtype8, packing)
        assert any("measured here" in line for line in plain.why)
        assert planned(seven, found, quant="int8", dtype="bf16").packing == ""
        assert planned(seven, found, quant="nf4").packing == ""

    def never() -> Speeds:
        raise AssertionError("measured for nothing")

    nothing = machine(**GPU, free={"cuda:0": 80 * GIB, "cpu": 64 * GIB}, speeds=never)
    assert planned(seven, nothing).packing == ""
    assert planned(hub.card(folder), machine(speeds=never)).dtype == "fp32"
    assert planned(hub.card(folder), machine(speeds=never), quant="int8").packing == "fbgemm"


def test_float32_beside_packed_weights_is_counted(seven: hub.Card) -> None:
    fast = Speeds(bf16=9.0, fp32=14.0, int8=6.0, fbgemm16=5.0, fbgemm8=2.5)
    found = planned(seven, machine(speeds=lambda: fast), quant="int8", context=4096)
    assert found.need_bytes == pytest.approx((7.6 + 0.44 + 0.9 + 0.5) * GIB, rel=0.05)


def test_nf4_without_a_kernel_for_it_is_called_slow(seven: hub.Card) -> None:
    words = [
        any("--quant int8" in line for line in planned(seven, found, quant="nf4").warnings)
        for found in (machine(nf4_kernel=False), machine())
    ]
    assert words == [True, False]


def test_a_small_checkpoint_runs_in_float32_on_a_cpu(folder: Path) -> None:
    card = hub.card(folder)
    found = planned(card, machine())
    assert found.dtype == "fp32"
    assert any(line.startswith("fp32:") for line in found.why)
    assert planned(card, machine(), dtype="bf16").dtype == "bf16"


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"device": "cuda"}, "cuda"),
        ({"context": 200_000}, "131,072"),
        ({"quant": "nf4"}, "bitsandbytes"),
    ],
)
def test_a_wish_that_cannot_be_granted_is_refused(
    seven: hub.Card, values: dict[str, Any], word: str
) -> None:
    with pytest.raises(Trouble) as found:
        planned(seven, machine(bitsandbytes=False), **values)
    assert found.value.code == USAGE
    assert word in found.value.message


def test_a_checkpoint_that_is_packed_already_is_not_packed_again(seven: hub.Card) -> None:
    packed = replace(seven, quantised="gptq")
    assert planned(packed, machine()).quant == "none"
    with pytest.raises(Trouble, match="already quantised"):
        planned(packed, machine(), quant="nf4")


def test_a_plan_reads_as_lines(seven: hub.Card) -> None:
    shown = list(planning.lines(planned(seven, machine())))
    assert "cpu · bf16 · int8" in shown[0]
    assert "GiB needed" in shown[1]
    assert len(shown) >= 4


def test_this_machine_is_looked_at() -> None:
    found = hardware.probe()
    assert found.devices[-1] == "cpu"
    assert found.free["cpu"] > 0
    assert found.threads >= 1
