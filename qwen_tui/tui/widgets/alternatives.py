"""The token inspector: a token's alternatives with their probabilities; Enter continues with one.

Law: probabilities are the model's own (before any sampling stage); bytes that are not text are
shown as bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip

from qwen_tui.safe_text import visible
from qwen_tui.tui.actions import bindings
from qwen_tui.tui.messages import TakeChoice
from qwen_tui.tui.theme.heat import bits, percent
from qwen_tui.tui.widgets.part_styles import PartStyles
from qwen_tui.types import Token

BLOCKS: Final = " ▏▎▍▌▋▊▉"
PERCENT_CELLS: Final = 8
HEADING_LINES: Final = 1
ALL_STEPS: Final = 1 << 40
"""Larger than any number of tokens: walks to the first or last one."""
_MARKS: Final = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍"})


def spelled(data: bytes) -> str:
    """A token's bytes on one line: outer spaces, line ends and tabs are made visible, bytes that
    are not UTF-8 become `⟨E4 BD⟩`.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "⟨" + data.hex(" ").upper() + "⟩"
    if not text:
        return "⟨nothing⟩"
    inner = text.strip(" ")
    head = len(text) - len(text.lstrip(" "))
    tail = len(text) - head - len(inner)
    return "␣" * head + visible(inner.translate(_MARKS)) + "␣" * tail


