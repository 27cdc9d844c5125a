"""A growing run of tokens, each coloured by its probability.

Law: it shows the tokens it was given and changes none; appending and painting a token costs the
same however many there are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator, Sequence
from textwrap import wrap
from typing import Final

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.cache import LRUCache
from textual.geometry import Size
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from qwen_tui.safe_text import strip_controls
from qwen_tui.tui.text.token_layout import TextRun, TokenLayout
from qwen_tui.tui.text.wording import END_MARKS
from qwen_tui.tui.theme.app_theme import PLAIN, PLAIN_LEVELS
from qwen_tui.tui.theme.heat import Heat
from qwen_tui.types import Reason, Token

CONTEXT_SHOWN: Final = 4000
"""Most characters shown of the text before the completion."""

_EMPHASIS: Final = Style(bold=True, underline=True)
_KEPT_STRIPS: Final = 1024


class TokenView(ScrollView):
    """Shows tokens as they come.

    `show(tokens)` replaces everything, `extend(tokens)` appends, `finish(reason)` writes the end
    mark. `cursor` is the index of the token a person looks at, or None. The view follows the end
    while `follow` is true; scrolling up ends that, scrolling back to the end resumes it.
    """

    DEFAULT_CSS = """
    TokenView {
        width: 1fr;
        height: 1fr;
        background: $background;
        color: $foreground;
        overflow-x: hidden;
        overflow-y: auto;
        scrollbar-gutter: stable;
        scrollbar-size-vertical: 1;
        padding: 0 0 0 1;
    }
    """

    ALLOW_SELECT = True

    cursor: reactive[int | None] = reactive(None, init=False)
    """Index of the token under the cursor; None: no token is marked."""
    heat: reactive[Heat] = reactive(Heat(PLAIN_LEVELS, PLAIN), init=False)
    """The styles in use."""
    show_heat: reactive[bool] = reactive(True, init=False)
    """Whether tokens are coloured by their probability."""
    stale: reactive[bool] = reactive(False, init=False)
    """The tokens continue another text than the current one: they are shown dim."""
    follow: reactive[bool] = reactive(True, init=False)
    """Whether the view stays at the end while tokens come."""
    special: reactive[Container[int]] = reactive(frozenset(), init=False)
    """The ids that are shown as special tokens."""
    hint: reactive[str] = reactive("", init=False)
    """Shown while there are no tokens."""

    def __init__(
        self,
        *,
        hint: str = "",
        special: Container[int] = frozenset(),
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        """`hint` is what an empty pane says, `special` the ids shown as special tokens."""
        super().__init__(name=name, id=id, classes=classes)
        self.set_reactive(TokenView.hint, hint)
        self.set_reactive(TokenView.special, special)
        self.stripped = 0
        """How many control characters were removed from the last copied text."""
        self._tokens: list[Token] = []
        self._before = ""
        self._reason: Reason | None = None
        self._token_layout = TokenLayout()
        self._strips: LRUCache[int, Strip] = LRUCache(_KEPT_STRIPS)
        self._found: Sequence[tuple[int, int]] = ()
        self._current: tuple[int, int] | None = None

    # -- what is shown ----------------------------------------------------------------------------

    @property
    def tokens(self) -> Sequence[Token]:
        """The tokens shown; read only."""
        return self._tokens

    @property
    def pending(self) -> bytes:
        """Bytes at the end of an incomplete character."""
        return self._token_layout.pending

    def show(
        self,
        tokens: Sequence[Token],
        *,
        context: str = "",
        reason: Reason | None = None,
    ) -> None:
        """Show these tokens, after `context` (dim, its last characters only).

        If only later tokens or logprobs are new, the rest is not laid out again.
        """
        self._reason = reason
        kept = len(self._tokens)
        pairs = zip(self._tokens, tokens, strict=False)
        same = context == self._before and kept <= len(tokens)
        if same and all(a is b or a.data == b.data for a, b in pairs):
            self._tokens = list(tokens)
            self._place(kept)
        else:
            self._tokens, self._before = list(tokens), context
            self._restart()
        if self.cursor is not None and self.cursor >= len(self._tokens):
            self.cursor = len(self._tokens) - 1 if self._tokens else None
        self._repaint()

    def extend(self, tokens: Iterable[Token]) -> None:
        """Append tokens as they come."""
        kept = len(self._tokens)
        self._tokens.extend(tokens)
        self._reason = None
        self._place(kept)
        self._update()

    def finish(self, reason: Reason) -> None:
        """Mark the end: why there are no more tokens."""
        self._reason = reason
        self._token_layout.changed = min(self._token_layout.changed, self._token_layout.height - 1)
        self._update()

    def clear(self) -> None:
        """Remove all tokens; the hint is shown."""
        self.show(())
        self.follow = True

    def _restart(self) -> None:
        """Lay everything out again."""
        self._token_layout.clear()
        shown = self._before[-CONTEXT_SHOWN:]
        if shown:
            cut = "…" if len(shown) < len(self._before) else ""
            self._token_layout.add(-1, (cut + shown).encode("utf-8", "replace"))
        self._place(0)

    def _place(self, first: int) -> None:
        add = self._token_layout.add
        for index in range(first, len(self._tokens)):
            add(index, self._tokens[index].data)

    # -- size and scrolling -----------------------------------------------------------------------

    @property
    def _row_width(self) -> int:
        """Cells for text; the last column is kept for a trailing blank and the line feed's mark."""
        return max(1, self.scrollable_content_region.width - 1)

    def _trailer(self) -> list[tuple[str, Style]]:
        """What follows the last token: bytes of an incomplete character, and the end mark."""
        parts = []
        if pending := self._token_layout.pending:
            badge = self.heat.palette.badge
            if self.cursor is not None and self.cursor >= self._token_layout.pending_since:
                badge += self.heat.palette.cursor
            parts.append((f"‹{pending.hex(' ').upper()} …›", badge))
        if self._reason is not None:
            parts.append((f" {END_MARKS[self._reason]} ", self.heat.palette.end))
        return parts

    @property
    def _trailer_row(self) -> int:
        """The row of the trailer: the last one if it fits, else an additional one."""
        room = self._row_width + 1 - self._token_layout.last_x
        needed = sum(cell_len(text) for text, _ in self._trailer())
        return self._token_layout.height - 1 + (needed > room and self._token_layout.last_x > 0)

    def _update(self) -> None:
        """Repaint changed rows, update the size, and follow the end if the person is there."""
        changed = min(self._token_layout.settle(), self._token_layout.height - 1)
        for row in [row for row in list(self._strips.keys()) if row >= changed]:
            self._strips.discard(row)
        if not self.is_mounted:
            return
        height = self._trailer_row + 1
        if height != self.virtual_size.height:
            self.virtual_size = Size(0, height)
        self.refresh_lines(changed, max(1, height - changed, self.size.height))
        if self.follow:
            self.scroll_to(y=self.max_scroll_y, animate=False, force=True)

    def _repaint(self) -> None:
        self._strips.clear()
        self._token_layout.changed = 0
        self._update()
        self.refresh()

    def on_resize(self) -> None:
        """Lay out for the new width; the top row keeps its text."""
        top = self._token_layout.token_at(int(self.scroll_offset.y), 0)
        if self._token_layout.width == self._row_width:
            self._update()
            return
        self._token_layout.rewrap(self._row_width)
        self._repaint()
        if not self.follow and top is not None:
            self.scroll_to(y=self._token_layout.place(top).y, animate=False, force=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Follow the end while the view is there."""
        super().watch_scroll_y(old_value, new_value)
        self.follow = new_value >= self.max_scroll_y

    def reveal(self, index: int) -> None:
        """Scroll so that a token can be seen."""
        place = self._token_layout.place(index)
        top, rows = self.scroll_offset.y, max(1, self.scrollable_content_region.height)
        if place.y < top:
            self.scroll_to(y=place.y, animate=False, force=True)
        elif place.last_y >= top + rows:
            self.scroll_to(y=min(place.y, place.last_y - rows + 1), animate=False, force=True)

    # -- painting ---------------------------------------------------------------------------------

    def notify_style_update(self) -> None:
        """Styles changed: paint every row anew."""
        self._strips.clear()
        super().notify_style_update()

    def watch_heat(self) -> None:
        """Paint with the new styles."""
        self._repaint()

    def watch_show_heat(self) -> None:
        """Paint with or without probabilities."""
        self._repaint()

    def watch_stale(self) -> None:
        """Paint dim, or in colour again."""
        self._repaint()

    def watch_special(self) -> None:
        """Paint what is special now."""
        self._repaint()

    def watch_hint(self) -> None:
        """Paint the new hint."""
        self._repaint()

    def selection_updated(self, selection: Selection | None) -> None:
        """The mouse selected other text."""
        self._strips.clear()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One row of the view."""
        row = int(self.scroll_offset.y) + y
        width = self.scrollable_content_region.width
        base = self.rich_style
        if not self._tokens and not self._before and self._reason is None:
            return self._hint_line(y, width, base)
        strip = self._strips.get(row)
        if strip is None or strip.cell_length != width:
            parts = list(self._row(row)) if row < self._token_layout.height else []
            parts = self._selected(row, parts)
            if row == self._trailer_row:
                parts += self._trailer()
            segments = [Segment(text, base + style) for text, style in parts]
            strip = Strip(segments).crop_extend(0, width, base).apply_offsets(0, row)
            self._strips[row] = strip
        return strip

    def _hint_line(self, y: int, width: int, base: Style) -> Strip:
        lines = [part for line in self.hint.splitlines() for part in wrap(line, max(1, width - 1))]
        text = lines[y] if y < len(lines) else ""
        return Strip([Segment(text, base + self.heat.palette.hint)]).crop_extend(0, width, base)

    def _row(self, row: int) -> Iterator[tuple[str, Style]]:
        """The runs of a row with their styles."""
        cursor = self.cursor
        for run in self._token_layout.runs(row):
            style = self._style(run) + self._found_style(run)
            text = run.text
            under = cursor is not None and run.first <= cursor <= run.last
            if text.endswith("\n"):
                text = text[:-1] + ("↵" if under else " ")
            if under:
                style += self.heat.palette.cursor
            yield text, style

    def _style(self, run: TextRun) -> Style:
        palette = self.heat.palette
        if run.first < 0 or self.stale:
            return palette.context + palette.escape if run.escaped else palette.context
        style = Style.null()
        token = self._tokens[run.first]
        warm = self.heat.style(self._logprob(run)) if self.show_heat else None
        if warm is not None:
            style += warm
            return style + _EMPHASIS if run.escaped or token.id in self.special else style
        if token.id in self.special:
            style += palette.special
        return style + palette.escape if run.escaped else style

    def highlight(
        self, found: Sequence[tuple[int, int]], current: tuple[int, int] | None = None
    ) -> None:
        """Mark tokens `first` to `last` of each pair as matches, one pair as the current one. The
        pairs are sorted.
        """
        self._found, self._current = found, current
        self._repaint()

    def _found_style(self, run: TextRun) -> Style:
        at = bisect_right(self._found, (run.last, len(self._tokens))) - 1
        if at < 0 or self._found[at][1] < run.first:
            return Style.null()
        palette = self.heat.palette
        return palette.current_match if self._found[at] == self._current else palette.match

    def _logprob(self, run: TextRun) -> float | None:
        """The lowest logprob of the tokens that share a character."""
        if run.first == run.last:
            return self._tokens[run.first].logprob
        known = [
            token.logprob
            for token in self._tokens[run.first : run.last + 1]
            if token.logprob is not None
        ]
        return min(known, default=None)

    def _selected(self, row: int, parts: list[tuple[str, Style]]) -> list[tuple[str, Style]]:
        """The parts of a row with the mouse selection applied."""
        selection = self.text_selection
        span = selection.get_span(row) if selection is not None else None
        if span is None:
            return parts
        start, end = span
        over = self.screen.get_component_rich_style("screen--selection")
        if self.heat.palette is PLAIN:  # without colour a selection would not be seen
            over += Style(reverse=True)
        marked = []
        at = 0
        for text, style in parts:
            low = min(max(start - at, 0), len(text))
            high = len(text) if end < 0 else min(max(end - at, low), len(text))
            marked.append((text[:low], style))
            marked.append((text[low:high], style + over))
            marked.append((text[high:], style))
            at += len(text)
        return [(text, style) for text, style in marked if text]

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The exact text under a mouse selection without control characters, which `stripped`
        counts.
        """
        ends = [None if each is None else (each.y, each.x) for each in selection]
        text, self.stripped = strip_controls(self._token_layout.raw(*ends))
        return text, "\n"
