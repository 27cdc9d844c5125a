"""Themes: the six that ship are readable; broken ones are named with everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.style import Style
from textual.app import App
from textual.color import Color

from qwen_tui.paths import themes_dir
from qwen_tui.tui.terminal.line_filters import colour_refused
from qwen_tui.tui.theme import themes
from qwen_tui.tui.theme.app_theme import HEAT_LEVELS
from qwen_tui.tui.theme.contrast import READABLE, contrast, luminance
from qwen_tui.tui.theme.theme_file import read

GOOD = """
name = "mine"
[colors]
primary = "#336699"
foreground = "#eeeeee"
background = "#111111"
[heat]
ramp = ["#111111", "#ffcc00"]
"""


def put(folder: Path, name: str, text: str) -> Path:
    file = folder / f"{name}.toml"
    file.write_text(text, encoding="utf-8")
    return file


def inks(style: Style) -> tuple[Color, Color]:
    assert style.color is not None
    assert style.bgcolor is not None
    return Color.from_rich_color(style.color), Color.from_rich_color(style.bgcolor)


def test_the_themes_that_ship_are_all_usable() -> None:
    theme_set = themes.load([themes_dir()])
    assert theme_set.report() == ""
    assert {"ember", "paper", "high-contrast", "cividis", "ansi", "tide"} <= theme_set.themes.keys()
    assert theme_set.pick("no-such-theme").name == themes.DEFAULT_THEME
    assert not theme_set.pick("paper").dark


@pytest.mark.parametrize("name", ["ember", "tide", "paper", "high-contrast", "cividis"])
def test_text_is_readable_on_every_level_of_heat_and_every_level_differs(name: str) -> None:
    app_theme = themes.load([themes_dir()]).themes[name]
    for style in app_theme.heat:
        assert contrast(*inks(style)) >= READABLE
    assert len({str(style.bgcolor) for style in app_theme.heat}) == HEAT_LEVELS


@pytest.mark.parametrize("name", ["ember", "tide", "paper", "high-contrast", "cividis"])
def test_interface_text_is_readable_where_it_stands(name: str) -> None:
    theme = themes.load([themes_dir()]).themes[name].theme
    assert theme.foreground is not None
    ink = Color.parse(theme.foreground)
    for back in (theme.background, theme.surface, theme.panel):
        assert back is not None
        assert contrast(ink, Color.parse(back)) >= 7


def test_the_colour_blind_safe_ramp_grows_lighter_all_the_way() -> None:
    app_theme = themes.load([themes_dir()]).themes["cividis"]
    light = [luminance(inks(style)[1]) for style in app_theme.heat]
    assert light == sorted(light)


def test_without_colour_meaning_is_kept_by_attributes_alone() -> None:
    for app_theme in themes.load([themes_dir()]).themes.values():
        bare = app_theme.without_colour()
        styles = [
            *bare.heat,
            *(getattr(bare.palette, key) for key in ("escape", "match", "cursor")),
        ]
        assert all(style.color is None and style.bgcolor is None for style in styles)
        assert bare.heat[0] != bare.heat[-1]


def test_no_color_counts_only_when_it_is_not_empty() -> None:
    assert colour_refused({"NO_COLOR": "1"})
    assert not colour_refused({"NO_COLOR": ""})
    assert not colour_refused({})


def test_a_users_theme_replaces_one_of_the_same_name(tmp_path: Path) -> None:
    put(tmp_path, "mine", GOOD.replace('"mine"', '"ember"'))
    theme_set = themes.load([themes_dir(), tmp_path])
    assert theme_set.themes["ember"].theme.primary == "#336699"
    assert list(inks(theme_set.themes["ember"].heat[-1]))[1].hex == "#FFCC00"


def test_every_problem_of_every_broken_theme_is_named_at_once(tmp_path: Path) -> None:
    put(
        tmp_path,
        "a-broken",
        """
        colour = 1
        dark = "yes"
        [colors]
        primary = "#zzz"
        foreground = 7
        sky = "blue"
        [variables]
        no-such = "red"
        border = "almost red"
        [heat]
        ramp = ["#000"]
        [styles]
        escape = "bold on nothing at all"
        tentativ = "bold"
        match = "#777777 on #888888"
        """,
    )
    put(tmp_path, "b-not-toml", "name = \n[")
    put(tmp_path, "c-fine", GOOD)
    (tmp_path / "d-binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "e-folder.toml").mkdir()
    theme_set = themes.load([tmp_path, tmp_path / "does-not-exist"])
    assert list(theme_set.themes) == ["mine"]
    report = theme_set.report()
    for expected in (
        *("a-broken.toml: colour:", "dark: must be true or false", "colors.primary: '#zzz'"),
        *("colors.foreground: must be", "colors.background: missing", "colors.sky: unknown"),
        *("variables.no-such:", "variables.border: 'almost red'", "heat.ramp: must be a list"),
        *("styles.escape:", "styles.tentativ: unknown", "styles.match: contrast 1."),
        *("b-not-toml.toml: not TOML", "d-binary.toml: not TOML", "e-folder.toml: "),
    ):
        assert expected in report, expected


def test_a_given_heat_text_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    file = put(tmp_path, "mine", GOOD + 'text = "#eeeeee"\n')
    app_theme, problems = read(file)
    assert app_theme is None
    assert any("heat.text: contrast" in str(problem) for problem in problems)


def test_a_file_that_is_no_theme_but_a_book_is_not_read(tmp_path: Path) -> None:
    file = put(tmp_path, "book", "# " + "x" * (1 << 19))
    assert "larger than" in str(read(file)[1][0])


def test_with_no_usable_theme_there_is_still_one(tmp_path: Path) -> None:
    theme_set = themes.load([tmp_path])
    assert theme_set.pick("ember").theme.ansi


async def test_themes_are_switched_live() -> None:
    every = themes.load([themes_dir()]).themes

    class Bare(App[None]):
        def on_mount(self) -> None:
            for app_theme in every.values():
                self.register_theme(app_theme.theme)

    app = Bare()
    async with app.run_test() as pilot:
        for name in every:
            app.theme = name
            await pilot.pause()
            assert app.current_theme.name == name
