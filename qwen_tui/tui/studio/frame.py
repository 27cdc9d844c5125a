"""A pane's frame: a title, a lower edge for a word, and the widget that a person works in."""

from __future__ import annotations

from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget


class Frame(Vertical):
    """Stands around `children`; `inside` has the focus when a person works in the pane."""

    def __init__(self, *children: Widget, inside: Widget, title: str = "") -> None:
        super().__init__(*children)
        self.inside = inside
        self.border_title = Content(title)
