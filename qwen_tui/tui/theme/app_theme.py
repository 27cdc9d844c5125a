"""One theme as the interface uses it: Textual's colours, heat styles and text styles.

Law: styles that a theme does not name have no colour (`PLAIN`, `PLAIN_LEVELS`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rich.style import Style
from textual.theme import Theme

HEAT_LEVELS: Final = 8
"""Number of probability levels, each with a style."""


@dataclass(frozen=True, slots=True)
class Palette:
    """The text styles that Textual's theme variables do not name.

    `escape`: a control character made visible · `context`: text before the completion ·
    `tentative`: a completion that is not accepted · `match`, `current_match`: found text ·
    `cursor`: laid over the token under the cursor · `end`: the marker after the last token ·
    `badge`: bytes of an incomplete character · `special`: a special token's spelling · `hint`: what
    an empty pane says.
    """

    escape: Style
    context: Style
    tentative: Style
    match: Style
    current_match: Style
    cursor: Style
    end: Style
    badge: Style
    special: Style
    hint: Style


PLAIN: Final = Palette(
    escape=Style.parse("bold underline"),
    context=Style.parse("dim"),
    tentative=Style.parse("italic"),
    match=Style.parse("bold underline"),
    current_match=Style.parse("bold reverse"),
    cursor=Style.parse("bold underline reverse"),
    end=Style.parse("bold"),
    badge=Style.parse("reverse"),
    special=Style.parse("bold"),
    hint=Style.parse("dim"),
)
"""The text styles without colour; the default for those a theme does not name."""

PLAIN_LEVELS: Final = tuple(
    Style.parse(words)
    for words in (
        *("none", "none", "underline", "underline"),
        *("bold", "bold underline", "bold italic", "bold italic underline"),
    )
)
"""Heat styles of a terminal without colour, most probable first."""


@dataclass(frozen=True, slots=True)
class AppTheme:
    """One theme: Textual's, one heat style a level (most probable first), and the text styles."""

    name: str
    title: str
    theme: Theme
    heat: tuple[Style, ...]
    palette: Palette = PLAIN

    @property
    def dark(self) -> bool:
        """Whether it has light text on a dark background."""
        return self.theme.dark

    def without_colour(self) -> AppTheme:
        """The same theme with bold, underline, italic, dim and reverse instead of colours."""
        return AppTheme(self.name, self.title, self.theme, PLAIN_LEVELS, PLAIN)
