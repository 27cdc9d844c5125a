"""The sessions of this machine: look through them, search, open, rename, throw away.

Law: nothing here deletes; what is thrown away lies in the trash.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from qwen_tui.safe_text import visible
from qwen_tui.session import library
from qwen_tui.session.library import Listing
from qwen_tui.tui.screens.dialogs import AskLine, Confirm
from qwen_tui.types import Trouble

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400


def age(seconds: float) -> str:
    """How long ago, as people say it."""
    if seconds < MINUTE_S:
        return "now"
    if seconds < HOUR_S:
        return f"{seconds // MINUTE_S:.0f} min"
    if seconds < DAY_S:
        return f"{seconds // HOUR_S:.0f} h"
    return f"{seconds // DAY_S:.0f} d"


def matches(listing: Listing, wanted: str) -> bool:
    """Whether every word stands in the title, the tags or the beginning."""
    text = " ".join((listing.title, *listing.tags, listing.preview, listing.id)).casefold()
    return all(word in text for word in wanted.casefold().split())


class Sessions(ModalScreen[Path | None]):
    """The list of sessions. It answers the file a person opens, or None."""

    DEFAULT_CSS = """
    Sessions { align: center middle; background: $background 60%; }
    Sessions > Vertical {
        width: 100; max-width: 96%; height: 80%;
        border: round $primary; border-title-color: $primary; border-title-style: bold;
        border-subtitle-color: $foreground 50%;
        background: $surface; padding: 0 1;
    }
    Sessions Input { border: none; height: 1; padding: 0 1; margin: 0 0 1 0; background: $boost; }
    Sessions Input:focus { border: none; background: $primary 15%; }
    Sessions OptionList { height: 1fr; border: none; background: $surface; }
    Sessions OptionList:focus { border: none; }
    Sessions OptionList > .option-list--option-highlighted {
        background: $primary 22%; color: $foreground; text-style: none;
    }
    Sessions .wrong { color: $error; height: auto; }
    """
    BINDINGS: ClassVar = [
        Binding("escape", "leave", "Leave"),
        Binding("down", "into_list", show=False),
        Binding("ctrl+r,f2", "rename", "Rename"),
        Binding("delete", "trash", "To the trash"),
    ]

    def __init__(self, *, folder: Path | None = None, current: Path | None = None) -> None:
        super().__init__()
        self._folder = folder
        self._current = current
        self._listings: list[Listing] = []
        self._shown: list[Listing] = []

    def compose(self) -> ComposeResult:
        box = Vertical()
        box.border_title = "Sessions"
        box.border_subtitle = "Enter opens · F2 renames · Del to the trash · Esc leaves"
        with box:
            yield Input(placeholder="Search")
            yield OptionList(markup=False)
            yield Static(Content(""), classes="wrong", markup=False)

    def on_mount(self) -> None:
        self._read()
        self.query_one(Input).focus()

    def _read(self) -> None:
        self._listings = library.list_sessions(self._folder)
        self._show(self.query_one(Input).value)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._show(event.value)

    def _show(self, wanted: str) -> None:
        choose = self.query_one(OptionList)
        place = choose.highlighted or 0
        self._shown = [each for each in self._listings if matches(each, wanted)]
        now = time.time()
        choose.clear_options()
        choose.add_options([Option(self._line(each, now)) for each in self._shown])
        if self._shown:
            choose.highlighted = min(place, len(self._shown) - 1)
        none = "No session matches." if self._listings else "No session is saved yet."
        self._say("" if self._shown else none)

    def _line(self, listing: Listing, now: float) -> Content:
        title = visible(" ".join(listing.title.split())) or "Untitled"
        preview = visible(" ".join(listing.preview.split()))
        mark = "▸ " if listing.path == self._current else "  "
        return (
            Content.styled(mark, "$accent")
            + Content.styled(f"{age(max(0.0, now - listing.modified)):>7}  ", "$foreground 55%")
            + Content.styled(f"{title[:28]:<28}  ", "bold")
            + Content.styled(preview[:120], "$foreground 70%")
        )

    def _say(self, text: str) -> None:
        self.query_one(".wrong", Static).update(Content(visible(text)))

    def _chosen(self) -> Listing | None:
        place = self.query_one(OptionList).highlighted
        return self._shown[place] if place is not None and place < len(self._shown) else None

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_into_list(self) -> None:
        self.query_one(OptionList).focus()

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def _open(self) -> None:
        chosen = self._chosen()
        if chosen is not None:
            self.dismiss(None if chosen.path == self._current else chosen.path)

    def action_rename(self) -> None:
        """Give the chosen session a title."""
        chosen = self._chosen()
        if chosen is None:
            return

        def answer(title: str | None) -> None:
            if title:
                self._try(lambda: library.rename(chosen.path, title))

        self.app.push_screen(AskLine("Title", value=chosen.title), answer)

    def action_trash(self) -> None:
        """Move the chosen session to the trash, after asking."""
        chosen = self._chosen()
        if chosen is None:
            return

        def answer(said: str | None) -> None:
            if said == "trash":
                self._try(lambda: library.trash(chosen.path))

        title = chosen.title or " ".join(chosen.preview.split())[:40] or chosen.id
        question = f"{title} goes to the trash. `qwen-tui sessions purge` empties it."
        answers = {"leave": "Leave it", "trash": "To the trash"}
        self.app.push_screen(Confirm("Throw away", question, answers), answer)

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Trouble as trouble:
            self._say(f"{trouble.message} {trouble.hint}".strip())
        else:
            self._read()
