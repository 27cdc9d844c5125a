"""One line of text as graphemes in rows of cells, the part of which token layouts consist.

Law: no grapheme is split, no row is wider than allowed but for one trailing blank, and growing
costs only what was added.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from rich.cells import cell_len

from qwen_tui.safe_text import graphemes, visible

TAB_STOP: Final = 4

_NEVER_FIRST: Final = frozenset(
    "、。，．・：；？！」』）】〕〉》”’…ー～々ぁぃぅぇぉっゃゅょァィゥェォッャュョ%,.:;?!)]}"
)
"""Characters that may not begin a row after a break between ideographs (JIS X 4051, in short)."""


_NARROW_SET: Final = (
    "\x20-\x7e\xa1-\xac\xae-\u024f\u0370-\u0377\u037a-\u037f\u0384-\u0482\u048a-\u052f"
    "\u2010-\u2027\u2030-\u205e\u2400-\u2421\u25af"
)
_WIDE_SET: Final = "\u3001-\u3029\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff60"
NARROW: Final = re.compile(f"[{_NARROW_SET}]*")
"""Text in which every character is safe to show, a grapheme of its own and one cell wide."""
ALONE: Final = re.compile(f"[{_NARROW_SET}{_WIDE_SET}]*")
"""Text in which every character is safe to show and a grapheme of its own, one cell wide or two."""


class Unit(NamedTuple):
    """One grapheme: its raw text, its shown text, its width in cells, whether it is an escape."""

    raw: str
    shown: str
    cells: int
    escaped: bool


def units(text: str, column: int) -> Iterator[Unit]:
    """The graphemes of text without line feeds; `column` is the cell it begins at, for tabs."""
    if ALONE.fullmatch(text):
        yield from (Unit(raw, raw, 1 if raw < "\u3000" else 2, False) for raw in text)
        return
    for raw in graphemes(text):
        if raw == "\t":
            width = TAB_STOP - column % TAB_STOP
            unit = Unit(raw, " " * width, width, False)
        elif raw.isascii() and raw.isprintable():
            unit = Unit(raw, raw, len(raw), False)
        else:
            shown = visible(raw)
            unit = Unit(raw, shown, cell_len(shown), shown != raw)
        column += unit.cells
        yield unit


def plain_breaks(text: str, width: int, start: int = 0) -> Iterator[int]:
    """Where rows of at most `width` cells begin, `start` left out; every character is one cell.

    Rows break after blanks; one blank or line feed may extend into the column after the last.
    """
    length = len(text)
    while length - start > width:
        cut = start + width
        if text[cut] in " \n":
            cut += 1
        else:
            blank = text.rfind(" ", start, cut)
            cut = blank + 1 if blank > start else cut
        if cut >= length:
            return
        yield cut
        start = cut


def unit_breaks(
    text: str, starts: Sequence[int], columns: Sequence[int], width: int, start: int = 0
) -> Iterator[int]:
    """As `plain_breaks`, for text whose unit i begins at `starts[i]` and cell `columns[i]` (one
    entry more for the end); a row may also end beside an ideograph, and always between units.
    """

    def may_break(unit: int) -> bool:
        if text[starts[unit - 1]] == " ":
            return True
        wide = columns[unit] - columns[unit - 1] == 2 or columns[unit + 1] - columns[unit] == 2
        return wide and text[starts[unit]] not in _NEVER_FIRST

    count = len(starts) - 1
    unit = bisect_left(starts, start)
    while True:
        end = bisect_right(columns, columns[unit] + width, lo=unit) - 1
        if end >= count:
            return
        if text[starts[end]] in " \n":
            cut = end + 1
        else:
            breaks = (each for each in range(end, unit + 1, -1) if may_break(each))
            cut = next(breaks, max(end, unit + 1))
        if cut >= count:
            return
        yield starts[cut]
        unit = cut


class LineBlock:
    """One line, or a piece of a very long one.

    `shown` is the text on the screen. While every character is one unit of one cell, `starts` is
    empty and offsets are cells; otherwise unit i begins at `starts[i]` of `shown`, `raws[i]` of the
    raw text and cell `columns[i]`, with one entry more for the end. Piece j begins at `pieces[j]`
    and shows tokens `firsts[j]` to `lasts[j]`. Row k begins at `rows[k]`.
    """

    __slots__ = (
        *("shown", "raw", "starts", "raws", "columns", "escapes"),
        *("pieces", "firsts", "lasts", "rows"),
    )

    def __init__(self) -> None:
        self.shown = ""
        self.raw = ""
        self.starts: list[int] = []
        self.raws: list[int] = []
        self.columns: list[int] = []
        self.escapes: list[int] = []
        self.pieces: list[int] = []
        self.firsts: list[int] = []
        self.lasts: list[int] = []
        self.rows = [0]

    # -- units ------------------------------------------------------------------------------------

    def column(self, offset: int) -> int:
        """Cells before an offset at which a unit begins."""
        return self.columns[bisect_left(self.starts, offset)] if self.starts else offset

    def offset_at_column(self, column: int) -> int:
        """The offset of the unit at this cell."""
        if not self.starts:
            return min(column, len(self.shown))
        return self.starts[max(0, bisect_right(self.columns, column) - 1)]

    def raw_offset(self, offset: int, *, up: bool = False) -> int:
        """The offset in the raw text of the unit at an offset of `shown`, or of the one after."""
        if not self.starts:
            return min(offset, len(self.raw))
        unit = bisect_left(self.starts, offset) if up else bisect_right(self.starts, offset) - 1
        return self.raws[min(unit, len(self.raws) - 1)]

    def _spell_out(self) -> None:
        """Give every unit an entry of its own, before the first unit of several characters or
        cells.
        """
        if not self.starts:
            self.starts = list(range(len(self.shown) + 1))
            self.raws = list(self.starts)
            self.columns = list(self.starts)

    # -- growing ----------------------------------------------------------------------------------

    def own(self, first: int, last: int) -> None:
        """The text added next shows tokens `first` to `last`."""
        if not self.firsts or (self.firsts[-1], self.lasts[-1]) != (first, last):
            self.pieces.append(len(self.shown))
            self.firsts.append(first)
            self.lasts.append(last)

    def add_plain(self, text: str, first: int, last: int) -> None:
        """Add printable ASCII, or the line feed that ends the block (one cell)."""
        self.own(first, last)
        if self.starts:
            ends = range(1, len(text) + 1)
            for series in (self.starts, self.raws, self.columns):
                base = series[-1]
                series.extend(base + i for i in ends)
        self.shown += text
        self.raw += text

    def add_unit(self, unit: Unit, first: int, last: int) -> None:
        """Add one grapheme of any kind."""
        self._spell_out()
        self.own(first, last)
        if unit.escaped:
            self.escapes.append(len(self.shown))
        self.shown += unit.shown
        self.raw += unit.raw
        self.starts.append(len(self.shown))
        self.raws.append(len(self.raw))
        self.columns.append(self.columns[-1] + unit.cells)

    def take_last(self) -> tuple[str, int, int]:
        """Remove the last grapheme; returns its raw text and the tokens it showed."""
        if self.starts:
            begin, raw_begin = self.starts[-2], self.raws[-2]
            for series in (self.starts, self.raws, self.columns):
                series.pop()
        else:
            begin = raw_begin = len(self.shown) - 1
        raw, first, last = self.raw[raw_begin:], self.firsts[-1], self.lasts[-1]
        self.shown, self.raw = self.shown[:begin], self.raw[:raw_begin]
        if self.escapes and self.escapes[-1] == begin:
            self.escapes.pop()
        if self.pieces[-1] >= begin:
            for owners in (self.pieces, self.firsts, self.lasts):
                owners.pop()
        return raw, first, last

    # -- rows -------------------------------------------------------------------------------------

    def wrap(self, width: int, row: int) -> None:
        """Break into rows of at most `width` cells, keeping the rows before `row`."""
        del self.rows[max(row, 0) + 1 :]
        start = self.rows[-1]
        if self.starts:
            self.rows.extend(unit_breaks(self.shown, self.starts, self.columns, width, start))
        else:
            self.rows.extend(plain_breaks(self.shown, width, start))

    def split_last_row(self) -> LineBlock:
        """Move the last row into a block of its own."""
        at = self.rows.pop()
        rest = LineBlock()
        raw_at = self.raw_offset(at)
        rest.shown, self.shown = self.shown[at:], self.shown[:at]
        rest.raw, self.raw = self.raw[raw_at:], self.raw[:raw_at]
        if self.starts:
            unit = bisect_left(self.starts, at)
            for name in ("starts", "raws", "columns"):
                series: list[int] = getattr(self, name)
                setattr(rest, name, [value - series[unit] for value in series[unit:]])
                del series[unit + 1 :]
        split = bisect_left(self.escapes, at)
        rest.escapes = [value - at for value in self.escapes[split:]]
        del self.escapes[split:]
        piece = bisect_right(self.pieces, at) - 1
        rest.pieces = [max(0, value - at) for value in self.pieces[piece:]]
        rest.firsts, rest.lasts = self.firsts[piece:], self.lasts[piece:]
        keep = piece + (self.pieces[piece] < at)
        for owners in (self.pieces, self.firsts, self.lasts):
            del owners[keep:]
        return rest
