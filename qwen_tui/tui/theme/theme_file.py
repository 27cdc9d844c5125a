"""Reads and checks one theme file (TOML): interface colours, heat ramp, text styles.

Law: every mistake in a file is collected, with its key; nothing here raises.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from rich.color import ColorType
from rich.errors import StyleSyntaxError
from rich.style import Style
from textual.color import Color, ColorParseError
from textual.design import ColorSystem
from textual.theme import BUILTIN_THEMES, Theme

from qwen_tui.tui.theme.app_theme import HEAT_LEVELS, PLAIN, AppTheme, Palette
from qwen_tui.tui.theme.contrast import READABLE, contrast, readable_on, spread

INTERFACE_COLOURS: Final = (
    *("primary", "secondary", "accent", "warning", "error", "success"),
    *("foreground", "background", "surface", "panel", "boost"),
)
_REQUIRED: Final = frozenset({"primary", "foreground", "background"})
_TOP_KEYS: Final = frozenset({"name", "title", "dark", "ansi", "colors", "variables"}) | {
    "heat",
    "styles",
}
_HEAT_KEYS: Final = frozenset({"ramp", "text", "levels"})
_SLUG: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_LARGEST_FILE: Final = 256 * 1024
_STYLE_KEYS: Final = frozenset(each.name for each in fields(Palette))
_OLD_STYLE_KEYS: Final = frozenset({"accepted", "ghost"})
"""Former text styles, which older theme files may still have."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a theme file: its key and what is wrong."""

    file: Path
    key: str
    why: str

    def __str__(self) -> str:
        return (
            f"{self.file.name}: {self.key}: {self.why}"
            if self.key
            else f"{self.file.name}: {self.why}"
        )