def bar(part: float, cells: int) -> str:
    """A horizontal bar in eighths of a cell."""
    eighths = round(min(1.0, max(0.0, part)) * cells * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (BLOCKS[rest] if rest else "")


@dataclass(frozen=True, slots=True)
class AlternativeRow:
    """One alternative: `choice` is its index among the token's choices, -1 for the token itself if
    it is not among them.
    """

    choice: int
    data: bytes
    logprob: float | None
    taken: bool


def rows_of(token: Token) -> list[AlternativeRow]:
    """A token's alternatives, most probable first; the token itself comes last if it is not among
    them.
    """
    rows = [
        AlternativeRow(
            place, each.data, each.logprob, each.id == token.id and each.data == token.data
        )
        for place, each in enumerate(token.choices)
    ]
    if not any(row.taken for row in rows):
        rows.append(AlternativeRow(-1, token.data, token.logprob, True))
    return rows


class Alternatives(PartStyles, can_focus=True):
    """The panel: ← → Home End walk the tokens, ↑ ↓ PgUp PgDn the alternatives; Enter takes one."""

    DEFAULT_CSS = """
    Alternatives {
        height: 1fr;
        overflow-x: hidden;
        scrollbar-size-vertical: 1;
        & > .alternatives--text { color: $foreground; }
        & > .alternatives--taken { color: $accent; text-style: bold; }
        & > .alternatives--percent { color: $foreground 70%; }
        & > .alternatives--bar { color: $primary; }
        & > .alternatives--bar-taken { color: $accent; }
        & > .alternatives--cursor { background: $primary 18%; }
        & > .alternatives--note { color: $foreground 50%; }
    }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "alternatives--text",
        "alternatives--taken",
        "alternatives--percent",
        "alternatives--bar",
        "alternatives--bar-taken",
        "alternatives--cursor",
        "alternatives--note",
    }
    BINDINGS: ClassVar = [*bindings("inspector")]

    cursor: reactive[int] = reactive(0)
    """The row the keys act on."""

    @dataclass
    class Walk(Message):
        """Show the token so many positions further on, at most the first or last one."""

        steps: int

    @dataclass
    class AcceptTo(Message):
        """Accept the completion up to and including token `at`."""

        at: int

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.token: Token | None = None
        """The token shown."""
        self.at = 0
        """Its index among the shown tokens."""
        self.note = "No token yet. Continue the text, then walk it here."
        """Shown when there is no token."""
        self._rows: list[AlternativeRow] = []

    def show(self, token: Token | None, at: int) -> None:
        """Show a token and its index."""
        changed = (token, at) != (self.token, self.at)
        self.token, self.at = token, at
        self._rows = rows_of(token) if token is not None else []
        self.virtual_size = Size(0, len(self._rows) + HEADING_LINES)
        if changed:
            taken = [place for place, row in enumerate(self._rows) if row.taken]
            self.cursor = taken[0] if taken else 0
        self.refresh()

    def watch_cursor(self, _old: int, cursor: int) -> None:
        """Bring the row into view below the heading, which does not scroll."""
        if self.is_mounted:
            room = max(1, self.scrollable_content_region.height - HEADING_LINES)
            top = min(cursor, max(int(self.scroll_y), cursor - room + 1))
            self.scroll_to(y=top, animate=False, force=True)

    # -- painting ----------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """The first line describes the token; each further one is an alternative."""
        place = y + self.scroll_offset.y - HEADING_LINES if y else -1
        width = self.scrollable_content_region.width
        plain = self.part("")
        if self.token is None or width < 4:
            return self._note_line(y, width, plain)
        if place < 0:
            return Strip(self._about()).adjust_cell_length(width, plain)
        if place >= len(self._rows):
            return Strip.blank(width, plain)
        over = "alternatives--cursor" if place == self.cursor and self.has_focus else ""
        segments = self._alternative(self._rows[place], width, over)
        return Strip(segments).adjust_cell_length(width, self.part("", over))

    def _part(self, name: str, over: str = "") -> Style:
        return self.part(f"alternatives--{name}", over)

    def _note_line(self, place: int, width: int, plain: Style) -> Strip:
        words = self.note.split(" ")
        lines = [""]
        for word in words:
            if len(lines[-1]) + len(word) + 1 > max(8, width - 2):
                lines.append("")
            lines[-1] += (" " if lines[-1] else "") + word
        text = " " + lines[place] if 0 <= place < len(lines) else ""
        return Strip([Segment(text, self._part("note"))]).adjust_cell_length(width, plain)

    def _about(self) -> list[Segment]:
        token = self.token
        assert token is not None
        surprise = bits(token.logprob)
        parts = [percent(token.logprob), f"{surprise:.1f} bits"] if surprise is not None else []
        parts[1:1] = ["before an edit"] if token.stale else []
        parts += ["drafted"] if token.drafted else []
        parts += [f"id {token.id}"] if token.id >= 0 else []
        name = Segment(" " + spelled(token.data) + "  ", self._part("taken"))
        room = self.scrollable_content_region.width - name.cell_length
        while parts and len(" · ".join(parts)) > room:
            parts.pop()
        return [name, Segment(" · ".join(parts), self._part("note"))]

    def _alternative(self, row: AlternativeRow, width: int, over: str) -> list[Segment]:
        bar_cells = max(0, min(20, (width - 2 - PERCENT_CELLS - 2) // 2))
        text_cells = max(1, width - 2 - PERCENT_CELLS - 3 - bar_cells)
        style = self._part("taken" if row.taken else "text", over)
        text = Strip([Segment(spelled(row.data), style)]).adjust_cell_length(text_cells, style)
        share = math.exp(row.logprob) if row.logprob is not None else 0.0
        fill = self._part("bar-taken" if row.taken else "bar", over)
        return [
            Segment("▸ " if row.taken else "  ", style),
            *text,
            Segment(f"{percent(row.logprob):>{PERCENT_CELLS}}  ", self._part("percent", over)),
            Segment(bar(share, bar_cells), fill),
        ]

    # -- keys and mouse ----------------------------------------------------------------------------

    def action_token_previous(self) -> None:
        self.post_message(self.Walk(-1))

    def action_token_next(self) -> None:
        self.post_message(self.Walk(1))

    def action_token_first(self) -> None:
        self.post_message(self.Walk(-self.at))

    def action_token_last(self) -> None:
        self.post_message(self.Walk(ALL_STEPS))

    def action_choice_up(self) -> None:
        self._move(-1)

    def action_choice_down(self) -> None:
        self._move(1)

    def action_choice_page_up(self) -> None:
        self._move(-self._page)

    def action_choice_page_down(self) -> None:
        self._move(self._page)

    @property
    def _page(self) -> int:
        return max(1, self.scrollable_content_region.height - HEADING_LINES)

    def _move(self, rows: int) -> None:
        self.cursor = max(0, min(len(self._rows) - 1, self.cursor + rows))

    def action_accept_to(self) -> None:
        if self.token is not None:
            self.post_message(self.AcceptTo(self.at))

    def action_take_choice(self) -> None:
        """Take the alternative under the cursor, unless it is the token that is there already."""
        if self.cursor < len(self._rows):
            row = self._rows[self.cursor]
            if not row.taken and row.choice >= 0:
                self.post_message(TakeChoice(self.at, row.choice))

    def on_click(self, event: events.Click) -> None:
        """A click chooses a row; a click on the chosen row takes it."""
        offset = event.get_content_offset(self)
        if offset is None or self.token is None:
            return
        place = offset.y + self.scroll_offset.y - HEADING_LINES if offset.y else -1
        if not 0 <= place < len(self._rows):
            return
        if place == self.cursor:
            self.action_take_choice()
        self.cursor = place
