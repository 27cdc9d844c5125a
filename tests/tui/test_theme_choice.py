"""A theme that does not exist: refused as a flag, named with its place where it was configured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qwen_tui import paths, settings
from qwen_tui.cli.wiring import StudioInput, open_studio, themed
from qwen_tui.tui.app import every_theme
from qwen_tui.types import USAGE, Trouble

if sys.platform == "win32":
    pytest.skip("pseudo-terminals are Unix's", allow_module_level=True)

from fixtures.pty_harness import Pty


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_as_a_flag_it_is_refused_and_the_themes_there_are_are_named() -> None:
    with Pty(Path("-m"), "qwen_tui", "--theme", "nosuch", columns=200) as there:
        assert there.ended() == ("exit", USAGE)
    said = there.output.decode()
    assert said.startswith("error: --theme: there is no theme 'nosuch' (there are ")
    assert all(name in said for name in every_theme().themes)
    assert "\x1b[?1049h" not in said


def test_a_theme_of_ones_own_that_is_broken_is_refused_with_what_is_wrong() -> None:
    folder = paths.ensure_folder(paths.user_themes_dir())
    (folder / "mine.toml").write_text("name = 'mine'\n")
    with pytest.raises(Trouble, match="there is no theme 'mine'") as caught:
        open_studio(StudioInput(), {"theme": "mine"})
    assert caught.value.code == USAGE
    assert "mine.toml: colors.primary: missing" in caught.value.hint


def test_in_a_file_it_is_named_with_its_line_and_the_default_stands() -> None:
    file = paths.config_file()
    paths.ensure_folder(file.parent)
    file.write_text("# looks\ntheme = 'nosuch'\n")
    found = themed(settings.load({}), every_theme())
    assert found.theme == "ember"
    (warning,) = found.warnings
    assert warning.startswith(f"{file}:2: there is no theme 'nosuch'; ignored (there are ")
    assert "paper" in warning
    assert themed(settings.load({"theme": "paper"}), every_theme()).warnings == ()


def test_in_a_variable_it_is_named_when_the_studio_opens() -> None:
    how = {"QWEN_TUI_THEME": "nosuch", "QWEN_TUI_MODEL": "demo"}
    with Pty(Path("-m"), "qwen_tui", rows=30, columns=120, **how) as there:
        there.shows(b"QWEN_TUI_THEME")
        there.type(b"\x11")
        assert there.ended() == ("exit", 0)
