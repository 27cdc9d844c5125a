"""Checkpoints as people have them: quantised by others, with files beside them, saved with odd
configurations. Each runs right, or is refused by name before it is loaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fixtures.checkpoints import other, qwen2
from fixtures.opening import asked, ids, local, run
from qwen_tui import backends, hub, settings
from qwen_tui.backends.local.nn import bitsandbytes
from qwen_tui.backends.local.opening import planned
from qwen_tui.backends.local.planning import host_limits
from qwen_tui.backends.local.weights import packed_file
from qwen_tui.cli import main
from qwen_tui.types import BAD_DATA, NO_INPUT, Scored, Trouble

PROMPT = [40, 7, 190, 22, 64, 65, 101, 300, 12, 90, 31]
FORWARDS = ["auto", "reference"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen2(tmp_path_factory.mktemp("published") / "plain", hidden=128, intermediate=256)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def text_of(folder: Path, forward: str = "auto") -> list[int]:
    backend = local(folder, path=forward)
    found = ids(run(backend, asked(PROMPT)))
    backend.close()
    return found


def scores(folder: Path, forward: str = "auto") -> Tensor:
    """Log-probabilities of the prompt's own tokens."""
    backend = local(folder, path=forward)
    events = run(backend, asked(PROMPT, score=True, max_tokens=0))
    backend.close()
    found = [token for event in events if isinstance(event, Scored) for token in event.tokens]
    return torch.tensor([token.logprob for token in found[1:]])


def warnings_of(folder: Path, forward: str = "auto") -> str:
    backend = local(folder, path=forward)
    backend.close()
    return " ".join(backend.warnings)


def configured(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def rewritten(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    file = folder / "model.safetensors"
    tensors = {name: each.contiguous() for name, each in change(load_file(file)).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def refused(folder: Path, *words: str) -> Trouble:
    """The trouble of opening it, which names all `words`; `doctor` refuses it as well."""
    with pytest.raises(Trouble) as found:
        local(folder, path="auto")
    for word in words:
        assert word in found.value.message + found.value.hint, found.value.message
    assert found.value.code == NO_INPUT
    assert main(["doctor", "-m", str(folder)]) == NO_INPUT
    return found.value


# -- quantised by others ---------------------------------------------------------------------------


def saved_by_bitsandbytes(folder: Path, to: Path, **how: Any) -> Path:
    """What transformers writes when it loaded `folder` through bitsandbytes."""
    bitsandbytes.load()
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    network = AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=BitsAndBytesConfig(**how),
        device_map={"": "cpu"},
        dtype=torch.float32,
    )
    network.save_pretrained(to)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, to)
    return to


@pytest.mark.parametrize(
    ("how", "near"),
    [
        ({"load_in_8bit": True}, 0.15),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, 1.0),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, 1.5),
        (
            {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": True,
                "bnb_4bit_compute_dtype": torch.bfloat16,
            },
            1.0,
        ),
    ],
    ids=["int8", "nf4", "fp4", "nested"],
)
def test_a_checkpoint_saved_by_bitsandbytes_runs_as_it_was_saved(
    folder: Path, tmp_path: Path, how: dict[str, Any], near: float
) -> None:
    saved = saved_by_bitsandbytes(folder, tmp_path / "saved", **how)
    error = float((scores(saved) - scores(folder)).abs().mean())
    assert 0 < error < near, "near the weights it was made from, not noise"
    opened = local(saved, path="auto")
    opened.close()
    assert opened.environment.quant == "bitsandbytes", "so that a replay allows for rounding"
    plan = planned(settings.load({"model": str(saved)}, env={}, cwd=saved)).plan
    assert any("quantised with bitsandbytes" in line for line in plan.why)
    with pytest.raises(Trouble, match="already quantised"):
        local(saved, quant="nf4")


