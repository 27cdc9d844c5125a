"""The prompt editor's document: exact to the byte, wrapped by cells and graphemes.

Law: `text` is exactly what was loaded and typed. Only a line feed ends a line; every other
character is kept and shown by one safe character. Rows are bounded in length, so that every key is
fast.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Final, Literal

from rich.style import Style
from textual.document._document import Document, EditResult, Location
from textual.geometry import Size

from qwen_tui.safe_text import CLUSTER_CUT, graphemes, visible
from qwen_tui.tui.text.line_layout import ALONE, NARROW
from qwen_tui.tui.theme.heat import Heat
from qwen_tui.types import Token
from qwen_tui.vocab.decoder import Decoder

ROW_CUT: Final = 1024
ROW_MOST: Final = 2 * ROW_CUT
"""A line longer than this is kept as rows of `ROW_CUT` characters that join without a line feed."""
PLACEHOLDER: Final = "▯"
"""Shown for a character whose visible form is longer than one."""

_PICTURES: Final = {code: 0x2400 + code for code in range(0x20) if code != 0x09} | {0x7F: 0x2421}


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` (exclusive) of the text, with a style."""

    start: int
    end: int
    style: Style


@lru_cache(maxsize=4096)
def shown(line: str) -> str:
    """A line with every character replaced by a safe one; the length stays."""
    if line.isascii():
        return line if line.isprintable() else line.translate(_PICTURES)
    if ALONE.fullmatch(line) or visible(line.replace("\t", "")) == line.replace("\t", ""):
        return line
    parts = []
    for cluster in graphemes(line):
        safe = cluster if cluster == "\t" else visible(cluster)
        if len(safe) != len(cluster):
            safe = "".join(map(_one, cluster[:CLUSTER_CUT]))
        parts.append(safe.ljust(len(cluster), PLACEHOLDER))
    return "".join(parts)


def _one(character: str) -> str:
    safe = visible(character)
    return safe if len(safe) == 1 else PLACEHOLDER


@lru_cache(maxsize=4096)
def grapheme_starts(line: str) -> Sequence[int] | None:
    """Where the graphemes of a shown row begin, and its length; None if each is one cell."""
    if line.isascii() or NARROW.fullmatch(line):
        return None
    if ALONE.fullmatch(line):
        return range(len(line) + 1)
    return tuple(accumulate(map(len, graphemes(line)), initial=0))


def grapheme_start(line: str, column: int) -> int:
    """The start of the grapheme at a column."""
    bounds = grapheme_starts(line)
    if bounds is None or column >= len(line):
        return min(column, len(line))
    return bounds[bisect_right(bounds, column) - 1]


def _cut(line: str) -> list[str]:
    """A line as rows of bounded length; no grapheme is split."""
    if len(line) <= ROW_MOST:
        return [line]
    rows = []
    start = 0
    while len(line) - start > ROW_MOST:
        window = line[start : start + ROW_CUT + 64]
        blank = window.rfind(" ", ROW_CUT // 2, ROW_CUT)
        end = blank + 1 if blank > 0 else grapheme_start(window, ROW_CUT) or ROW_CUT
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
        """Rows `first` to `last` (exclusive), each with its line end if it has one."""
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
        """Replace the text between two locations; the only way the document changes."""
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
        """The offset in the text where each row begins; recomputed after an edit from its
        row on.
        """
        begins = self._begins
        for row in range(len(begins) - 1, self.line_count):
            begins.append(begins[row] + len(self._lines[row]) + (not self.soft[row]))
        return begins

    def get_index_from_location(self, location: Location) -> int:
        """Characters before a location; beyond the text's end it is the length."""
        row, column = min(location, self.end)
        return self._starts()[row] + min(column, len(self._lines[row]))

    def get_location_from_index(self, index: int) -> Location:
        """The location after this many characters, limited to the text."""
        begins = self._starts()
        row = min(bisect_right(begins, max(0, index)), self.line_count) - 1
        return row, min(max(0, index) - begins[row], len(self._lines[row]))

    def line_and_column(self, location: Location) -> tuple[int, int]:
        """The line and column of a location in the text, from 0: the rows of a very long line are
        one line.
        """
        row, column = location
        first = row
        while first and self.soft[first - 1]:
            first -= 1
            column += len(self._lines[first])
        return first - sum(self.soft[:first]), column

    def paint(self, spans: Iterable[Span]) -> None:
        """Style these spans only."""
        self.marks = [[] for _ in self._lines]
        self.mark(spans)

    def mark(self, spans: Iterable[Span]) -> None:
        """Style these spans in addition."""
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
    """The rows as they are shown; wrapping and navigation measure these."""

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


def heat_spans(tokens: Iterable[Token], heat: Heat, *, start: int = 0) -> Iterator[Span]:
    """The spans that colour tokens whose text begins at character `start`.

    A character made of several tokens has the style of the one that completes it; a token without a
    logprob has none.
    """
    decoder = Decoder()
    for token in tokens:
        end = start + len(decoder.feed(token.data))
        style = heat.style(token.logprob, stale=token.stale)
        if style is not None and end > start:
            yield Span(start, end, style)
        start = end
