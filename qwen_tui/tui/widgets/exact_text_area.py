"""A text area that keeps every character, shows it safely and moves by grapheme.

Law: nothing is normalised; `text` returns what was set and typed. Offsets count characters.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from rich.text import Text
from textual.document._document import Location, Selection
from textual.document._edit import Edit
from textual.reactive import reactive
from textual.widgets import TextArea

from qwen_tui.tui.text.editor_document import FaithfulDocument, Span, shown
from qwen_tui.tui.text.search import find_all
from qwen_tui.tui.text.wrapped_rows import GraphemeNavigator, WrappedRows
from qwen_tui.tui.theme.app_theme import PLAIN, PLAIN_LEVELS
from qwen_tui.tui.theme.heat import Heat
from qwen_tui.vocab.alignment import shared_length


class ExactTextArea(TextArea):
    """Textual's `TextArea` over a `FaithfulDocument`, with styled spans and with search."""

    heat: reactive[Heat] = reactive(Heat(PLAIN_LEVELS, PLAIN), init=False)
    """The styles in use; call `paint` after changing them."""

    document: FaithfulDocument
    wrapped_document: WrappedRows
    navigator: GraphemeNavigator

    _needle = ""
    _matches: list[int] | None = None
    """Offsets of the search's matches; None: not searched since the last edit."""
    _token: tuple[int, int] | None = None
    """The characters of the token that is looked at."""

    # -- the document -----------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The exact text."""
        return self.document.text

    @text.setter
    def text(self, value: str) -> None:
        self.load_text(value)

    def _set_document(self, text: str, language: str | None) -> None:
        """Build the exact document in place of Textual's, which splits lines at many characters."""
        self.document = FaithfulDocument(text)
        self.wrapped_document = WrappedRows(self.document.shown, tab_width=self.indent_width)
        self.navigator = GraphemeNavigator(self.wrapped_document, self.document)
        self._matches = None
        self._build_highlight_map()
        self.move_cursor((0, 0))
        self._rewrap_and_refresh_virtual_size()
        self.refresh()

    def set_text(self, text: str, *, keep_cursor: bool = True) -> None:
        """Show another text and forget the undo steps.

        The common prefix keeps its styles; only the rest is laid out again. The caret keeps its
        offset, or stays at the end if it was there (always at the end without `keep_cursor`).
        """
        caret, now = self.caret, self.document.text
        if text != now:
            kept = shared_length(now, text)
            if kept:
                self._replace_from(kept, text[kept:])
            else:
                self.load_text(text)
        self.history.clear()
        target = caret if keep_cursor and caret < len(now) else len(text)
        if self.caret != target:
            self.caret = target

    def _replace_from(self, start: int, text: str) -> None:
        """Replace everything from an offset on, without an undo step."""
        begin, end = self.document.get_location_from_index(start), self.document.end
        edit = Edit(text, begin, end, True)
        result = edit.do(self)
        self.wrapped_document.wrap_range(begin, end, result.end_location)
        edit.after(self)
        self._matches = None
        self._build_highlight_map()
        self.post_message(self.Changed(self))
        self._refresh_size()
        self.refresh()

    @property
    def size_in_characters(self) -> int:
        """The length of the text."""
        return len(self.text)

    @property
    def caret(self) -> int:
        """Characters before the cursor."""
        return self.document.get_index_from_location(self.selection.end)

    @caret.setter
    def caret(self, offset: int) -> None:
        self.move_cursor(self.document.get_location_from_index(offset))

    @property
    def selected(self) -> tuple[int, int]:
        """The selection as character offsets, low end first."""
        low, high = sorted(map(self.document.get_index_from_location, self.selection))
        return low, high

    def select(self, start: int, end: int) -> None:
        """Select the characters from start to end; the cursor stands at the end."""
        locate = self.document.get_location_from_index
        self.selection = Selection(locate(start), locate(end))

    # -- styles -----------------------------------------------------------------------------------

    def paint(self, spans: Iterable[Span]) -> None:
        """Style these characters only. Spans move with edits; an edited span is removed."""
        self.document.paint(spans)
        self._line_cache.clear()
        self.refresh()

    def mark_token(self, span: tuple[int, int] | None) -> None:
        """Mark the characters (start, end) of a token, and bring the cursor there; None: none."""
        if span == self._token:
            return
        self._token = span
        if span is not None:
            self.caret = span[0]
        self._line_cache.clear()
        self.refresh()

    def watch_heat(self) -> None:
        """Apply the new theme's styles to matches and escapes at once."""
        self._line_cache.clear()
        self.refresh()

    def get_line(self, line_index: int) -> Text:
        """A row as it is shown, with its styles."""
        raw = self.document.get_line(line_index)
        safe = shown(raw)
        line = Text(safe, end="", no_wrap=True)
        for left, right, style in self.document.marks[line_index]:
            line.stylize(style, left, right)
        if safe != raw:
            for column, (was, now) in enumerate(zip(raw, safe, strict=True)):
                if was != now:
                    line.stylize(self.heat.palette.escape, column, column + 1)
        if self._token is not None:
            begin = self.document.get_index_from_location((line_index, 0))
            low, high = (max(0, place - begin) for place in self._token)
            line.stylize(self.heat.palette.cursor, low, high)
        if self._needle:
            self._stylize_matches(line, line_index)
        return line

    # -- cursor -----------------------------------------------------------------------------------

    def clamp_visitable(self, location: Location) -> Location:
        """The nearest location at a grapheme's boundary."""
        return self.navigator.settled(location)

    def find_matching_bracket(self, bracket: str, search_from: Location) -> Location | None:
        """None: Textual's search goes through the whole text at every step."""
        return None

    def action_cursor_right(self, select: bool = False) -> None:
        """One grapheme right."""
        target = self.get_cursor_right_location()
        self.move_cursor(target, select=select)

    def action_document_edge(self, side: int, select: bool = False) -> None:
        """To the document's start or end."""
        self.move_cursor((0, 0) if side < 0 else self.document.end, select=select)

    # -- finding ----------------------------------------------------------------------------------

    @property
    def matches(self) -> list[int]:
        """The offsets where matches begin."""
        if self._matches is None:
            self._matches = find_all(self.text, self._needle)
        return self._matches

    def find(self, needle: str) -> int:
        """Highlight every match; returns how many there are. "" ends the search."""
        self._needle, self._matches = needle, None
        self._line_cache.clear()
        self.refresh()
        return len(self.matches)

    def nearest_match(self) -> int:
        """The number, from 0, of the first match at or after the cursor; 0 after the last."""
        at = bisect_left(self.matches, self.selected[0])
        return at if at < len(self.matches) else 0

    def show_match(self, number: int) -> None:
        """Select a match by its number, from 0, and scroll to it."""
        start = self.matches[number]
        self.select(start, start + len(self._needle))
        self.scroll_cursor_visible(center=True)
        self._line_cache.clear()

    def _stylize_matches(self, line: Text, row: int) -> None:
        begin = self.document.get_index_from_location((row, 0))
        length = len(self._needle)
        at = bisect_left(self.matches, begin - length + 1)
        palette, selected = self.heat.palette, self.selected
        while at < len(self.matches) and self.matches[at] < begin + len(line):
            left = self.matches[at] - begin
            current = selected == (self.matches[at], self.matches[at] + length)
            style = palette.current_match if current else palette.match
            line.stylize(style, max(0, left), left + length)
            at += 1
