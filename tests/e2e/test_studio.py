"""The program in tmux on a tiny real checkpoint: write, continue, stop, leave, come back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fixtures.checkpoints import qwen2
from qwen_tui import paths
from qwen_tui.session import library
from qwen_tui.session.identity import id_of
from qwen_tui.session.opening import open_session

if sys.platform == "win32" or shutil.which("tmux") is None:
    pytest.skip("there is no tmux", allow_module_level=True)

pytestmark = pytest.mark.e2e
PROGRAM = f"{sys.executable} -m qwen_tui"
PATIENCE_S = 60


class Tmux:
    """One tmux server of its own with one window."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / "tmux")

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self.socket, *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout

    def start(self, command: str, width: int = 100, height: int = 30) -> None:
        shell = f"{command}; echo LEFT-WITH-$?; exec cat"
        self.run("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), shell)

    def again(self, command: str) -> None:
        self.run("respawn-window", "-k", f"{command}; echo LEFT-WITH-$?; exec cat")

    def type(self, text: str) -> None:
        self.run("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        self.run("send-keys", *keys)

    def screen(self) -> str:
        return self.run("capture-pane", "-p")

    def until(self, true: Callable[[str], object], what: str) -> str:
        """Wait until the screen is so; fail with what was seen."""
        end = time.monotonic() + PATIENCE_S
        shown = ""
        while time.monotonic() < end:
            shown = self.screen()
            if true(shown):
                return shown
            time.sleep(0.05)
        pytest.fail(f"never: {what}\n{shown}")


@pytest.fixture
def tmux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tmux]:
    monkeypatch.delenv("TMUX", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    there = Tmux(tmp_path)
    yield there
    there.run("kill-server")


def test_write_continue_be_killed_come_back_stop_and_leave(tmux: Tmux, tmp_path: Path) -> None:
    model, pid = qwen2(tmp_path / "tiny", context=4096), tmp_path / "pid"
    program = f"{PROGRAM} -m {model} -n 3000"
    tmux.start(f"sh -c 'echo $$ > {pid}; exec {program}'")
    tmux.until(lambda shown: "Untitled" in shown, "the first paint")
    tmux.type("Hello before the model")
    tmux.until(lambda shown: "Hello before the model" in shown, "typing while it loads")
    tmux.press("C-j")
    tmux.until(lambda shown: "queued" in shown or "writing" in shown, "the queued completion")
    tmux.until(lambda shown: "tok/s" in shown and "Stop" in shown, "tokens")
    tmux.type("!")
    tmux.until(lambda shown: "model!" in shown, "typing while it streams")
    os.kill(int(pid.read_text()), 9)
    tmux.until(lambda shown: "LEFT-WITH-137" in shown, "killed")

    (path,) = library.files()
    session = open_session(path, read_only=True).session
    assert session.text == "Hello before the model"
    assert len(session.interrupted()) == 1
    tmux.again(f"{program} --open {id_of(path)}")
    tmux.until(lambda shown: "interrupted" in shown, "the interrupted completion")
    tmux.press("C-j")
    tmux.until(lambda shown: "tok/s" in shown and "Stop" in shown, "going on")
    for width, height in ((40, 10), (20, 4), (100, 30)):
        tmux.run("resize-window", "-x", str(width), "-y", str(height))
    tmux.press("Escape")
    tmux.until(lambda shown: "stopped" in shown, "stopped with its text kept")
    tmux.until(lambda shown: "✓ saved" in shown, "saved")
    tmux.press("C-q")
    tmux.until(lambda shown: "LEFT-WITH-0" in shown, "leaving")
    assert len(open_session(path, read_only=True).session.tree) > len(session.tree)


def test_typing_survives_a_kill_before_anything_was_generated(tmux: Tmux, tmp_path: Path) -> None:
    model, pid = qwen2(tmp_path / "tiny"), tmp_path / "pid"
    program = f"{PROGRAM} -m {model}"
    tmux.start(f"sh -c 'echo $$ > {pid}; exec {program}'")
    tmux.until(lambda shown: "Untitled" in shown, "the first paint")
    tmux.type("Never generated from")
    tmux.until(lambda shown: "Never generated from" in shown, "the typing")
    tmux.until(
        lambda _: any(b"generated from" in each.read_bytes() for each in drafts()), "the draft"
    )
    os.kill(int(pid.read_text()), 9)
    tmux.until(lambda shown: "LEFT-WITH-137" in shown, "killed")
    tmux.again(program)
    tmux.until(lambda shown: "Never generated from" in shown and "Untitled" in shown, "restored")
    tmux.press("C-q")
    tmux.until(lambda shown: "LEFT-WITH-0" in shown, "leaving")
    (path,) = library.files()
    assert open_session(path, read_only=True).session.text == "Never generated from"
    assert drafts() == []


def drafts() -> list[Path]:
    return list(paths.drafts_dir().glob("*.jsonl")) if paths.drafts_dir().is_dir() else []


def test_leaving_while_the_engine_starts(tmux: Tmux, tmp_path: Path) -> None:
    model = qwen2(tmp_path / "tiny")
    tmux.start(f"{PROGRAM} -m {model} --no-save")
    tmux.until(lambda shown: "Untitled" in shown, "the first paint")
    tmux.press("C-q")
    tmux.until(lambda shown: "LEFT-WITH-0" in shown, "leaving")
    assert library.files() == []


def test_a_session_begun_from_a_file_bears_its_name(tmux: Tmux, tmp_path: Path) -> None:
    model, file = qwen2(tmp_path / "tiny"), tmp_path / "docs-with.txt"
    file.write_text("Text of a file")
    program = f"{PROGRAM} -m {model}"
    tmux.start(f"{program} {file}")
    tmux.until(lambda shown: "saved" in shown, "the text taken in")
    tmux.press("C-l")
    tmux.until(lambda shown: "Sessions" in shown and shown.count("docs-with.txt") > 1, "the list")
    tmux.press("Escape")
    tmux.until(lambda shown: "Sessions" not in shown and "─ docs-with" in shown, "the studio again")
    tmux.press("C-q")
    tmux.until(lambda shown: "LEFT-WITH-0" in shown, "leaving")
    tmux.again(f"{PROGRAM} sessions list")
    tmux.until(lambda shown: "docs-with.txt" in shown and "LEFT-WITH-0" in shown, "the list again")
    tmux.again(f"{program} --open docs-with.txt")
    tmux.until(lambda shown: "─ docs-with.txt" in shown, "the frame of the reopened session")


@pytest.mark.parametrize("home", ["", "/proc/nowhere"])
def test_no_save_leaves_nothing_behind_and_needs_no_home(
    tmux: Tmux, tmp_path: Path, home: str
) -> None:
    own = home or str(tmp_path / "home")
    program = f"{PROGRAM} -m {qwen2(tmp_path / 'tiny', context=4096)} -n 20 --no-save"
    tmux.start(f"QWEN_TUI_HOME={own} {program}")
    tmux.until(lambda shown: "Untitled" in shown, "the first paint")
    tmux.type("Hello")
    tmux.press("C-j")
    tmux.until(lambda shown: "20 of 20" in shown or "length" in shown, "a completion")
    tmux.press("C-q")
    tmux.until(lambda shown: "LEFT-WITH-0" in shown, "leaving")
    left = {file.relative_to(own).parts[0] for file in Path(own).rglob("*") if file.is_file()}
    assert left <= {"cache"}, "what is known of the model may stay, nothing else"


@pytest.mark.parametrize(
    ("editor", "said"), [("exit 0", "came back at once"), ("exit 3", "ended with 3")]
)
def test_an_editor_that_fails_or_does_not_wait_gives_the_studio_back(
    tmux: Tmux, tmp_path: Path, editor: str, said: str
) -> None:
    program = tmp_path / "code"
    program.write_text(f"#!/bin/sh\n{editor}\n")
    program.chmod(0o755)
    tmux.start(f"VISUAL={program} {PROGRAM} -m demo")
    tmux.until(lambda shown: "Untitled" in shown, "the first paint")
    tmux.type("Once")
    tmux.until(lambda shown: "Once" in shown, "typing")
    tmux.press("F4")
    tmux.until(lambda shown: said in shown and "Once" in shown, "what became of the editor")
    tmux.type(" upon")
    tmux.until(lambda shown: "Once upon" in shown, "writing goes on")


def test_shortcuts_pressed_fast_write_nothing_and_a_copy_is_in_tmuxs_buffer(tmux: Tmux) -> None:
    tmux.start(f"{PROGRAM} -m demo")
    tmux.until(lambda shown: "Untitled" in shown, "the first paint")
    tmux.type("Hi")
    tmux.until(lambda shown: "Hi" in shown, "typing")
    for _ in range(5):
        tmux.run("send-keys", "-H", *["1b", "70", "1b", "70", "1b", "63", "1b", "63"])
    tmux.until(lambda shown: "Preset" in shown, "the shortcut")
    tmux.press("S-Left", "S-Left")
    said = "Copied 2 characters to tmux"
    tmux.until(lambda shown: said in shown or tmux.press("C-c"), "the copy")
    assert tmux.run("show-buffer") == "Hi"