def read(file: Path) -> tuple[AppTheme | None, tuple[Problem, ...]]:
    """One file's theme, or None and every mistake in the file."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(_LARGEST_FILE + 1)
        if len(raw) > _LARGEST_FILE:
            return None, (Problem(file, "", f"larger than {_LARGEST_FILE // 1024} KiB"),)
        table = tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        return None, (Problem(file, "", error.strerror or str(error)),)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        return None, (Problem(file, "", f"not TOML: {error}"),)
    return _Reader(file, table).theme()


class _Reader:
    """Reads one table and collects all mistakes instead of stopping at the first."""

    def __init__(self, file: Path, table: Mapping[str, Any]) -> None:
        self._file = file
        self._table = table
        self._wrong: list[Problem] = []

    def theme(self) -> tuple[AppTheme | None, tuple[Problem, ...]]:
        self._unknown(self._table, _TOP_KEYS, "")
        name = self._text("name", self._file.stem)
        if not _SLUG.fullmatch(name):
            self._say("name", "must be a slug: small letters, digits and -, 40 at most")
        title = self._text("title", name.replace("-", " ").capitalize())
        dark, ansi = self._flag("dark", True), self._flag("ansi", False)
        colours = self._colours()
        variables = self._variables()
        heat = self._heat(colours.get("foreground"), dark=dark)
        palette = self._palette()
        if self._wrong:
            return None, tuple(self._wrong)
        named = {key: value for key, value in colours.items() if key != "primary"}
        theme = Theme(
            name=name,
            primary=colours["primary"],
            dark=dark,
            ansi=ansi,
            variables=ansi_variables(dark) | variables if ansi else variables,
            **named,  # type: ignore[arg-type]
        )
        try:
            theme.to_color_system().generate()
        except (ColorParseError, ValueError, KeyError) as error:
            self._say("colors", f"Textual cannot use them: {error}")
            return None, tuple(self._wrong)
        return AppTheme(name, title, theme, heat, palette), ()

    def _say(self, key: str, why: str) -> None:
        self._wrong.append(Problem(self._file, key, why))

    def _unknown(self, table: Mapping[str, Any], known: frozenset[str], where: str) -> None:
        for key in table:
            if key not in known:
                self._say(f"{where}{key}", f"unknown; one of {', '.join(sorted(known))}")

    def _text(self, key: str, default: str) -> str:
        value = self._table.get(key, default)
        if isinstance(value, str) and value.isprintable() and value:
            return value
        self._say(key, "must be one line of text")
        return default

    def _flag(self, key: str, default: bool) -> bool:
        value = self._table.get(key, default)
        if isinstance(value, bool):
            return value
        self._say(key, "must be true or false")
        return default

    def _part(self, key: str) -> Mapping[str, Any]:
        value = self._table.get(key, {})
        if isinstance(value, dict):
            return value
        self._say(key, "must be a table")
        return {}

    def _colour(self, key: str, value: object) -> Color | None:
        if not isinstance(value, str):
            self._say(key, "must be a colour as text, such as '#b48ead'")
            return None
        try:
            return Color.parse(value)
        except ColorParseError:
            self._say(key, f"{value!r} is not a colour")
            return None

    def _colours(self) -> dict[str, str]:
        part = self._part("colors")
        self._unknown(part, frozenset(INTERFACE_COLOURS), "colors.")
        for missing in sorted(_REQUIRED - part.keys()):
            self._say(f"colors.{missing}", "missing")
        good = {}
        for key in INTERFACE_COLOURS:
            if key in part and self._colour(f"colors.{key}", part[key]) is not None:
                good[key] = str(part[key])
        return good

    def _variables(self) -> dict[str, str]:
        part = self._part("variables")
        good = {}
        for key, value in part.items():
            if key not in _VARIABLES:
                self._say(f"variables.{key}", "no such Textual variable")
            elif not isinstance(value, str):
                self._say(f"variables.{key}", "must be text")
            elif not key.endswith("-style") and not _is_variable_colour(value):
                self._say(f"variables.{key}", f"{value!r} is not a colour")
            else:
                good[key] = value
        return good

    def _heat(self, foreground: str | None, *, dark: bool) -> tuple[Style, ...]:
        part = self._part("heat")
        self._unknown(part, _HEAT_KEYS, "heat.")
        if "levels" in part:
            if "ramp" in part or "text" in part:
                self._say("heat", "give levels, or ramp and text, not both")
            return self._levels(part["levels"])
        ramp = part.get("ramp")
        if not isinstance(ramp, list) or not 2 <= len(ramp) <= 32:
            self._say("heat.ramp", "must be a list of 2 to 32 colours, sure to surprised")
            return ()
        stops = [self._colour(f"heat.ramp[{i}]", value) for i, value in enumerate(ramp)]
        given = self._colour("heat.text", part["text"]) if "text" in part else None
        if None in stops or ("text" in part and given is None):
            return ()
        backs = spread([stop for stop in stops if stop is not None], HEAT_LEVELS)
        own = _parsed(foreground) or Color.parse("#ffffff" if dark else "#000000")
        styles = []
        for level, back in enumerate(backs):
            ink = given or readable_on(back, own)
            if (ratio := contrast(ink, back)) < READABLE:
                self._say(
                    "heat.text", f"contrast {ratio:.1f} at level {level}; at least {READABLE}"
                )
            styles.append(Style(color=ink.rich_color, bgcolor=back.rich_color))
        return tuple(styles)

    def _levels(self, value: object) -> tuple[Style, ...]:
        if not isinstance(value, list) or len(value) != HEAT_LEVELS:
            self._say("heat.levels", f"must be a list of {HEAT_LEVELS} styles, sure to surprised")
            return ()
        return tuple(self._style(f"heat.levels[{i}]", each) for i, each in enumerate(value))

    def _palette(self) -> Palette:
        part = self._part("styles")
        self._unknown(part, _STYLE_KEYS | _OLD_STYLE_KEYS, "styles.")
        return replace(
            PLAIN,
            **{key: self._style(f"styles.{key}", part[key]) for key in part if key in _STYLE_KEYS},
        )

    def _style(self, key: str, value: object) -> Style:
        if not isinstance(value, str):
            self._say(key, "must be a style as text, such as 'bold #b48ead on #222222'")
            return Style()
        try:
            style = Style.parse(value)
        except StyleSyntaxError as error:
            self._say(key, str(error))
            return Style()
        if style.link or style.blink:
            self._say(key, "links and blinking are not for themes")
        if (ratio := _rich_contrast(style)) is not None and ratio < READABLE:
            self._say(key, f"contrast {ratio:.1f}; at least {READABLE}")
        return style


def _parsed(value: str | None) -> Color | None:
    if value is None:
        return None
    colour = Color.parse(value)
    return None if colour.ansi is not None else colour


def _rich_contrast(style: Style) -> float | None:
    """The contrast of a style with two true colours, else None: a terminal's own colours are its
    user's choice.
    """
    pair = (style.color, style.bgcolor)
    inks = [each.triplet for each in pair if each is not None and each.type is ColorType.TRUECOLOR]
    if len(inks) != 2 or inks[0] is None or inks[1] is None:
        return None
    return contrast(Color(*inks[0]), Color(*inks[1]))


def _is_variable_colour(value: str) -> bool:
    """Whether Textual's CSS would take it: a colour, `auto`, either with a percentage after it."""
    name, _, share = value.partition(" ")
    if share and not re.fullmatch(r"\d{1,3}%", share):
        return False
    if name in ("auto", "transparent") or name.startswith("$"):
        return True
    try:
        Color.parse(name)
    except ColorParseError:
        return False
    return True


def ansi_variables(dark: bool) -> dict[str, str]:
    """Variables that Textual's style sheets need when a theme uses the terminal's colours."""
    return BUILTIN_THEMES["ansi-dark" if dark else "ansi-light"].variables


_VARIABLES: Final = (
    frozenset(ColorSystem(primary="#808080").generate()) | ansi_variables(True).keys()
)
