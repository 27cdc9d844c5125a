"""The find bar: incremental search in one or more texts.

Law: it has no text of its own; the texts it was opened on search, and it shows the number of
matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input, Static


class Searchable(Protocol):
    """What the bar searches. Matches are numbered from 0."""

    def find(self, needle: str) -> int:
        """Highlight every match; returns how many there are. "" ends the search."""

    def nearest_match(self) -> int:
        """The number of the first match at or after the cursor, or of the first of all."""

    def show_match(self, number: int) -> None:
        """Mark one match and scroll to it."""

    def focus(self) -> object:
        """Take the keyboard focus."""


class FindBar(Horizontal):
    """Hidden until `open`; Enter goes to the next match, Shift+Enter to the previous one, Esc
    closes.

    Matches of all texts are numbered through, in the texts' order.
    """

    DEFAULT_CSS = """
    FindBar {
        display: none;
        height: 1;
        background: $panel;
        & Input { border: none; height: 1; width: 1fr; padding: 0 1; }
        & Input:focus { border: none; }
        & Static { width: auto; padding: 0 1; color: $text-muted; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", show=False, priority=True),
        Binding("enter,down,ctrl+f", "next(1)", "Next", show=False, priority=True),
        Binding("shift+enter,up", "next(-1)", "Previous", show=False, priority=True),
    ]

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._texts: Sequence[Searchable] = ()
        self._counts: list[int] = []
        self._at = 0

    def compose(self) -> ComposeResult:
        """The search text, and the number of matches."""
        yield Input(placeholder="Find", select_on_focus=True)
        yield Static("", markup=False)

    def open(self, *texts: Searchable, needle: str = "") -> None:
        """Show the bar for these texts; a short one-line `needle` is searched at once."""
        self._texts = texts
        self.display = True
        field = self.query_one(Input)
        if needle and "\n" not in needle and len(needle) <= 200:
            field.value = needle
        field.focus()
        self._search(field.value)

    def action_close(self) -> None:
        """Hide the bar and focus the text with the current match."""
        self.display = False
        chosen = self._place()[0]
        for text in self._texts:
            text.find("")
        chosen.focus()

    def action_next(self, steps: int) -> None:
        """Go so many matches further, cyclically; texts may have grown meanwhile."""
        at = self._at + steps
        self._find(self.query_one(Input).value)
        self._show(at)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if self.display:
            self._search(event.value)

    def _search(self, needle: str) -> None:
        self._find(needle)
        self._show(self._texts[0].nearest_match() if self._counts[0] else 0)

    def _find(self, needle: str) -> None:
        self._counts = [text.find(needle) for text in self._texts]

    def _place(self) -> tuple[Searchable, int]:
        """The text that holds the current match, and the match's number in it."""
        number = self._at
        for text, count in zip(self._texts, self._counts, strict=True):
            if number < count:
                return text, number
            number -= count
        return self._texts[0], 0

    def _show(self, at: int) -> None:
        total = sum(self._counts)
        self._at = at % total if total else 0
        if total:
            text, number = self._place()
            text.show_match(number)
        sought = self.query_one(Input).value
        said = f"{self._at + 1} of {total}" if total else "nothing found" if sought else ""
        self.query_one(Static).update(said)
