"""Copying goes where it can be pasted, and says where that is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen_tui.tui.terminal import clipboard

Studio = Callable[..., Any]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the tools of a Linux desktop")


def tool(folder: Path, name: str, *, fails_with: str = "") -> None:
    """A program that keeps what it reads in FOLDER/NAME.got, or fails for some arguments."""
    program = folder / name
    refuse = f'case " $* " in *" {fails_with} "*) exit 1;; esac\n' if fails_with else ""
    program.write_text(f'#!/bin/sh\n{refuse}/bin/cat > "{folder}/{name}.got"\n')
    program.chmod(0o755)


def got(folder: Path, name: str) -> str:
    file = folder / f"{name}.got"
    return file.read_text() if file.exists() else ""


def test_in_tmux_it_is_in_tmuxs_buffer(tmp_path: Path) -> None:
    tool(tmp_path, "tmux")
    env = {"PATH": str(tmp_path), "TMUX": "/tmp/tmux"}
    assert clipboard.copy("日 one\ntwo", env) == ("tmux",)
    assert got(tmp_path, "tmux") == "日 one\ntwo"


def test_an_old_tmux_that_knows_no_w_takes_it_too(tmp_path: Path) -> None:
    tool(tmp_path, "tmux", fails_with="-w")
    assert clipboard.copy("text", {"PATH": str(tmp_path), "TMUX": "x"}) == ("tmux",)
    assert got(tmp_path, "tmux") == "text"


def test_the_desktops_own_tool_is_used_and_the_second_where_the_first_is_missing(
    tmp_path: Path,
) -> None:
    tool(tmp_path, "xsel")
    tool(tmp_path, "wl-copy")
    path = str(tmp_path)
    assert clipboard.copy("a", {"PATH": path, "DISPLAY": ":0"}) == ("xsel",)
    assert clipboard.copy("b", {"PATH": path, "WAYLAND_DISPLAY": "w", "DISPLAY": ":0"}) == (
        "wl-copy",
    )
    assert (got(tmp_path, "xsel"), got(tmp_path, "wl-copy")) == ("a", "b")


def test_where_nothing_takes_it_nothing_is_claimed(tmp_path: Path) -> None:
    assert clipboard.copy("a", {"PATH": str(tmp_path), "TMUX": "x", "DISPLAY": ":0"}) == ()
    assert "if it takes it" in clipboard.said(())
    assert clipboard.said(("tmux", "wl-copy")) == "to tmux and wl-copy"


async def test_a_person_copies_what_is_selected_and_reads_where_it_went(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path, "tmux")
    for name in ("WAYLAND_DISPLAY", "DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TMUX", "x")
    async with studio(text="Once upon", toasts=True) as bench:
        bench.editor.select(0, 4)
        await bench.pilot.press("ctrl+c")
        await bench.until(lambda: "Copied 4 characters to tmux" in bench.screen(), "said")
        assert got(tmp_path, "tmux") == "Once"
        monkeypatch.delenv("TMUX")
        await bench.pilot.press("ctrl+c")
        await bench.until(lambda: "if it takes it" in bench.screen(), "nothing is claimed")
