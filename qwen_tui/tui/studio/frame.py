"""A pane's frame: a title, a note on the lower edge, and the widget that takes the focus."""

from __future__ import annotations

from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget


class Frame(Vertical):
    """A frame around `children`; `inside` gets the focus."""

    def __init__(self, *children: Widget, inside: Widget, title: str = "") -> None:
        super().__init__(*children)
        self.inside = inside
        self.border_title = Content(title)
