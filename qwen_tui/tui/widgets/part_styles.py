"""Styles of a widget's parts for painting line by line, with translucent colours blended.

Law: a part's style is computed once per theme and background.
"""

from __future__ import annotations

from rich.style import Style
from textual.color import Color
from textual.scroll_view import ScrollView


class PartStyles(ScrollView):
    """A line-painting widget whose component classes may have translucent colours."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._parts: dict[tuple[str, str], Style] = {}

    def notify_style_update(self) -> None:
        """Recompute every style after a theme change."""
        self._parts = {}
        super().notify_style_update()

    def part(self, name: str, over: str = "") -> Style:
        """The style of component `name`, on the background of component `over` when given."""
        key = (name, over)
        if key not in self._parts:
            self._parts[key] = self._blended(name, over)
        return self._parts[key]

    def _blended(self, name: str, over: str) -> Style:
        under = self.background_colors[1]
        if over:
            under = under + self.get_component_styles(over).background
        if not name:
            return Style.from_color(self.colors[3].rich_color, under.rich_color)
        styles = self.get_component_styles(name)
        under = under + styles.background
        ink: Color = under + styles.color
        return Style.from_color(ink.rich_color, under.rich_color) + styles.text_style