def blocks_of_fp8(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Projections in FP8 with a scale for each block of 128 × 128, and what they stand for."""
    packed, plain = dict(tensors), dict(tensors)
    for name, weight in tensors.items():
        if not name.endswith("_proj.weight"):
            continue
        rows, columns = weight.shape
        tall, wide = -(-rows // 128), -(-columns // 128)
        room = torch.zeros(tall * 128, wide * 128)
        room[:rows, :columns] = weight
        blocks = room.view(tall, 128, wide, 128)
        scale = blocks.abs().amax((1, 3), keepdim=True).clamp(min=1e-6) / 448
        small = (blocks / scale).to(torch.float8_e4m3fn)
        packed[name] = small.view(tall * 128, wide * 128)[:rows, :columns]
        packed[f"{name}_scale_inv"] = scale.view(tall, wide)
        plain[name] = (small.float() * scale).view(tall * 128, wide * 128)[:rows, :columns]
    return packed, plain


def test_an_fp8_checkpoint_computes_what_its_scaled_blocks_stand_for(
    folder: Path, tmp_path: Path
) -> None:
    packed, plain = blocks_of_fp8(load_file(folder / "model.safetensors"))
    small, same = tmp_path / "small", tmp_path / "same"
    for place, tensors in ((small, packed), (same, plain)):
        rewritten(Path(shutil.copytree(folder, place)), lambda _, tensors=tensors: tensors)
    scheme = {"weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"}
    configured(small, quantization_config={"quant_method": "fp8", **scheme})
    assert text_of(small) == text_of(same, "reference")
    torch.testing.assert_close(scores(small), scores(same, "reference"), atol=1e-3, rtol=1e-3)


def scaled(tensors: dict[str, Tensor], dtype: torch.dtype, most: float) -> dict[str, Tensor]:
    """Projections in `dtype` with a scale a row, as compressed-tensors writes them."""
    found = dict(tensors)
    for name, weight in tensors.items():
        if name.endswith("_proj.weight"):
            scale = weight.abs().amax(1, keepdim=True) / most
            found[name] = (weight / scale).to(dtype)
            found[f"{name}_scale"] = scale
    return found


COMPRESSED = {"quant_method": "compressed-tensors", "format": "float-quantized"}


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """As on a machine where `module` is not installed."""
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name)
    )


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_compressed_tensors_name_the_library_that_is_missing(
    copy: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "compressed_tensors")
    rewritten(copy, lambda tensors: scaled(tensors, dtype, 127.0))
    configured(copy, quantization_config=COMPRESSED)
    refused(copy, "compressed-tensors", "pip install compressed-tensors", "--quant int8")


def test_scaled_weights_that_the_configuration_does_not_tell_of_are_refused(copy: Path) -> None:
    rewritten(copy, lambda tensors: scaled(tensors, torch.float8_e4m3fn, 448.0))
    refused(copy, "F8_E4M3", "does not name")
    rewritten(
        copy,
        lambda tensors: {
            name: each.float() if each.dtype == torch.float8_e4m3fn else each
            for name, each in tensors.items()
        },
    )
    refused(copy, "weight_scale", "does not know")


@pytest.mark.parametrize(
    ("method", "modules", "install"),
    [
        ("gptq", ("gptqmodel", "optimum"), "pip install gptqmodel optimum"),
        ("awq", ("gptqmodel",), "pip install gptqmodel"),
    ],
)
def test_integers_in_groups_name_what_is_missing(
    copy: Path,
    method: str,
    modules: tuple[str, ...],
    install: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def packed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {k: v for k, v in tensors.items() if not k.endswith("_proj.weight")}
        for name, weight in tensors.items():
            if name.endswith("_proj.weight"):
                rows, columns = weight.shape
                base = name.removesuffix(".weight")
                found[f"{base}.qweight"] = torch.zeros(columns // 8, rows, dtype=torch.int32)
                found[f"{base}.scales"] = torch.ones(1, rows, dtype=torch.float16)
        return found

    without(monkeypatch, "gptqmodel")
    rewritten(copy, packed)
    configured(copy, quantization_config={"quant_method": method, "bits": 4, "group_size": 128})
    trouble = refused(copy, method.upper(), install)
    assert "gptqmodel" in trouble.message
    assert modules[0] in trouble.message


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_a_checkpoint_of_mlx_is_called_one(copy: Path, key: str) -> None:
    def packed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for name, weight in list(tensors.items()):
            if name.endswith("_proj.weight"):
                rows, columns = weight.shape
                tensors[name] = torch.zeros(rows, columns // 8, dtype=torch.uint32)
                base = name.removesuffix(".weight")
                tensors[f"{base}.scales"] = torch.ones(rows, columns // 64)
        return tensors

    rewritten(copy, packed)
    configured(copy, **{key: {"group_size": 64, "bits": 4}})
    refused(copy, "MLX", "--quant")


def test_a_method_that_nobody_knows_is_refused_by_its_name(copy: Path) -> None:
    configured(copy, quantization_config={"quant_method": "exl2", "bits": 4.65})
    refused(copy, "EXL2")
    configured(copy, quantization_config={"quant_method": "tomorrow"})
    refused(copy, "tomorrow")
    configured(copy, quantization_config=None)
    (copy / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    refused(copy, "ModelOpt")


@pytest.mark.parametrize(("bits", "mark"), [(4, "quant_state"), (8, "SCB")])
def test_bitsandbytes_without_its_scales_is_refused_before_loading(
    copy: Path, bits: int, mark: str
) -> None:
    def packed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for name, weight in list(tensors.items()):
            if name.endswith("_proj.weight"):
                tensors[name] = torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8)
        return tensors

    rewritten(copy, packed)
    how = {"quant_method": "bitsandbytes", f"load_in_{bits}bit": True}
    configured(copy, quantization_config=how)
    refused(copy, "bitsandbytes", mark)


def test_a_format_that_breaks_in_its_library_is_one_line(folder: Path, tmp_path: Path) -> None:
    saved = saved_by_bitsandbytes(folder, tmp_path / "saved", load_in_4bit=True)
    name = "model.layers.1.mlp.up_proj.weight.absmax"
    rewritten(saved, lambda tensors: {k: v for k, v in tensors.items() if k != name})
    with pytest.raises(Trouble) as found:
        local(saved, path="auto")
    assert found.value.code == NO_INPUT
    assert "saved" in found.value.message


# -- every tensor is held against the configuration ------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: {**t, "model.layers.0.mlp.up_proj.weight": torch.zeros(3, 128)},
            ("wrong shape for model.layers.0.mlp.up_proj.weight", "[3, 128], not [256, 128]"),
        ),
        (
            lambda t: {**t, "model.norm.weight": torch.ones(128, dtype=torch.int8)},
            ("model.norm.weight as I8",),
        ),
        (lambda t: {**t, "model.layers.2.extra": torch.ones(1)}, ("model.layers.2.extra",)),
        (
            lambda t: {k: v for k, v in t.items() if k != "model.norm.weight"},
            ("lacks model.norm.weight",),
        ),
    ],
)
def test_a_tensor_that_is_not_as_configured_is_named(
    copy: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], words: tuple[str, ...]
) -> None:
    refused(rewritten(copy, change), *words)


def test_a_buffer_of_old_checkpoints_is_no_stranger(copy: Path, folder: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewritten(copy, lambda tensors: {**tensors, name: torch.ones(16)})
    assert text_of(copy) == text_of(folder)


# -- files beside the weights ----------------------------------------------------------------------


def noise(file: Path, like: Path) -> None:
    """Random weights under every name of a checkpoint."""
    tensors = {name: torch.randn_like(each) for name, each in load_file(like).items()}
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize(
    "name", ["model_backup.safetensors", "adapter_model.safetensors", "zzz.safetensors"]
)
def test_a_file_beside_the_whole_one_is_not_read(
    copy: Path, folder: Path, name: str, forward: str
) -> None:
    noise(copy / name, folder / "model.safetensors")
    assert text_of(copy, forward) == text_of(folder, forward)
    assert name not in hub.fingerprint(copy, hash_weights=True).files
    assert hub.card(copy).parameters == hub.card(folder).parameters


@pytest.mark.parametrize("forward", FORWARDS)
def test_an_old_whole_file_beside_shards_is_not_read(
    folder: Path, tmp_path: Path, forward: str
) -> None:
    sharded = qwen2(tmp_path / "shards", hidden=128, intermediate=256, shards=3)
    noise(sharded / "model.safetensors", folder / "model.safetensors")
    assert text_of(sharded, forward) == text_of(folder, forward)
    assert "model.safetensors" not in hub.fingerprint(sharded, hash_weights=True).files


@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize(
    "index", ['{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', "{", "{}"]
)
def test_an_index_left_by_an_older_save_gives_way_to_the_whole_file(
    copy: Path, folder: Path, forward: str, index: str
) -> None:
    (copy / "model.safetensors.index.json").write_text(index)
    assert text_of(copy, forward) == text_of(folder, forward)
    assert "model.safetensors is loaded instead" in warnings_of(copy, forward)


@pytest.mark.parametrize("forward", FORWARDS)
def test_side_files_of_macos_are_not_there(copy: Path, folder: Path, forward: str) -> None:
    for name in ("._model.safetensors", "._config.json", ".hidden.safetensors"):
        (copy / name).write_bytes(b"\0\5\x16\7" + bytes(4092))
    assert text_of(copy, forward) == text_of(folder, forward)
    (copy / "model.safetensors").rename(copy / "weights.safetensors")
    assert text_of(copy, forward) == text_of(folder, forward), "the one file, whatever its name"


# -- odd configurations ----------------------------------------------------------------------------


@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize("quant", ["none", "int8"])
def test_a_head_of_its_own_is_used_though_the_configuration_ties_it(
    folder: Path, tmp_path: Path, forward: str, quant: str
) -> None:
    tied = qwen2(tmp_path / "tied", hidden=128, intermediate=256)
    right = local(tied, path="reference", quant=quant)
    expected = ids(run(right, asked(PROMPT)))
    configured(tied, tie_word_embeddings=True)
    for _ in range(2):
        backend = local(tied, path=forward, quant=quant)
        assert ids(run(backend, asked(PROMPT)))[:3] == expected[:3]
        assert "ties the lm_head" in " ".join(backend.warnings)
        backend.close()


@pytest.mark.parametrize("forward", FORWARDS)
def test_a_head_that_is_the_table_again_is_tied_without_a_word(
    tmp_path: Path, forward: str
) -> None:
    tied = qwen2(tmp_path / "tied", tied=True)
    expected = text_of(tied, forward)
    rewritten(tied, lambda t: {**t, "lm_head.weight": t["model.embed_tokens.weight"].clone()})
    assert text_of(tied, forward) == expected
    assert warnings_of(tied, forward) == ""


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_a_configuration_with_a_byte_order_mark_is_read(tmp_path: Path, kind: str) -> None:
    found = qwen2(tmp_path / kind) if kind == "qwen2" else other(tmp_path / kind, kind)
    expected = text_of(found)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if (found / name).exists():
            (found / name).write_bytes(b"\xef\xbb\xbf" + (found / name).read_bytes())
    assert text_of(found) == expected


# -- what is no language model ---------------------------------------------------------------------


def test_an_adapter_alone_says_what_it_adapts(copy: Path) -> None:
    (copy / "config.json").unlink()
    (copy / "model.safetensors").rename(copy / "adapter_model.safetensors")
    (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen2.5-7B"}')
    refused(copy, "adapter (LoRA) of Qwen/Qwen2.5-7B", "merge_and_unload")


def test_a_gguf_file_is_called_one(copy: Path) -> None:
    (copy / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    refused(copy / "model.gguf", "GGUF", "llama.cpp")
    for name in ("model.safetensors", "config.json"):
        (copy / name).unlink()
        refused(copy, "GGUF", "llama.cpp")


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["BertModel"], "model_type": "bert"},
        {"architectures": ["Qwen2Model"]},
        {"architectures": ["Qwen2ForSequenceClassification"]},
        {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
    ],
)
def test_what_does_not_continue_text_is_refused_by_its_class(
    copy: Path, changes: dict[str, Any]
) -> None:
    configured(copy, **changes)
    refused(copy, changes["architectures"][0], "causal language model")


def test_a_pipeline_that_makes_pictures_is_no_language_model(copy: Path) -> None:
    (copy / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (copy / "config.json").unlink()
    refused(copy, "diffusers")


# -- what a plan leaves room for -------------------------------------------------------------------


def test_a_prompt_beyond_the_planned_context_is_refused_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint knows a million tokens; this machine has memory for some thousands."""
    long = qwen2(tmp_path / "long", layers=8, heads=4, kv_heads=4, context=1_000_000)
    monkeypatch.setattr(host_limits, "free_bytes", lambda: (970 << 20) * 100 // 95)
    chosen = settings.load({"model": str(long)}, env={}, cwd=tmp_path)
    room = backends.context(chosen)
    assert 2048 <= room < 50_000
    assert room == local(long, path="auto").context
    text = tmp_path / "long.txt"
    text.write_text(" a" * (2 * room))
    flags = ["complete", str(text), "-m", str(long), "-n", "2", "-q", "-o", str(tmp_path / "out")]
    assert main([*flags, "--truncate", "left"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(packed_file, "load", lambda *_, **__: pytest.fail("weights were read"))
        assert main(flags) == BAD_DATA
    assert f"{room:,}" in capsys.readouterr().err
