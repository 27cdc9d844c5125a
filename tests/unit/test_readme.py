"""The README says what the program does: its keys, commands and options come from the code."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "README.md").read_text("utf-8")


def test_keys_and_command_line_are_the_programs() -> None:
    specification = importlib.util.spec_from_file_location("readme", ROOT / "scripts" / "readme.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert module.filled(PAGE) == PAGE, "run: python scripts/readme.py"


def test_it_stays_short_enough_to_be_read() -> None:
    assert len(PAGE.splitlines()) < 250


def test_what_it_points_to_is_there() -> None:
    for place in re.findall(r"(?:examples|scripts|assets)/[\w.-]+", PAGE):
        assert (ROOT / place).exists(), place


@pytest.mark.parametrize(
    "line", [line for line in PAGE.splitlines() if re.match(r".*qwen-tui complete .*draft", line)]
)
def test_its_command_lines_parse(line: str, tmp_path: Path) -> None:
    command = line.split("#")[0].split("|")[0].split()[1:]
    (tmp_path / "draft.txt").write_text("Once upon a time", "utf-8")
    shown = [*command, "--dry-run", "--model", "./nowhere"]
    done = subprocess.run(
        [sys.executable, "-m", "qwen_tui", *shown], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 66, done.stderr  # the model is missing, and nothing else is wrong
