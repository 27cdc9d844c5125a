"""The bench on tiny checkpoints: what it measures is what happened, not how long it took."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from fixtures import checkpoints
from fixtures.opening import local
from qwen_tui import settings
from qwen_tui.backends.local.benchmark import bandwidth, quality, run, workloads
from qwen_tui.backends.local.benchmark.figures import BenchProtocol, Figure, decimals, figure_text
from qwen_tui.backends.local.nn import fbgemm
from qwen_tui.types import Progress, Trouble

BRIEF = BenchProtocol(rounds=2, tokens=4, prompt=64, passage=12, siblings=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen2(tmp_path_factory.mktemp("bench") / "tiny", hidden=64)


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(bandwidth, "LEAST_BUFFER", 1 << 20)


def measured(folder: Path, said: list[str] | None = None, **flags: object) -> run.Result:
    chosen = settings.load({"model": str(folder), "threads": 1, **flags}, env={}, cwd=folder)
    say = (said if said is not None else []).append
    reports: list[Progress] = []
    return run.measure(chosen, BRIEF, report=reports.append, say=say)


def test_every_round_gives_every_figure(folder: Path) -> None:
    found = measured(folder, dtype="fp32").figures
    for name in (
        "decode_greedy", "decode_sampled", "share_greedy", "share_sampled", "bandwidth",
        "prefill", "ttft_cold", "ttft_edit", "edit_steps", "siblings",
        "rewrite", "per_forward",
    ):  # fmt: skip
        assert len(found[name].values) == BRIEF.rounds, name
        assert min(found[name].values) > 0, name
    assert "56 of 64 reused" in found["ttft_edit"].note
    assert len(found["load_s"].values) == 2, "nothing is quantised in float32"


def test_the_first_load_quantises_and_the_second_does_not(folder: Path) -> None:
    found = measured(folder, quant="int8", dtype="bf16").figures
    assert len(found["load_first_s"].values) == 1
    assert len(found["load_s"].values) == 1
    again = measured(folder, quant="int8", dtype="bf16").figures
    assert "load_first_s" not in again
    assert len(again["load_s"].values) == 2


def test_a_step_reads_every_weight_but_the_embedding(folder: Path) -> None:
    sizes = {"fast": 0, "reference": 0}
    for path in sizes:
        backend = local(folder, path=path, dtype="fp32")
        sizes[path] = backend.step_bytes
        backend.close()
    matrices = 2 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 64) + 333 * 64
    assert sizes["fast"] == 4 * matrices
    assert 0 <= sizes["reference"] - sizes["fast"] < 4 * 2000, "norms and biases alone are more"


def test_long_prompts_are_new_and_an_edit_reuses_all_but_the_end(folder: Path) -> None:
    subject = workloads.Subject(local(folder, path="fast", dtype="fp32"), BRIEF, known=300)
    for seed in (1, 2):
        assert subject.cold(seed).reused <= 2
        edit = subject.edit(seed)
        assert edit.reused == subject.prompt_tokens - workloads.EDITED
    assert subject.ids(8, 5) == subject.ids(8, 5)
    assert max(subject.ids(2000, 5)) < 300
    subject.backend.close()


def test_a_long_prompt_is_cut_to_what_the_context_holds(tmp_path: Path) -> None:
    small = checkpoints.qwen2(tmp_path / "small", context=128)
    subject = workloads.Subject(
        local(small, path="fast"), BenchProtocol(tokens=16, prompt=4096), known=300
    )
    assert 0 < subject.prompt_tokens < 128
    assert subject.cold(1).prompt == subject.prompt_tokens
    subject.backend.close()


def test_only_the_passage_written_anew_is_guessed_ahead(folder: Path) -> None:
    backend = local(folder, path="fast", dtype="fp32")
    subject = workloads.Subject(backend, BRIEF, known=300)
    assert backend._engine.max_draft > 0
    assert subject.decode(workloads.GREEDY, 1).drafted == 0
    once, again = subject.rewrite(1)
    assert once.drafted == 0
    assert once.emitted == again.emitted == BRIEF.passage
    with backend.speculating(lookup=False, draft=False):
        assert backend._engine.max_draft == 0
    assert backend._engine.max_draft > 0
    backend.close()


def test_a_draft_model_is_measured_beside_plain_decoding(folder: Path) -> None:
    twin = shutil.copytree(folder, folder.parent / "twin")
    found = measured(folder, dtype="fp32", draft=str(twin))
    assert found.model["draft"] == str(twin)
    assert len(found.figures["drafted"].values) == BRIEF.rounds
    assert min(found.figures["drafted_per_forward"].values) > 1
    assert "drafted tokens accepted" in found.figures["drafted"].note
    assert "drafted" not in measured(folder, dtype="fp32").figures


def test_a_generation_that_breaks_off_is_no_measurement(folder: Path) -> None:
    backend = local(folder, path="fast", dtype="fp32")
    cancel = threading.Event()
    cancel.set()
    subject = workloads.Subject(backend, BRIEF, known=300)
    with pytest.raises(Trouble, match="cancelled"):
        workloads.ended(backend.stream(workloads.asked(subject.ids(8, 0)), cancel))
    backend.close()


def test_a_busy_machine_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "load", lambda: 9.0)
    said: list[str] = []
    result = measured(folder, said, dtype="fp32")
    assert any("busy (load 9.0)" in line for line in said)
    assert result.record()["machine"]["load"] == 9.0


def test_a_figure_is_its_median_with_the_spread() -> None:
    figure = Figure("decode", "tok/s", (5.0, 7.126, 30.0))
    assert figure_text(figure) == ("7.13 tok/s", "5.00 – 30.00")
    assert figure_text(Figure("ratio", "×", (1.5,))) == ("1.50×", "")
    assert [decimals(value) for value in (1234.0, 12.0, 1.0, 0.1, 0.01)] == [0, 1, 2, 3, 4]


def test_the_read_kernel_says_bytes_per_second() -> None:
    import torch

    ticks = iter(range(100))
    found = bandwidth.Bandwidth(torch.device("cpu"), clock=lambda: float(next(ticks)))
    assert found.measure() == 1 << 20


def test_a_packed_file_is_found_by_the_name_that_loading_gives_it(folder: Path) -> None:
    from qwen_tui.cli import cache_files

    local(folder, path="fast", quant="int8", dtype="bf16").close()
    (file,) = cache_files.of(folder, cache_files.packed_weights())
    assert file.kind == "int8"
    assert file.whole
    assert cache_files.of_model(str(folder), cache_files.packed_weights()) == (file,)
    assert cache_files.of_model("other", cache_files.packed_weights()) == ()


# -- the quality gate ------------------------------------------------------------------------------


def test_the_gate_tells_the_kinds_apart(tmp_path: Path) -> None:
    folder = checkpoints.qwen2(tmp_path / "wide", hidden=128, intermediate=192)
    stages: list[Progress] = []
    found = {each.name: each for each in quality.distances(folder, range(60), 320, stages.append)}
    assert {"bfloat16", "int8 · bfloat16", "nf4 · bfloat16"} <= set(found)
    assert [each.done for each in stages] == [0, 1, 2]
    errors = [found[name].error for name in ("bfloat16", "int8 · bfloat16", "nf4 · bfloat16")]
    assert 0 < errors[0] < errors[1] < errors[2] < 1
    if fbgemm.available():
        assert found["fp16 · FBGEMM"].error < errors[0] / 4
        assert found["int8 · FBGEMM"].error < errors[1]
    for each in found.values():
        assert 0 <= each.divergence <= each.largest
        assert 0 <= each.same <= 1


def test_the_gates_float32_is_the_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer by layer, each thrown away after use, gives what the whole model gives."""
    seen: list[Tensor] = []
    measure = quality._distance

    def spy(name: str, exact: Tensor, *rest: Any) -> quality.QualityLoss:
        seen.append(exact)
        return measure(name, exact, *rest)

    monkeypatch.setattr(quality, "_distance", spy)
    quality.distances(folder, range(40), 320, lambda progress: None)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        right = model(torch.arange(40)[None]).logits[0, :, :320]
    assert torch.allclose(seen[0], right, atol=1e-4, rtol=1e-4)


def test_another_architecture_cannot_be_gated(tmp_path: Path) -> None:
    with pytest.raises(Trouble, match="no forward of our own"):
        quality.distances(checkpoints.other(tmp_path / "gpt2", "gpt2"), [1, 2], 320, lambda p: None)
