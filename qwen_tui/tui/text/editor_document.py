"""What the prompt editor edits: a document faithful to the byte, wrapped by cells and graphemes.

Law: `text` is exactly what was loaded and typed. Only a line feed ends a line; every other
character stays and is shown, one for one, by something harmless. No row is ever so long that a key
is slow.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Final, Literal

from rich.cells import cell_len
from rich.style import Style
from textual._wrap import compute_wrap_offsets
from textual.document._document import Document, EditResult, Location
from textual.document._document_navigator import DocumentNavigator
from textual.document._wrapped_document import WrappedDocument
from textual.expand_tabs import expand_tabs_inline, get_tab_widths
from textual.geometry import Offset, Size

from qwen_tui.safe_text import graphemes, visible
from qwen_tui.tui.text.line_layout import ALONE, NARROW, plain_breaks, unit_breaks

ROW_CUT: Final = 1024
ROW_MOST: Final = 2 * ROW_CUT
"""A line longer than this is kept as rows of `ROW_CUT` characters that join without a line feed."""
PLACEHOLDER: Final = "▯"
"""Stands for a character whose visible form is longer than one."""

_PICTURES: Final = {code: 0x2400 + code for code in range(0x20) if code != 0x09} | {0x7F: 0x2421}


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` (exclusive) of the text wear a style."""

    start: int
    end: int
    style: Style


@lru_cache(maxsize=4096)
def shown(line: str) -> str:
    """A line with every character replaced by one that is harmless to show; the length stays."""
    if line.isascii():
        return line if line.isprintable() else line.translate(_PICTURES)
    if ALONE.fullmatch(line) or visible(line.replace("\t", "")) == line.replace("\t", ""):
        return line
    parts = []
    for cluster in graphemes(line):
        safe = cluster if cluster == "\t" else visible(cluster)
        parts.append(safe if len(safe) == len(cluster) else "".join(map(_one, cluster)))
    return "".join(parts)


def _one(character: str) -> str:
    safe = visible(character)
    return safe if len(safe) == 1 else PLACEHOLDER


@lru_cache(maxsize=4096)
def _bounds(line: str) -> Sequence[int] | None:
    """Where the graphemes of a shown row begin, and its length; None where each is one cell."""
    if line.isascii() or NARROW.fullmatch(line):
        return None
    if ALONE.fullmatch(line):
        return range(len(line) + 1)
    return tuple(accumulate(map(len, graphemes(line)), initial=0))


def _snap(line: str, column: int) -> int:
    """The begin of the grapheme that holds a column."""
    bounds = _bounds(line)
    if bounds is None or column >= len(line):
        return min(column, len(line))
    return bounds[bisect_right(bounds, column) - 1]


