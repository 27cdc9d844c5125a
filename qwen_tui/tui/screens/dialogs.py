"""Small dialogs: a line of text, several lines, yes or no.

Law: text from outside is shown through `visible`, never as markup; Esc changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.suggester import Suggester
from textual.widgets import Button, Input, OptionList, Static, TextArea
from textual.widgets.button import ButtonVariant
from textual.widgets.option_list import Option

from qwen_tui.paths import expanded
from qwen_tui.safe_text import visible
from qwen_tui.types import MAX_STOP

DIALOG_CSS: Final = """
    align: center middle;
    background: $background 60%;
    & > Vertical {
        width: 70; max-width: 94%; height: auto; max-height: 90%;
        border: round $primary; border-title-color: $primary; border-title-style: bold;
        background: $surface; padding: 0 1;
    }
    & Input { border: none; height: 1; padding: 0 1; margin: 1 0; background: $boost; }
    & Input:focus { border: none; background: $primary 15%; }
    & TextArea { height: 8; border: none; background: $boost; margin: 1 0; }
    & .note { color: $foreground 65%; width: 1fr; height: auto; }
    & .wrong { color: $error; height: auto; }
    & Horizontal { height: auto; align-horizontal: right; }
    & Button { margin: 0 0 0 1; padding: 0 1; }
"""
_LIST_CSS: Final = "height: auto; max-height: 20; background: $surface;"


class PathSuggester(Suggester):
    """Completes a typed path; `folders`: only folders."""

    def __init__(self, *, folders: bool) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._folders = folders

    async def get_suggestion(self, value: str) -> str | None:
        """The typed text completed by the first matching name; a folder gets a slash."""
        begun, slash, name = value.rpartition("/")
        if not value or (value.startswith("~") and not slash):
            return None
        folder = expanded(begun + slash if slash else ".")
        with suppress(OSError, RuntimeError):
            for each in sorted(folder.iterdir()):
                hidden = each.name.startswith(".") and not name.startswith(".")
                if each.name.startswith(name) and not hidden:
                    if each.is_dir():
                        return f"{begun}{slash}{each.name}/"
                    if not self._folders and each.name != name:
                        return f"{begun}{slash}{each.name}"
        return None


class AskLine(ModalScreen[str | None]):
    """Ask for one line; None if the person leaves. `check` returns a complaint or "". A `suggester`
    offers a completion; Tab takes it.
    """

    DEFAULT_CSS = f"AskLine {{{DIALOG_CSS}}}"
    BINDINGS: ClassVar = [
        Binding("escape", "leave", "Leave"),
        Binding("tab", "take_suggestion", priority=True, show=False),
    ]

    def __init__(
        self,
        title: str,
        *,
        value: str = "",
        note: str = "",
        placeholder: str = "",
        check: Callable[[str], str] = lambda _text: "",
        suggester: Suggester | None = None,
    ) -> None:
        super().__init__()
        self._suggester = suggester
        self._title = title
        self._value = value
        self._note = note
        self._placeholder = placeholder
        self._check = check

    def compose(self) -> ComposeResult:
        box = Vertical()
        box.border_title = Content(self._title)
        with box:
            yield Input(
                self._value,
                placeholder=self._placeholder,
                select_on_focus=False,
                suggester=self._suggester,
            )
            yield Static(Content(visible(self._note)), classes="note", markup=False)
            yield Static(Content(""), classes="wrong", markup=False)

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_take_suggestion(self) -> None:
        field = self.query_one(Input)
        field.action_end()
        field.action_cursor_right()

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        complaint = self._check(event.value)
        if complaint:
            self.query_one(".wrong", Static).update(Content(visible(complaint)))
        else:
            self.dismiss(event.value)


class AskLines(ModalScreen[str | None]):
    """Ask for several lines; Ctrl+S keeps them, Esc leaves them."""

    DEFAULT_CSS = f"AskLines {{{DIALOG_CSS}}}"
    BINDINGS: ClassVar = [
        Binding("escape", "leave", "Leave", priority=True),
        Binding("ctrl+s,ctrl+j,ctrl+enter", "keep", "Keep", priority=True),
    ]

    def __init__(self, title: str, *, value: str = "", note: str = "") -> None:
        super().__init__()
        self._title = title
        self._value = value
        self._note = note

    def compose(self) -> ComposeResult:
        box = Vertical()
        box.border_title = Content(self._title)
        with box:
            yield TextArea(self._value, highlight_cursor_line=False)
            yield Static(Content(visible(self._note)), classes="note", markup=False)
            with Horizontal():
                yield Button("Keep ^S", variant="primary", id="keep", compact=True)

    def action_leave(self) -> None:
        self.dismiss(None)

    @on(Button.Pressed, "#keep")
    def action_keep(self) -> None:
        self.dismiss(self.query_one(TextArea).text)


class Choose(ModalScreen[str | None]):
    """One of several named things, each with what it is; None when the person leaves."""

    DEFAULT_CSS = f"Choose {{{DIALOG_CSS}}} Choose OptionList {{ {_LIST_CSS} }}"
    BINDINGS: ClassVar = [Binding("escape", "leave", "Leave")]

    def __init__(self, title: str, choices: Mapping[str, tuple[str, str]]) -> None:
        """`choices`: name and help by id."""
        super().__init__()
        self._title = title
        self._choices = choices

    def compose(self) -> ComposeResult:
        box = Vertical()
        box.border_title = Content(self._title)
        with box:
            yield OptionList(
                *(
                    Option(Content.assemble((f"{name:<18}", "bold"), help), id=id)
                    for id, (name, help) in self._choices.items()
                ),
                markup=False,
                compact=True,
            )

    def action_leave(self) -> None:
        self.dismiss(None)

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_id)


class Confirm(ModalScreen[str | None]):
    """A question with named answers, the safe one first; None when the person leaves."""

    DEFAULT_CSS = f"Confirm {{{DIALOG_CSS}}}"
    BINDINGS: ClassVar = [
        Binding("escape", "leave", "Leave"),
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
    ]

    def __init__(self, title: str, question: str, answers: dict[str, str]) -> None:
        super().__init__()
        self._title = title
        self._question = question
        self._answers = answers

    def compose(self) -> ComposeResult:
        box = Vertical()
        box.border_title = Content(self._title)
        with box:
            yield Static(Content(visible(self._question)), classes="note", markup=False)
            yield Static("", markup=False)
            with Horizontal():
                for number, (name, label) in enumerate(self._answers.items()):
                    variant: ButtonVariant = "primary" if number == 0 else "default"
                    yield Button(Content(label), id=name, variant=variant, compact=True)

    def action_leave(self) -> None:
        self.dismiss(None)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id)


def stops_shown(stops: tuple[str, ...]) -> str:
    """Stop strings for editing: one a line, line ends and tabs as `\\n` and `\\t`."""
    return "\n".join(
        each.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t") for each in stops
    )


def stops_read(text: str) -> tuple[str, ...]:
    """The stop strings a person typed, one a line; empty lines are none."""
    stops = []
    for line in text.split("\n"):
        parts = [part.replace("\\n", "\n").replace("\\t", "\t") for part in line.split("\\\\")]
        if line:
            stops.append("\\".join(parts))
    return tuple(stops[:MAX_STOP])
