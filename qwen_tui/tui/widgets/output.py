"""The output pane: a completion whose tokens can be walked one by one and searched.

Law: it changes no token; it reports what a person does by messages.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from qwen_tui.tui.text.search import find_all
from qwen_tui.tui.widgets.token_view import TokenView
from qwen_tui.vocab.decoder import Decoder


class OutputPane(TokenView, can_focus=True):
    """Tokens with a cursor, by keys and mouse, and with search."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "step(-1)", "Previous token", show=False),
        Binding("right", "step(1)", "Next token", show=False),
        Binding("up", "line(-1)", "Line up", show=False),
        Binding("down", "line(1)", "Line down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "row_edge(-1)", "First token of the row", show=False),
        Binding("end", "row_edge(1)", "Last token of the row", show=False),
        Binding("ctrl+home", "edge(-1)", "First token", show=False),
        Binding("ctrl+end", "edge(1)", "Last token", show=False),
        Binding("enter", "activate", "Open the token", show=False),
    ]

    @dataclass
    class TokenSelected(Message):
        """The cursor moved to another token, or to none."""

        pane: OutputPane
        index: int | None

    @dataclass
    class TokenActivated(Message):
        """Enter or a double click on a token: show its alternatives."""

        pane: OutputPane
        index: int

    _aim = 0
    """The column that walking by lines keeps."""
    _matches: Sequence[tuple[int, int]] = ()
    """First and last token of each match."""

    # -- walking ----------------------------------------------------------------------------------

    def validate_cursor(self, cursor: int | None) -> int | None:
        """Keep it on a token that exists."""
        if cursor is None or not self._tokens:
            return None
        return max(0, min(cursor, len(self._tokens) - 1))

    def watch_cursor(self, old: int | None, new: int | None) -> None:
        """Repaint both tokens, bring the new one into view, tell the screen."""
        for index in (old, new):
            if index is not None:
                place = self._token_layout.place(index)
                for row in range(place.y, place.last_y + 1):
                    self._strips.discard(row)
                self._strips.discard(self._trailer_row)
                self.refresh_lines(place.y, place.last_y - place.y + 1)
                self.refresh_lines(self._trailer_row)
        if new is not None:
            self.follow = new == len(self._tokens) - 1
            self.reveal(new)
        self.post_message(self.TokenSelected(self, new))

    def _start(self) -> int:
        """Where walking begins when no token is marked: the first one in view."""
        return max(0, self._token_layout.token_at(int(self.scroll_offset.y), 0) or 0)

    def _go(self, index: int) -> None:
        """Move the cursor and remember the cell for walking by lines."""
        self.cursor = index
        if self.cursor is not None:
            self._aim = self._token_layout.place(self.cursor).x

    def action_step(self, by: int) -> None:
        """To the next or previous token that shows anything."""
        if not self._tokens:
            return
        if self.cursor is None:
            self._go(len(self._tokens) - 1 if by < 0 else self._start())
            return
        index = self.cursor + by
        while 0 < index < len(self._tokens) - 1 and not self._tokens[index].data:
            index += by
        self._go(index)

    def _walk_rows(self, by: int) -> None:
        if not self._tokens:
            return
        if self.cursor is None:
            self._go(self._start())
            return
        place = self._token_layout.place(self.cursor)
        row = (place.last_y if by > 0 else place.y) + by
        row = max(0, min(row, self._token_layout.height - 1))
        found = self._token_layout.token_at(row, self._aim)
        while found is None and 0 < row < self._token_layout.height - 1:
            row += 1 if by > 0 else -1
            found = self._token_layout.token_at(row, self._aim)
        aim = self._aim
        self._go(len(self._tokens) - 1 if found is None else max(0, found))
        self._aim = aim

    def action_line(self, by: int) -> None:
        """To the token above or below."""
        self._walk_rows(by)

    def action_page(self, by: int) -> None:
        """A view's height up or down."""
        self._walk_rows(by * max(1, self.scrollable_content_region.height - 1))

    def action_row_edge(self, side: int) -> None:
        """To the first or last token of the row."""
        if self._tokens:
            row = self._token_layout.place(self._start() if self.cursor is None else self.cursor).y
            found = self._token_layout.token_at(row, 0 if side < 0 else 1 << 30)
            self._go(max(0, found or 0))

    def action_edge(self, side: int) -> None:
        """To the first or last token of all."""
        if self._tokens:
            self._go(0 if side < 0 else len(self._tokens) - 1)

    def action_activate(self) -> None:
        """Open the token under the cursor."""
        if self.cursor is not None:
            self.post_message(self.TokenActivated(self, self.cursor))

    def on_click(self, event: events.Click) -> None:
        """Mark the token that was clicked; a double click opens it."""
        offset = event.get_content_offset(self)
        if offset is None or not self._tokens or self.text_selection is not None:
            return  # the end of a drag is no click
        index = self._token_layout.token_at(int(self.scroll_offset.y) + offset.y, offset.x)
        if index is None or index < 0:
            return
        if event.chain == 1:
            self._go(index)
        elif event.chain == 2:
            self.post_message(self.TokenActivated(self, index))

    # -- finding ----------------------------------------------------------------------------------

    def find(self, needle: str) -> int:
        """Highlight the tokens of every match; returns how many matches there are. "" ends the
        search.
        """
        decoder = Decoder()
        parts = [decoder.feed(token.data) for token in self.tokens]
        ends = list(accumulate(map(len, parts)))
        self._matches = [
            (bisect_right(ends, start), bisect_left(ends, start + len(needle)))
            for start in find_all("".join(parts), needle)
        ]
        self.highlight(self._matches)
        return len(self._matches)

    def nearest_match(self) -> int:
        """The number, from 0, of the first match at or after the cursor; 0 after the last."""
        at = bisect_left(self._matches, (self.cursor or 0, 0))
        return at if at < len(self._matches) else 0

    def show_match(self, number: int) -> None:
        """Mark a match by its number, from 0, and scroll to it."""
        self.highlight(self._matches, self._matches[number])
        self.follow = False
        self.reveal(self._matches[number][0])
