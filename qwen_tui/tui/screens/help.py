"""All keys and what they do, made from the table of actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from qwen_tui.tui.actions import groups, key_names

KEY_CELLS: Final = 30

ABOUT: Final = (
    "A base model goes on with a text; it does not answer. Write the beginning, press the continue "
    "key, and look at how sure the model was of every token. Every road you take stays in the "
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
        box.border_subtitle = "Esc closes · [keys] in the settings rebinds by id"
        with box, VerticalScroll():
            yield Static(self.content(), markup=False)

    def content(self) -> Content:
        """The whole text, group by group."""
        lines = [Content.styled(ABOUT, "$foreground 75%"), Content("")]
        for group, members in groups().items():
            lines.append(Content.styled(group, "bold $secondary"))
            for action in members:
                chosen = self._keymap.get(action.id)
                keys = chosen.split(",") if chosen else action.keys
                shown = " · ".join(key_names(keys))
                lines.append(
                    Content.styled(f"  {shown:<{KEY_CELLS}}", "$accent")
                    + Content(action.help)
                    + Content.styled(f"  {action.id}", "$foreground 35%")
                )
            lines.append(Content(""))
        return Content("\n").join(lines)
