"""`bench` as a person and a script meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fixtures import checkpoints
from qwen_tui import paths
from qwen_tui.cli import main
from qwen_tui.types import NO_INPUT, USAGE


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint in our own models folder, called `mine`."""
    from qwen_tui.backends.local.benchmark import bandwidth

    monkeypatch.setattr(bandwidth, "BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(bandwidth, "LEAST_BUFFER", 1 << 20)
    monkeypatch.chdir(tmp_path)
    folder = paths.models_dir() / "mine"
    folder.mkdir(parents=True)
    return checkpoints.qwen2(folder, layers=1)


BRIEF = ["--rounds", "2", "-n", "3", "--prompt-tokens", "32", "--threads", "1"]


def test_the_table_names_model_machine_and_every_speed(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "-m", "mine", *BRIEF]) == 0
    said = capsys.readouterr()
    assert "mine" in said.out.splitlines()[0]
    assert "2 rounds, blocks of 3 tokens" in said.out
    for words in (
        "decode, greedy",
        "share of the bound, sampled",
        "first token, after an edit",
        "load",
        "GB/s",
    ):
        assert words in said.out
    assert "round 2 of 2" in said.err
    assert "round 2 of 2" not in said.out


def test_json_is_one_object_with_every_round(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "-m", "mine", "--json", "-q", *BRIEF]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["model"]["name"] == "mine"
    assert found["protocol"]["rounds"] == 2
    assert len(found["figures"]["decode_greedy"]["values"]) == 2
    assert said.err == ""


def test_the_gate_is_a_second_table(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "-m", "mine", "--gate", *BRIEF]) == 0
    said = capsys.readouterr().out
    assert "against float32" in said
    assert "int8 · bfloat16" in said
    assert main(["bench", "-m", "mine", "--gate", "--json", "-q", *BRIEF]) == 0
    found = json.loads(capsys.readouterr().out)["gate"]
    assert {"bfloat16", "int8 · bfloat16"} <= {each["name"] for each in found}


def test_a_model_that_is_not_here_exits_66(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "-m", "Qwen/Qwen2.5-7B"]) == NO_INPUT
    said = capsys.readouterr()
    assert said.out == ""
    assert "models pull" in said.err


@pytest.mark.parametrize("arguments", [["-n", "1"], ["--rounds", "0"], ["--quant", "nf5"]])
def test_what_cannot_be_measured_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == USAGE
    assert capsys.readouterr().out == ""
