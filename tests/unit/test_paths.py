"""Places: one variable moves them all, and asking for one makes nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from qwen_tui import paths

PLACES = (
    paths.config_dir,
    paths.data_dir,
    paths.state_dir,
    paths.cache_dir,
    paths.config_file,
    paths.sessions_dir,
    paths.trash_dir,
    paths.models_dir,
    paths.drafts_dir,
    paths.logs_dir,
    paths.packed_dir,
    paths.kv_dir,
    paths.search_index,
    paths.user_themes_dir,
)


def test_one_variable_moves_everything_and_asking_makes_nothing(tmp_path: Path) -> None:
    top = tmp_path / "all"
    found = [place({"QWEN_TUI_HOME": str(top)}) for place in PLACES]
    assert all(each.is_relative_to(top) for each in found)
    assert len(set(found)) == len(PLACES)
    assert not top.exists()


def test_without_it_nothing_stands_under_it() -> None:
    assert paths.home({}) is None
    assert paths.home({"QWEN_TUI_HOME": ""}) is None
    assert all(each({"QWEN_TUI_HOME": "/x"}) != each({}) for each in PLACES)


def test_a_home_may_be_relative_or_begin_with_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/somewhere")
    assert paths.home({"QWEN_TUI_HOME": "here"}) == tmp_path / "here"
    assert paths.home({"QWEN_TUI_HOME": "~/there"}) == Path("/somewhere/there")


def test_what_is_made_is_private_all_the_way_down(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = paths.made(tmp_path / "a/b/c")
    finally:
        os.umask(before)
    assert paths.made(made) == made
    for folder in (made, made.parent, made.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="not a folder"):
        paths.made(tmp_path / "file")


def test_what_ships_is_there() -> None:
    assert paths.demo_dir().is_dir()
    assert paths.themes_dir().name == "themes"
