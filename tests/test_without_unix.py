"""The whole program where there is no Unix: no `fcntl`, `termios`, `resource`, `pwd` and the like.

What is checked is that it starts, writes, locks and reads; the drivers of a real Windows terminal
are Textual's own.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import qwen_tui

TESTS = Path(__file__).parent
ONLY_ON_UNIX = {"fcntl", "termios", "resource", "pty", "tty", "pwd", "grp", "curses", "syslog"}


def run(kind: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(TESTS.parent), str(TESTS)))
    return subprocess.run(
        [sys.executable, "-m", "fixtures.without_unix", kind, *arguments],
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONPATH": path, "QWEN_TUI_HOME": str(home)},
    )


def test_a_person_completes_keeps_and_exports_a_text(tmp_path: Path) -> None:
    for command in (["--help"], ["config"], ["doctor", "--model", "demo"], ["models", "list"]):
        done = run("cli", *command, home=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    done = run(
        "cli", *["complete", "-p", "Once", "-n", "8", "--model", "demo", "--save"], home=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "8 new" in done.stderr
    listed = run("cli", "sessions", "list", home=tmp_path)
    assert "(Once" in listed.stdout, listed.stderr
    name = next((tmp_path / "data/sessions").glob("*.jsonl")).name.split("-")[0]
    exported = run("cli", "sessions", "export", name, "--as", "txt", home=tmp_path)
    assert exported.stdout.startswith("Once"), exported.stderr


@pytest.mark.parametrize(
    "tests",
    [
        "tests/tui/test_studio_sessions.py",
        "tests/unit/test_library.py",
        "tests/unit/test_session_drafts.py",
        "tests/unit/test_cli_sessions.py",
    ],
)
def test_the_studio_and_the_sessions_work(tests: str, tmp_path: Path) -> None:
    done = run("pytest", "-x", "-q", "-p", "no:cacheprovider", tests, home=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]


def test_what_only_unix_has_is_imported_where_it_may_be_missing() -> None:
    package = Path(qwen_tui.__file__).parent
    bare = []
    for path in package.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {node.module or ""}
            else:
                continue
            bare += [f"{path.name}: {name}" for name in names & ONLY_ON_UNIX]
    assert not bare