def _cut(line: str) -> list[str]:
    """A line as rows of bounded length, no grapheme split."""
    if len(line) <= ROW_MOST:
        return [line]
    rows = []
    start = 0
    while len(line) - start > ROW_MOST:
        window = line[start : start + ROW_CUT + 64]
        blank = window.rfind(" ", ROW_CUT // 2, ROW_CUT)
        end = blank + 1 if blank > 0 else _snap(window, ROW_CUT) or ROW_CUT
        rows.append(line[start : start + end])
        start += end
    rows.append(line[start:])
    return rows


class FaithfulDocument(Document):
    """A Textual document whose rows end in a line feed or, within a very long line, in nothing.

    `soft[i]` tells that row i goes on in row i + 1. `marks[i]` are styled column ranges of row i;
    they move with edits, and an edit inside one removes it.
    """

    def __init__(self, text: str) -> None:
        self._newline = "\n"
        self._lines, self.soft = _rows(text)
        self.marks: list[list[tuple[int, int, Style]]] = [[] for _ in self._lines]
        self._text: str | None = text
        self._begins = [0]  # of as many rows as were asked for
        self.shown = ShownDocument(self)

    @property
    def text(self) -> str:
        """The exact text."""
        if self._text is None:
            self._text = "".join(self._with_ends(0, self.line_count))
        return self._text

    @property
    def newline(self) -> Literal["\n"]:
        """Only this ends a line."""
        return "\n"

    def _with_ends(self, first: int, last: int) -> Iterator[str]:
        """Rows `first` to `last` (exclusive) with what ends each; the last of all has no end."""
        for row in range(first, last):
            yield self._lines[row]
            if not self.soft[row] and row < self.line_count - 1:
                yield "\n"

    def get_size(self, tab_width: int) -> Size:
        """Width in cells of the widest row, and the rows."""
        return Size(max(map(len, self._lines)), self.line_count)

    def get_text_range(self, start: Location, end: Location) -> str:
        """The exact text between two locations."""
        (top, left), (bottom, right) = sorted((start, end))
        if top >= self.line_count:
            return ""
        if bottom >= self.line_count:
            bottom, right = self.end
        if top == bottom:
            return self._lines[top][left:right]
        parts = list(self._with_ends(top, bottom))
        return "".join(parts)[left:] + self._lines[bottom][:right]

    def replace_range(self, start: Location, end: Location, text: str) -> EditResult:
        """Replace what stands between two locations; the only way the document changes."""
        start, end = sorted((start, end))
        replaced = self.get_text_range(start, end)
        (top, left), (bottom, right) = start, min(end, self.end)
        before, after = self._lines[top][:left], self._lines[bottom][right:]
        rows, soft = _rows(before + text)
        place = (top + len(rows) - 1, len(rows[-1]))
        shift = place[1] - right
        if len(rows[-1]) + len(after) > 2 * ROW_MOST:
            soft[-1] = True
            rows.append(after)
            soft.append(self.soft[bottom])
            place = (place[0] + 1, 0)
            shift = -right
        else:
            rows[-1] += after
            soft[-1] = self.soft[bottom]
        marks: list[list[tuple[int, int, Style]]] = [[] for _ in rows]
        kept = [mark for mark in self.marks[top] if mark[1] <= left]
        moved = [(a + shift, b + shift, s) for a, b, s in self.marks[bottom] if a >= right]
        first = 0
        for row, line in enumerate(rows):  # a row that grew too long is several now
            if first >= left or not kept:
                break
            last = first + len(line)
            marks[row] += [
                (max(a, first) - first, min(b, last) - first, style)
                for a, b, style in kept
                if a < last and b > first
            ]
            first = last + (not soft[row])
        marks[-1] += moved
        self._lines[top : bottom + 1] = rows
        self.soft[top : bottom + 1] = soft
        self.marks[top : bottom + 1] = marks
        self._text = None
        del self._begins[top + 1 :]
        return EditResult(place, replaced)

    # -- offsets ----------------------------------------------------------------------------------

    def _starts(self) -> list[int]:
        """The offset in the text where each row begins; an edit costs the rows after it."""
        begins = self._begins
        for row in range(len(begins) - 1, self.line_count):
            begins.append(begins[row] + len(self._lines[row]) + (not self.soft[row]))
        return begins

    def get_index_from_location(self, location: Location) -> int:
        """Characters before a location; one beyond the text's end is its end."""
        row, column = min(location, self.end)
        return self._starts()[row] + min(column, len(self._lines[row]))

    def get_location_from_index(self, index: int) -> Location:
        """The location after this many characters, cut to the text's ends."""
        begins = self._starts()
        row = min(bisect_right(begins, max(0, index)), self.line_count) - 1
        return row, min(max(0, index) - begins[row], len(self._lines[row]))

    def paint(self, spans: Iterable[Span]) -> None:
        """Style these spans and nothing else."""
        self.marks = [[] for _ in self._lines]
        self.mark(spans)

    def mark(self, spans: Iterable[Span]) -> None:
        """Style these spans, too."""
        begins = self._starts()
        for span in spans:
            row = bisect_right(begins, span.start) - 1
            while row < self.line_count and begins[row] < span.end:
                left = max(0, span.start - begins[row])
                right = min(len(self._lines[row]), span.end - begins[row])
                if right > left:
                    self.marks[row].append((left, right, span.style))
                row += 1


def _rows(text: str) -> tuple[list[str], list[bool]]:
    """Rows of bounded length, and for each whether it goes on in the next."""
    rows: list[str] = []
    soft: list[bool] = []
    for line in text.split("\n"):
        if len(line) <= ROW_MOST:
            rows.append(line)
            soft.append(False)
        else:
            pieces = _cut(line)
            rows += pieces
            soft += [True] * (len(pieces) - 1) + [False]
    return rows, soft


class ShownDocument(Document):
    """The same rows as they are shown; what wrapping and navigation measure."""

    def __init__(self, document: FaithfulDocument) -> None:
        self._whole = document
        self._newline = "\n"

    @property
    def lines(self) -> list[str]:
        """Every row as shown."""
        return [shown(row) for row in self._whole.lines]

    @property
    def line_count(self) -> int:
        """How many rows there are."""
        return self._whole.line_count

    @property
    def end(self) -> Location:
        """The location after the last character."""
        return self._whole.end

    def rows(self, first: int, last: int) -> list[str]:
        """Rows `first` to `last` (exclusive) as shown."""
        return [shown(row) for row in self._whole.lines[first:last]]

    def __getitem__(self, index: int | slice) -> str | list[str]:  # type: ignore[override]
        found = self._whole[index]
        return shown(found) if isinstance(found, str) else [shown(row) for row in found]


class WrappedRows(WrappedDocument):
    """Rows wrapped on words and between graphemes; an edit costs what it changes, not the whole."""

    document: ShownDocument

    def _lay(self, row: str) -> tuple[list[int], list[int]]:
        """Where a row is cut, and the widths of its tabs."""
        if "\t" in row:
            sections = get_tab_widths(row, self._tab_width)
            widths = [width for _, width in sections]
            if not self._width:
                return [], widths
            cuts = compute_wrap_offsets(
                row, self._width, self._tab_width, precomputed_tab_sections=sections
            )
            return sorted({_snap(row, cut) for cut in cuts} - {0}), widths
        if not self._width or (row.isascii() and len(row) <= self._width):
            return [], [0] if row else []
        return list(self._breaks(row)), [0]

    def _breaks(self, row: str) -> Iterator[int]:
        bounds = _bounds(row)
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
        """Count the screen rows anew from row `first` on."""
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
        """Wrap again what an edit replaced."""
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
        """Cell and screen row of a location; one an edit just removed is the end."""
        row, column = min(location, self.document.end)
        section = bisect_right(self._wrap_offsets[row], column)
        begin = self._wrap_offsets[row][section - 1] if section else 0
        text = self.document.get_line(row)[begin:column]
        x = cell_len(expand_tabs_inline(text, self._tab_width) if "\t" in text else text)
        return Offset(x, self._line_index_to_offsets[row][section])

    def get_sections(self, line_index: int) -> list[str]:
        """A row as the pieces that stand on the screen's rows."""
        row = self.document.get_line(line_index)
        cuts = [0, *self._wrap_offsets[line_index], len(row)]
        return [row[a:b] for a, b in pairwise(cuts)]

    def get_target_document_column(self, line_index: int, x_offset: int, y_offset: int) -> int:
        """The column whose grapheme covers cell `x_offset` of a piece; columns begin graphemes."""
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
            at = _snap(section, len(section) - 1)
        return begin + at


class GraphemeNavigator(DocumentNavigator):
    """Left and right step over whole graphemes, and over the seam of a very long line at once."""

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
        return row, _snap(shown(self._whole[row]), column - 1)

    def get_location_right(self, location: Location) -> Location:
        """One grapheme right."""
        row, column = location
        line = shown(self._whole[row])
        if column >= len(line):
            return super().get_location_right((row, len(line)))
        bounds = _bounds(line)
        after = column + 1 if bounds is None else bounds[bisect_right(bounds, column)]
        if after >= len(line) and self._whole.soft[row]:
            return row + 1, 0
        return row, after

    def settled(self, location: Location) -> Location:
        """The nearest location at or before this one where a cursor may stand."""
        row = max(0, min(location[0], self._whole.line_count - 1))
        line = self._whole[row]
        column = max(0, min(location[1], len(line)))
        if column == len(line) and self._whole.soft[row]:
            return row + 1, 0
        return row, _snap(shown(line), column)
