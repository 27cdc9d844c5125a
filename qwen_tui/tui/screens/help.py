"""The help screen: all keys and what they do, from the table of actions."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from textwrap import wrap
from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from qwen_tui.tui.action import Action
from qwen_tui.tui.actions import groups, key_names

KEY_CELLS: Final = 24

ABOUT: Final = (
    "A base model goes on with a text; it does not answer. Write the beginning, press the continue "
    "key, and look at how sure the model was of every token. Every branch you take stays in the "
    "session: nothing is overwritten, and undo only moves you back along it."
)


class Help(ModalScreen[None]):
    """The help screen. `keymap` is what a person has rebound, by action id."""

    DEFAULT_CSS = """
    Help { align: center middle; background: $background 60%; }
    Help > Vertical {
        width: 92%; max-width: 96; height: 90%;
        border: round $primary; border-title-color: $primary; border-title-style: bold;
        border-subtitle-color: $foreground 50%;
        background: $surface; padding: 0 1;
    }
    Help VerticalScroll { height: 1fr; scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar = [Binding("escape,f1,q", "dismiss", "Close")]

    def __init__(self, keymap: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._keymap = keymap or {}

    def compose(self) -> ComposeResult:
        box = Vertical()
        box.border_title = "Keys"
        box.border_subtitle = Content("Esc closes · [keys] in the settings rebinds by id")
        with box, VerticalScroll():
            yield Static(Content(""), markup=False)

    def on_resize(self) -> None:
        """Lay the text out for the width there is."""
        width = self.query_one(VerticalScroll).scrollable_content_region.width
        self.query_one(Static).update(self.content(max(30, width - 1)))

    def content(self, width: int) -> Content:
        """The whole text, group by group, in lines of at most `width` cells."""
        lines = [Content.styled(line, "$foreground 75%") for line in wrap(ABOUT, width)]
        lines.append(Content(""))
        for group, members in groups().items():
            lines.append(Content.styled(group, "bold $secondary"))
            for action in members:
                chosen = self._keymap.get(action.id)
                keys = chosen.split(",") if chosen else action.keys
                lines += self._entry(" · ".join(key_names(keys)) or "palette", action, width)
            lines.append(Content(""))
        return Content("\n").join(lines)

    @staticmethod
    def _entry(keys: str, action: Action, width: int) -> list[Content]:
        """Keys on the left, what they do on the right, the id behind it where there is room."""
        room = max(16, width - KEY_CELLS - 4)
        help = wrap(action.help, room)
        shown = wrap(keys, KEY_CELLS) if width > 60 else wrap(keys, max(12, width // 3))
        column = KEY_CELLS if width > 60 else max(12, width // 3)
        help = help if width > 60 else wrap(action.help, max(12, width - column - 4))
        lines = []
        for left, right in zip_longest(shown, help, fillvalue=""):
            lines.append(Content.styled(f"  {left:<{column}}  ", "$accent") + Content(right))
        if len(help[-1]) + len(action.id) + 2 <= room:
            lines[len(help) - 1] += Content.styled(f"  {action.id}", "$foreground 35%")
        return lines
