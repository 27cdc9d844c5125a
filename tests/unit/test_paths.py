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


def test_a_user_without_a_home_has_places_in_which_nothing_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in [name for name in os.environ if name == "HOME" or name.startswith("XDG_")]:
        monkeypatch.delenv(variable)

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for place in PLACES:
        assert paths.NO_HOME in place({}).parents
    with pytest.raises(OSError, match="there is no home; set HOME"):
        paths.ensure_folder(paths.sessions_dir({}))
    assert paths.expanded("~/x") == Path("~/x")
    assert paths.user_home() == paths.NO_HOME


def test_what_is_made_is_private_all_the_way_down(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = paths.ensure_folder(tmp_path / "a/b/c")
    finally:
        os.umask(before)
    assert paths.ensure_folder(made) == made
    for folder in (made, made.parent, made.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="not a folder"):
        paths.ensure_folder(tmp_path / "file")


def test_a_replaced_file_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    file, link = tmp_path / "a.txt", tmp_path / "link.txt"
    file.write_bytes(b"old")
    file.chmod(0o640)
    link.symlink_to(file)
    with paths.replacing(link, sync=True) as new:
        new.write(b"new")
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new"
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_new_file_has_the_mode_that_was_asked_for_or_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for name, mode in (("plain", None), ("private", 0o600), ("shared", 0o644)):
            with paths.replacing(tmp_path / name, mode=mode) as new:
                new.write(b"x")
    finally:
        os.umask(before)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    assert modes == {"plain": 0o640, "private": 0o600, "shared": 0o644}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"old")

    def fail() -> None:
        with paths.replacing(file) as new:
            new.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]
    assert file.read_bytes() == b"old"


def test_what_ships_is_there() -> None:
    assert paths.demo_dir().is_dir()
    assert paths.themes_dir().name == "themes"
