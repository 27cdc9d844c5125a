"""The find bar: a line under the editor that searches as one types.

Law: it asks the editor to search and shows what came back; it holds no text of its own.
"""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input, Static

from qwen_tui.tui.widgets.editor import Editor


class FindBar(Horizontal):
    """Hidden until `open(editor)`; Enter and F3 go on, Shift+Enter back, Esc closes."""

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
        Binding("enter,down,ctrl+f", "next(False)", "Next", show=False, priority=True),
        Binding("shift+enter,up", "next(True)", "Previous", show=False, priority=True),
    ]

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._editor: Editor | None = None

    def compose(self) -> ComposeResult:
        """The text to look for, and how often it stands there."""
        yield Input(placeholder="Find", select_on_focus=True)
        yield Static("", markup=False)

    def open(self, editor: Editor) -> None:
        """Show the bar for an editor; what is selected on one line is looked for at once."""
        self._editor = editor
        self.display = True
        field = self.query_one(Input)
        chosen = editor.selected_text
        if chosen and "\n" not in chosen and len(chosen) <= 200:
            field.value = chosen
        field.focus()
        self._search(field.value)

    def action_close(self) -> None:
        """Hide the bar; the cursor stays at the place found."""
        self.display = False
        if self._editor is not None:
            self._editor.find("")
            self._editor.focus()

    def action_next(self, backwards: bool) -> None:
        """To the next place, or the one before."""
        if self._editor is not None:
            self._say(self._editor.find_next(backwards=backwards))

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if self.display:
            self._search(event.value)

    def _search(self, needle: str) -> None:
        if self._editor is not None:
            self._say(1 if self._editor.find(needle) else None)

    def _say(self, place: int | None) -> None:
        if self._editor is None:
            return
        starts = self._editor.matches
        low = self._editor.selected[0]
        number = starts.index(low) + 1 if place and low in starts else place
        sought = self.query_one(Input).value
        text = f"{number} of {len(starts)}" if starts else ("nothing found" if sought else "")
        self.query_one(Static).update(text)
