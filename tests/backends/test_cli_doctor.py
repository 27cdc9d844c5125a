"""`doctor` with a model at hand: the plan it would run by, and weights that changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures import checkpoints
from qwen_tui import paths
from qwen_tui.cli import main
from qwen_tui.types import BAD_DATA


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint in our own models folder, called `mine`."""
    monkeypatch.chdir(tmp_path)
    folder = paths.models_dir() / "mine"
    folder.mkdir(parents=True)
    return checkpoints.qwen2(folder, layers=1)


def test_doctor_prints_the_plan_and_its_reasons(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "-m", "mine", "--device", "cpu", "--dtype", "bf16"]) == 0
    out = capsys.readouterr().out
    assert "cpu · bf16" in out
    assert "bf16: asked for" in out
    assert "GiB free" in out
    for section in ("versions", "terminal", "places"):
        assert f"\n{section}\n" in out
    assert str(paths.sessions_dir()) in out


def test_doctor_finds_weights_that_changed(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "-m", "mine", "--verify-weights"]) == 0
    assert "model.safetensors  recorded now" in capsys.readouterr().out
    weights = mine / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    assert main(["doctor", "-m", "mine", "--verify-weights"]) == BAD_DATA
    assert "model.safetensors  CHANGED" in capsys.readouterr().out
