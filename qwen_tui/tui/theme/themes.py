"""The themes of a folder of TOML files; each broken file is reported and left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from textual.theme import Theme

from qwen_tui.tui.theme.app_theme import PLAIN_LEVELS, AppTheme
from qwen_tui.tui.theme.theme_file import Problem, ansi_variables, read

DEFAULT_THEME: Final = "ember"
ANSI_THEME: Final = "ansi"


@dataclass(frozen=True, slots=True)
class ThemeSet:
    """The usable themes by name, in order, and the problems of the others."""

    themes: Mapping[str, AppTheme]
    problems: tuple[Problem, ...] = ()

    def pick(self, name: str) -> AppTheme:
        """The theme of this name; if it is unknown the default, or else the first."""
        return (
            self.themes.get(name)
            or self.themes.get(DEFAULT_THEME)
            or next(iter(self.themes.values()))
        )

    def report(self) -> str:
        """All problems, one line each; empty when there are none."""
        return "\n".join(map(str, self.problems))


def load(folders: Iterable[Path]) -> ThemeSet:
    """Read `*.toml` of each folder in turn; a later folder's theme replaces one of the same name.

    A missing folder has no themes. If no file is usable there is one theme, of the terminal's own
    colours.
    """
    themes: dict[str, AppTheme] = {}
    problems: list[Problem] = []
    for folder in folders:
        for file in _files(folder):
            theme, wrong = read(file)
            problems.extend(wrong)
            if theme is not None:
                themes[theme.name] = theme
    if not themes:
        themes[ANSI_THEME] = _LAST_RESORT
    return ThemeSet(themes, tuple(problems))


def _files(folder: Path) -> Sequence[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except OSError:
        return ()


_LAST_RESORT: Final = AppTheme(
    ANSI_THEME,
    "Terminal colours",
    Theme(
        name=ANSI_THEME,
        ansi=True,
        primary="ansi_blue",
        foreground="ansi_default",
        background="ansi_default",
        surface="ansi_default",
        panel="ansi_default",
        boost="ansi_default",
        variables=ansi_variables(True),
    ),
    PLAIN_LEVELS,
)
