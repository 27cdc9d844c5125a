"""The rows of a document on the screen: wrapped by cells, walked by grapheme.

Law: a row breaks on words and between graphemes only, and an edit costs what it changes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, pairwise

from rich.cells import cell_len
from textual._wrap import compute_wrap_offsets
from textual.document._document import Location
from textual.document._document_navigator import DocumentNavigator
from textual.document._wrapped_document import WrappedDocument
from textual.expand_tabs import expand_tabs_inline, get_tab_widths
from textual.geometry import Offset

from qwen_tui.safe_text import graphemes
from qwen_tui.tui.text.editor_document import (
    FaithfulDocument,
    ShownDocument,
    grapheme_start,
    grapheme_starts,
    shown,
)
from qwen_tui.tui.text.line_layout import plain_breaks, unit_breaks


class WrappedRows(WrappedDocument):
    """Rows wrapped on words and between graphemes; the cost of an edit depends only on what
    changed.
    """

    document: ShownDocument

    def _lay(self, row: str) -> tuple[list[int], list[int]]:
        """Where a row is broken, and the widths of its tabs."""
        if "\t" in row:
            sections = get_tab_widths(row, self._tab_width)
            widths = [width for _, width in sections]
            if not self._width:
                return [], widths
            cuts = compute_wrap_offsets(
                row, self._width, self._tab_width, precomputed_tab_sections=sections
            )
            return sorted({grapheme_start(row, cut) for cut in cuts} - {0}), widths
        if not self._width or (row.isascii() and len(row) <= self._width):
            return [], [0] if row else []
        return list(self._breaks(row)), [0]

    def _breaks(self, row: str) -> Iterator[int]:
        bounds = grapheme_starts(row)
        if bounds is None:
            return plain_breaks(row, self._width)
        widths = (cell_len(row[a:b]) for a, b in pairwise(bounds))
        return unit_breaks(row, bounds, list(accumulate(widths, initial=0)), self._width)

    def wrap(self, width: int, tab_width: int | None = None) -> None:
        """Wrap everything at a width in cells; 0 does not wrap."""
        self._width = width
        self._tab_width = tab_width or self._tab_width
        laid = [self._lay(row) for row in self.document.lines]
        self._wrap_offsets = [cuts for cuts, _ in laid]
        self._tab_width_cache = [tabs for _, tabs in laid]
        self._offset_to_line_info = []
        self._line_index_to_offsets = []
        self._number(0)

    def _number(self, first: int) -> None:
        """Recount the screen rows from row `first` on."""
        y = self._line_index_to_offsets[first - 1][-1] + 1 if first else 0
        infos, offsets = self._offset_to_line_info, self._line_index_to_offsets
        del infos[y:]
        del offsets[first:]
        for row in range(first, len(self._wrap_offsets)):
            count = len(self._wrap_offsets[row]) + 1
            infos.extend((row, section) for section in range(count))
            offsets.append(list(range(y, y + count)))
            y += count

    def wrap_range(self, start: Location, old_end: Location, new_end: Location) -> None:
        """Wrap the text that an edit replaced."""
        rows, count = len(self._wrap_offsets), self.document.line_count
        top = max(0, min(start[0], old_end[0], rows - 1, count - 1))
        bottom = max(top, min(old_end[0], rows - 1))
        until = count - (rows - bottom)  # the rows after the edit stand, whatever `new_end` says
        if until < top:
            self.wrap(self._width)
            return
        laid = [self._lay(row) for row in self.document.rows(top, until + 1)]
        same = len(laid) == bottom - top + 1 and all(
            len(cuts) == len(old)
            for (cuts, _), old in zip(laid, self._wrap_offsets[top : bottom + 1], strict=True)
        )
        self._wrap_offsets[top : bottom + 1] = [cuts for cuts, _ in laid]
        self._tab_width_cache[top : bottom + 1] = [tabs for _, tabs in laid]
        if not same:
            self._number(top)

    @property
    def height(self) -> int:
        """Screen rows."""
        return len(self._offset_to_line_info)

    def location_to_offset(self, location: Location) -> Offset:
        """Cell and screen row of a location; the end for one that was just removed."""
        row, column = min(location, self.document.end)
        section = bisect_right(self._wrap_offsets[row], column)
        begin = self._wrap_offsets[row][section - 1] if section else 0
        text = self.document.get_line(row)[begin:column]
        x = cell_len(expand_tabs_inline(text, self._tab_width) if "\t" in text else text)
        return Offset(x, self._line_index_to_offsets[row][section])

    def get_sections(self, line_index: int) -> list[str]:
        """A row as the pieces shown on the screen's rows."""
        row = self.document.get_line(line_index)
        cuts = [0, *self._wrap_offsets[line_index], len(row)]
        return [row[a:b] for a, b in pairwise(cuts)]

    def get_target_document_column(self, line_index: int, x_offset: int, y_offset: int) -> int:
        """The column of the grapheme at cell `x_offset` of a piece."""
        sections = self.get_sections(line_index)
        place = y_offset % len(sections)
        begin = sum(map(len, sections[:place]))
        section = sections[place]
        x = at = 0
        for cluster in graphemes(section):
            width = self._tab_width - x % self._tab_width if cluster == "\t" else cell_len(cluster)
            if x + width > x_offset:
                break
            x += width
            at += len(cluster)
        if at == len(section) and place < len(sections) - 1:
            at = grapheme_start(section, len(section) - 1)
        return begin + at


class GraphemeNavigator(DocumentNavigator):
    """Left and right move by whole graphemes, and across the seam of a very long line in one
    step.
    """

    def __init__(self, wrapped_document: WrappedRows, document: FaithfulDocument) -> None:
        super().__init__(wrapped_document)
        self._whole = document

    def get_location_left(self, location: Location) -> Location:
        """One grapheme left."""
        row, column = location
        if column == 0 and row > 0 and self._whole.soft[row - 1]:
            row, column = row - 1, len(self._whole[row - 1])
        if column == 0:
            return super().get_location_left((row, 0))
        return row, grapheme_start(shown(self._whole[row]), column - 1)

    def get_location_right(self, location: Location) -> Location:
        """One grapheme right."""
        row, column = location
        line = shown(self._whole[row])
        if column >= len(line):
            return super().get_location_right((row, len(line)))
        bounds = grapheme_starts(line)
        after = column + 1 if bounds is None else bounds[bisect_right(bounds, column)]
        if after >= len(line) and self._whole.soft[row]:
            return row + 1, 0
        return row, after

    def settled(self, location: Location) -> Location:
        """The nearest location at or before this one that is a grapheme's boundary."""
        row = max(0, min(location[0], self._whole.line_count - 1))
        line = self._whole[row]
        column = max(0, min(location[1], len(line)))
        if column == len(line) and self._whole.soft[row]:
            return row + 1, 0
        return row, grapheme_start(shown(line), column)
