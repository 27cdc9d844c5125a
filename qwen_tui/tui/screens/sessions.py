"""The sessions screen: list, search, open, rename, move to the trash and restore.

Law: nothing is deleted here; removed sessions are in the trash.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from qwen_tui.paths import sessions_dir, trash_dir
from qwen_tui.safe_text import visible
from qwen_tui.session import library
from qwen_tui.session.library import Listing
from qwen_tui.session.search import search
from qwen_tui.tui.screens.dialogs import AskLine, Confirm
from qwen_tui.types import Trouble

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400


def age(seconds: float) -> str:
    """A time ago, in words."""
    if seconds < MINUTE_S:
        return "now"
    if seconds < HOUR_S:
        return f"{seconds // MINUTE_S:.0f} min"
    if seconds < DAY_S:
        return f"{seconds // HOUR_S:.0f} h"
    return f"{seconds // DAY_S:.0f} d"


def matches(listing: Listing, wanted: str) -> bool:
    """Whether every word is in the title, the tags or the beginning of the text."""
    text = " ".join((listing.title, *listing.tags, listing.preview, listing.id)).casefold()
    return all(word in text for word in wanted.casefold().split())


class Sessions(ModalScreen[Path | None]):
    """The list of sessions, and of the trash. It returns the file a person opens, or None.

    `rename` and `trash` act on a session and raise Trouble. The studio passes its own, because it
    has one of the sessions open.
    """

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
        Binding("f3,ctrl+t", "turn", "Trash"),
    ]

    @dataclass
    class Found(Message):
        """Results of the full-text search for `wanted`: file → text around the match."""

        wanted: str
        places: dict[Path, str]

    def __init__(
        self,
        *,
        folder: Path | None = None,
        current: Path | None = None,
        rename: Callable[[Path, str], object] = library.rename,
        trash: Callable[[Path], object] = library.trash,
    ) -> None:
        super().__init__()
        self._folder = folder
        self._current = current
        self._rename = rename
        self._trash = trash
        self._listings: list[Listing] = []
        self._shown: list[Listing] = []
        self._gone: set[Path] = set()
        """Moved to the trash here; a file that is still being closed remains in the folder for a
        moment."""
        self._places: dict[Path, str] = {}
        self._in_trash = False

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Input(placeholder="Search titles and texts")
            yield OptionList(markup=False)
            yield Static(Content(""), classes="wrong", markup=False)

    def on_mount(self) -> None:
        self._read()
        self.query_one(Input).focus()

    def _read(self) -> None:
        box = self.query_one(Vertical)
        if self._in_trash:
            box.border_title = "Trash"
            box.border_subtitle = "Enter restores · F3 sessions · Esc leaves"
            found = library.list_sessions(trash_dir())
        else:
            box.border_title = "Sessions"
            box.border_subtitle = "Enter opens · F2 renames · Del to the trash · F3 trash · Esc"
            found = library.list_sessions(self._folder)
        self._listings = [each for each in found if each.path not in self._gone]
        self._show(self.query_one(Input).value)

    # -- searching ---------------------------------------------------------------------------------

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        wanted = event.value.strip()
        self._places = {}
        self._show(wanted)
        if wanted and not self._in_trash:
            work = partial(self._search, wanted)
            threading.Thread(target=work, name="session-search", daemon=True).start()

    def _search(self, wanted: str) -> None:
        """Search all texts, on a thread; the result is dropped once the screen is closed."""
        places: dict[Path, str] = {}
        for hit in search(wanted, self._folder):
            if hit.node:
                places.setdefault(hit.path, f"…{hit.before}{hit.match}{hit.after}…")
        if self.is_attached:
            with suppress(RuntimeError):
                self.post_message(self.Found(wanted, places))

    @on(Found)
    def _found(self, message: Found) -> None:
        wanted = self.query_one(Input).value.strip()
        if message.wanted == wanted and not self._in_trash:
            self._places = message.places
            self._show(wanted)

    # -- the list ----------------------------------------------------------------------------------

    def _show(self, wanted: str) -> None:
        choose = self.query_one(OptionList)
        place = choose.highlighted or 0
        self._shown = [
            each for each in self._listings if matches(each, wanted) or each.path in self._places
        ]
        now = time.time()
        choose.clear_options()
        choose.add_options([Option(self._line(each, now)) for each in self._shown])
        if self._shown:
            choose.highlighted = min(place, len(self._shown) - 1)
        empty = "The trash is empty." if self._in_trash else "No session is saved yet."
        none = "No session matches." if self._listings else empty
        self._say("" if self._shown else none)

    def _line(self, listing: Listing, now: float) -> Content:
        title = visible(" ".join(listing.title.split())) or "Untitled"
        about = self._places.get(listing.path, listing.preview)
        mark = "▸ " if listing.path == self._current else "  "
        return (
            Content.styled(mark, "$accent")
            + Content.styled(f"{age(max(0.0, now - listing.modified)):>7}  ", "$foreground 55%")
            + Content.styled(f"{title[:28]:<28}  ", "bold")
            + Content.styled(visible(" ".join(about.split()))[:120], "$foreground 70%")
        )

    def _say(self, text: str) -> None:
        self.query_one(".wrong", Static).update(Content(visible(text)))

    def _chosen(self) -> Listing | None:
        place = self.query_one(OptionList).highlighted
        return self._shown[place] if place is not None and place < len(self._shown) else None

    # -- what a person does ------------------------------------------------------------------------

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_into_list(self) -> None:
        self.query_one(OptionList).focus()

    def action_turn(self) -> None:
        """Show the trash, or the sessions again."""
        self._in_trash = not self._in_trash
        self._places = {}
        self._read()

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def _open(self) -> None:
        chosen = self._chosen()
        if chosen is None:
            return
        if self._in_trash:
            self._try(lambda: library.restore(chosen.path))
            self._gone.discard(sessions_dir() / chosen.path.name)
        else:
            self.dismiss(None if chosen.path == self._current else chosen.path)

    def action_rename(self) -> None:
        """Give the chosen session a title."""
        chosen = self._chosen()
        if chosen is None or self._in_trash:
            return

        def answer(title: str | None) -> None:
            if title:
                self._try(lambda: self._rename(chosen.path, title))

        self.app.push_screen(AskLine("Title", value=chosen.title), answer)

    def action_trash(self) -> None:
        """Move the chosen session to the trash, after asking."""
        chosen = self._chosen()
        if chosen is None or self._in_trash:
            return

        def throw_away() -> None:
            self._trash(chosen.path)
            self._gone.add(chosen.path)
            if chosen.path == self._current:
                self._current = None

        def answer(said: str | None) -> None:
            if said == "trash":
                self._try(throw_away)

        title = chosen.title or " ".join(chosen.preview.split())[:40] or chosen.id
        question = f"{title} goes to the trash. F3 shows it; `qwen-tui sessions purge` empties it."
        answers = {"leave": "Leave it", "trash": "To the trash"}
        self.app.push_screen(Confirm("Throw away", question, answers), answer)

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except (Trouble, OSError) as error:
            hint = error.hint if isinstance(error, Trouble) else ""
            why = error.message if isinstance(error, Trouble) else error.strerror or str(error)
            self._say(f"{why} {hint}".strip())
        else:
            self._read()
