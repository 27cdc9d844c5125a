"""Themes from TOML: the interface's colours, the heat ramp of token probabilities, text styles.

Law: a broken theme is named with every one of its problems and left out; it is never fatal.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from rich.color import ColorType
from rich.errors import StyleSyntaxError
from rich.segment import Segment
from rich.style import Style
from textual.color import Color, ColorParseError
from textual.design import ColorSystem
from textual.filter import LineFilter
from textual.theme import BUILTIN_THEMES, Theme

from qwen_tui.tui.theme.contrast import READABLE, contrast, readable_on, spread

DEFAULT_THEME: Final = "ember"
ANSI_THEME: Final = "ansi"
HEAT_LEVELS: Final = 8
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


@dataclass(frozen=True, slots=True)
class Palette:
    """The text styles that are ours: what Textual's own theme variables do not name.

    `escape`: a control character made visible · `context`: text before the completion ·
    `tentative` and `accepted`: a completion's two states · `match`, `current_match`: found text ·
    `cursor`: laid over the token under the cursor · `end`: the marker after the last token ·
    `badge`: bytes that are no character yet · `special`: a special token's spelling · `ghost`: text
    offered in place · `hint`: an empty pane's invitation.
    """

    escape: Style
    context: Style
    tentative: Style
    accepted: Style
    match: Style
    current_match: Style
    cursor: Style
    end: Style
    badge: Style
    special: Style
    ghost: Style
    hint: Style


PLAIN: Final = Palette(
    escape=Style.parse("bold underline"),
    context=Style.parse("dim"),
    tentative=Style.parse("italic"),
    accepted=Style(),
    match=Style.parse("bold underline"),
    current_match=Style.parse("bold reverse"),
    cursor=Style.parse("bold underline reverse"),
    end=Style.parse("bold"),
    badge=Style.parse("reverse"),
    special=Style.parse("bold"),
    ghost=Style.parse("dim italic"),
    hint=Style.parse("dim"),
)
"""Every text style without any colour; what a theme does not name is taken from here."""

_STYLE_KEYS: Final = frozenset(each.name for each in fields(Palette))
PLAIN_LEVELS: Final = tuple(
    Style.parse(words)
    for words in (
        *("none", "none", "underline", "underline"),
        *("bold", "bold underline", "bold italic", "bold italic underline"),
    )
)
"""The heat of a terminal without colour, most probable first."""


@dataclass(frozen=True, slots=True)
class Skin:
    """One theme: what Textual needs, the heat's styles from sure to surprised, our text styles."""

    name: str
    title: str
    theme: Theme
    heat: tuple[Style, ...]
    palette: Palette = PLAIN

    @property
    def dark(self) -> bool:
        """Whether light text stands on dark."""
        return self.theme.dark

    def without_colour(self) -> Skin:
        """The same skin, its meaning kept by bold, underline, italic, dim and reverse alone."""
        return Skin(self.name, self.title, self.theme, PLAIN_LEVELS, PLAIN)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in one theme file: where it stands and why it cannot be used."""

    file: Path
    key: str
    why: str

    def __str__(self) -> str:
        return (
            f"{self.file.name}: {self.key}: {self.why}"
            if self.key
            else f"{self.file.name}: {self.why}"
        )


@dataclass(frozen=True, slots=True)
class Shelf:
    """Every usable theme by name, in the order it was found, and every problem of the others."""

    skins: Mapping[str, Skin]
    problems: tuple[Problem, ...] = ()

    def pick(self, name: str) -> Skin:
        """The skin of this name; the default, then any, where it is unknown."""
        return (
            self.skins.get(name) or self.skins.get(DEFAULT_THEME) or next(iter(self.skins.values()))
        )

    def report(self) -> str:
        """All problems, one line each; empty when there are none."""
        return "\n".join(map(str, self.problems))


def colour_refused(env: Mapping[str, str] | None = None) -> bool:
    """Whether `NO_COLOR` is set and not empty (no-color.org)."""
    return bool((os.environ if env is None else env).get("NO_COLOR"))


class WithoutColour(LineFilter):
    """Takes every colour off what is painted and leaves bold, dim, italic, underline, reverse."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The segments without colour."""
        return [
            segment
            if segment.style is None or segment.control
            else Segment(segment.text, _bare(segment.style))
            for segment in segments
        ]


@lru_cache(maxsize=1024)
def _bare(style: Style) -> Style:
    return style.without_color


def load(folders: Iterable[Path]) -> Shelf:
    """Read `*.toml` of each folder in turn; a later folder's theme replaces one of the same name.

    A folder that does not exist holds no themes. A built-in skin stands in where none was usable.
    """
    skins: dict[str, Skin] = {}
    problems: list[Problem] = []
    for folder in folders:
        for file in _files(folder):
            skin, wrong = read(file)
            problems.extend(wrong)
            if skin is not None:
                skins[skin.name] = skin
    if not skins:
        skins[ANSI_THEME] = _LAST_RESORT
    return Shelf(skins, tuple(problems))


def read(file: Path) -> tuple[Skin | None, tuple[Problem, ...]]:
    """One theme file: its skin, or None and everything that is wrong with it."""
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
    return _Reader(file, table).skin()


def _files(folder: Path) -> Sequence[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except OSError:
        return ()


class _Reader:
    """Reads one table and collects problems on the way instead of stopping at the first."""

    def __init__(self, file: Path, table: Mapping[str, Any]) -> None:
        self._file = file
        self._table = table
        self._wrong: list[Problem] = []

    def skin(self) -> tuple[Skin | None, tuple[Problem, ...]]:
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
            variables=_ansi_variables(dark) | variables if ansi else variables,
            **named,  # type: ignore[arg-type]
        )
        try:
            theme.to_color_system().generate()
        except (ColorParseError, ValueError, KeyError) as error:
            self._say("colors", f"Textual cannot use them: {error}")
            return None, tuple(self._wrong)
        return Skin(name, title, theme, heat, palette), ()

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
        self._unknown(part, _STYLE_KEYS, "styles.")
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
    """The contrast of a style that names both true colours, else None: a terminal's own colours are
    its owner's choice.
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


def _ansi_variables(dark: bool) -> dict[str, str]:
    """What Textual's own style sheets need once a theme uses the terminal's colours."""
    return BUILTIN_THEMES["ansi-dark" if dark else "ansi-light"].variables


_VARIABLES: Final = (
    frozenset(ColorSystem(primary="#808080").generate()) | _ansi_variables(True).keys()
)
_LAST_RESORT: Final = Skin(
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
        variables=_ansi_variables(True),
    ),
    PLAIN_LEVELS,
)
