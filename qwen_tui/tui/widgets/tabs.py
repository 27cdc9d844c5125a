"""The completions of one text as tabs: which exist, which is shown, which are running."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.strip import Strip
from textual.widget import Widget

from qwen_tui.tui.facts import Tab
from qwen_tui.tui.messages import ShowSibling

_MARKS = {"running": "●", "ended": "", "interrupted": "┄", "failed": "✗"}


class SiblingTabs(Widget):
    """One line of tabs; a click shows one."""

    DEFAULT_CSS = """
    SiblingTabs {
        height: 1;
        width: 1fr;
        & > .tabs--tab { color: $foreground 60%; }
        & > .tabs--shown { color: $accent; text-style: bold reverse; }
        & > .tabs--running { color: $success; }
    }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"tabs--tab", "tabs--shown", "tabs--running"}
    ALLOW_SELECT = False

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._tabs: list[Tab] = []
        self._shown: int | None = None
        self._places: list[tuple[int, int]] = []

    def show(self, tabs: list[Tab], shown: int | None) -> None:
        """Show these tabs, or nothing for a single one. `shown` None: none of them is on the
        screen.
        """
        if (tabs, shown) != (self._tabs, self._shown):
            self._tabs, self._shown = tabs, shown
            self.set_class(len(tabs) > 1, "-shown")
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """As many tabs around the shown one as fit."""
        width = self.size.width
        base = self.rich_style
        labels = [f" {number}{_MARKS[tab.state]} " for number, tab in enumerate(self._tabs, 1)]
        shown = self._shown or 0
        first = last = min(shown, max(0, len(labels) - 1))
        room = width - 4 - (len(labels[first]) if labels else 0)
        while room > 0 and (first > 0 or last < len(labels) - 1):
            step = -1 if last >= len(labels) - 1 or (first > 0 and shown - first < 2) else 1
            other = first - 1 if step < 0 else last + 1
            room -= len(labels[other]) + 1
            if room < 0:
                break
            first, last = (other, last) if step < 0 else (first, other)
        segments = [Segment("‹ " if first else " ", base + self._part("tab"))]
        self._places = []
        at = segments[0].cell_length
        for number in range(first, min(last + 1, len(labels))):
            style = base + self._part(self._kind(number))
            segments.append(Segment(labels[number], style))
            self._places.append((at, number))
            segments.append(Segment(" ", base))
            at += len(labels[number]) + 1
        if last < len(labels) - 1:
            segments.append(Segment("›", base + self._part("tab")))
        return Strip(segments).adjust_cell_length(width, base)

    def _kind(self, number: int) -> str:
        if number == self._shown:
            return "shown"
        return "running" if self._tabs[number].state == "running" else "tab"

    def _part(self, name: str) -> Style:
        return self.get_component_rich_style(f"tabs--{name}", partial=True)

    def on_click(self, event: events.Click) -> None:
        """Show the tab that was clicked."""
        under = [number for start, number in self._places if start <= event.x]
        if under:
            self.post_message(ShowSibling(under[-1]))
