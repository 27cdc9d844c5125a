"""The text of a growing run of tokens, laid out in rows of terminal cells; knows no widget.

Law: adding a token costs the same however much stands before it; no grapheme is split, no wide
character straddles an edge, and every cell knows the tokens whose bytes it shows.
"""

from __future__ import annotations

import codecs
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from qwen_tui.visible import cells, graphemes, visible

TAB_STOP: Final = 4
LONGEST_BLOCK: Final = 1 << 14
"""A line longer than this many characters is kept in several blocks, cut where a row ends."""

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
"""Text whose every character is harmless, a grapheme of its own and one cell wide."""
ALONE: Final = re.compile(f"[{_NARROW_SET}{_WIDE_SET}]*")
"""Text whose every character is harmless and a grapheme of its own, one cell wide or two."""


_JOINER: Final = re.compile("[\u180b-\u180f\u200c\u200d\ufe00-\ufe0f\U000e0000-\U000e01ef]")
"""Invisible characters that, with what follows, may belong to the grapheme before them."""
_TAKEN_BACK: Final = 8


class Run(NamedTuple):
    """A stretch of one row shown in one style: tokens `first` to `last` share its bytes."""

    text: str
    first: int
    last: int
    escaped: bool


class Place(NamedTuple):
    """Where a token stands: its first row and cell, and its last row."""

    y: int
    x: int
    last_y: int


class _Unit(NamedTuple):
    """One grapheme: its raw text, how it is shown, in how many cells, whether as an escape."""

    raw: str
    shown: str
    cells: int
    escaped: bool


def _units(text: str, column: int) -> Iterator[_Unit]:
    """The graphemes of text without line feeds; `column` is the cell it begins at, for tabs."""
    if ALONE.fullmatch(text):
        yield from (_Unit(raw, raw, 1 if raw < "\u3000" else 2, False) for raw in text)
        return
    for raw in graphemes(text):
        if raw == "\t":
            width = TAB_STOP - column % TAB_STOP
            unit = _Unit(raw, " " * width, width, False)
        elif raw.isascii() and raw.isprintable():
            unit = _Unit(raw, raw, len(raw), False)
        else:
            shown = visible(raw)
            unit = _Unit(raw, shown, cells(shown), shown != raw)
        column += unit.cells
        yield unit


def plain_breaks(text: str, width: int, start: int = 0) -> Iterator[int]:
    """Where rows of at most `width` cells begin, `start` left out; every character is one cell.

    Breaks stand after blanks; one blank or line feed may hang in the column after the last.
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
    """The same for text whose unit i begins at `starts[i]` and cell `columns[i]` (one entry more
    for the end); a row may end beside an ideograph too, and always ends between units.
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


class _Block:
    """One line, or a piece of a very long one.

    `shown` is what stands on the screen. While every character is one unit of one cell, `starts` is
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

    def unit_at(self, offset: int) -> int:
        """The unit that holds this offset of `shown`."""
        return bisect_right(self.starts, offset) - 1 if self.starts else offset

    def column(self, offset: int) -> int:
        """Cells before an offset that begins a unit."""
        return self.columns[bisect_left(self.starts, offset)] if self.starts else offset

    def offset_at_column(self, column: int) -> int:
        """The offset of the unit that covers this cell."""
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
        """Give every unit its own entry, once the first that is not one plain character comes."""
        if not self.starts:
            self.starts = list(range(len(self.shown) + 1))
            self.raws = list(self.starts)
            self.columns = list(self.starts)

    # -- growing ----------------------------------------------------------------------------------

    def own(self, first: int, last: int) -> None:
        """What is added next shows tokens `first` to `last`."""
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

    def add_unit(self, unit: _Unit, first: int, last: int) -> None:
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
        """Remove the last grapheme; its raw text and the tokens it showed."""
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

    def split_last_row(self) -> _Block:
        """Cut the last row off into a block of its own."""
        at = self.rows.pop()
        rest = _Block()
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


class Flow:
    """Rows of cells for tokens added one by one. Token indexes must not fall; -1 is context.

    `changed` is the first row that is not as it was at the last `settle()`.
    """

    def __init__(self, width: int = 80) -> None:
        self.width = max(1, width)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._blocks = [_Block()]
        self._tops = [0]
        self._ends: list[int] = [-1]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held_since = -1
        """The token in which the bytes held back begin, while there are any."""
        self.changed = 0

    @property
    def held(self) -> bytes:
        """Bytes at the end that are no character yet."""
        return self._decoder.getstate()[0]

    @property
    def height(self) -> int:
        """How many rows there are; at least one."""
        return self._tops[-1] + len(self._blocks[-1].rows)

    @property
    def last_x(self) -> int:
        """Cells in use on the last row."""
        block = self._blocks[-1]
        return block.column(len(block.shown)) - block.column(block.rows[-1])

    def settle(self) -> int:
        """The first row that changed since the last call; `height` when none did."""
        changed, self.changed = self.changed, self.height
        return changed

    def add(self, index: int, data: bytes) -> None:
        """Show one more token's bytes at the end."""
        held = bool(self.held)
        text = self._decoder.decode(data)
        since = self.held_since if held else index
        if self.held and (not held or text):
            self.held_since = index
        if not text:
            return
        if held and since != index:
            self._add_text(text[0], since, index)
            text = text[1:]
        if text:
            self._add_text(text, index, index)

    def _add_text(self, text: str, first: int, last: int) -> None:
        lines = text.split("\n")
        for line in lines[:-1]:
            self._add_line(line, first, last)
            self._blocks[-1].add_plain("\n", first, last)
            self._ends[-1] = last
            self._fit()
            self._begin_block(_Block(), last)
        self._add_line(lines[-1], first, last)
        self._fit()

    def _add_line(self, line: str, first: int, last: int) -> None:
        if not line:
            return
        block = self._blocks[-1]
        self._ends[-1] = last
        if line.isascii() and line.isprintable():
            block.add_plain(line, first, last)
            return
        again, owners = self._take_back(block)
        owners.append((len(again) + len(line), first, last))
        at = begin = 0
        for unit in _units(again + line, block.column(len(block.shown))):
            while begin >= owners[at][0]:
                at += 1
            low, begin = owners[at][1], begin + len(unit.raw)
            while begin > owners[at][0]:
                at += 1
            if unit.raw == unit.shown and unit.cells == len(unit.raw) == 1 and not block.starts:
                block.add_plain(unit.raw, low, owners[at][2])
            else:
                block.add_unit(unit, low, owners[at][2])

    @staticmethod
    def _take_back(block: _Block) -> tuple[str, list[tuple[int, int, int]]]:
        """Remove the end that what comes next may join: the last grapheme, and while that is an
        invisible joiner, the one before it. Its raw text, and (end, first, last) of its owners.
        """
        taken: list[tuple[str, int, int]] = []
        while block.shown and len(taken) < _TAKEN_BACK:
            taken.append(block.take_last())
            if _JOINER.match(taken[-1][0]) is None:
                break
        text, owners = "", []
        for raw, first, last in reversed(taken):
            text += raw
            owners.append((len(text), first, last))
        return text, owners

    def _fit(self) -> None:
        """Wrap what was added: the last two rows are open, those before them stand."""
        block = self._blocks[-1]
        row = max(0, len(block.rows) - 2)
        while len(block.rows) > 1 and block.rows[-1] >= len(block.shown):
            block.rows.pop()
        block.wrap(self.width, min(row, len(block.rows) - 1))
        self.changed = min(self.changed, self._tops[-1] + row)
        while len(block.shown) > LONGEST_BLOCK and len(block.rows) > 2:
            rest = block.split_last_row()
            end = self._ends[-1]
            self._ends[-1] = block.lasts[-1]
            self._begin_block(rest, end)
            block = rest

    def _begin_block(self, block: _Block, end: int) -> None:
        self._tops.append(self._tops[-1] + len(self._blocks[-1].rows))
        self._blocks.append(block)
        self._ends.append(end)

    def rewrap(self, width: int) -> None:
        """Lay everything out again for another width."""
        width = max(1, width)
        if width == self.width:
            return
        self.width = width
        top = 0
        for i, block in enumerate(self._blocks):
            block.wrap(width, 0)
            self._tops[i] = top
            top += len(block.rows)
        self.changed = 0

    # -- asking -----------------------------------------------------------------------------------

    def _find(self, y: int) -> tuple[_Block, int, int]:
        """The block of row y and the offsets of that row's begin and end in it."""
        at = bisect_right(self._tops, y) - 1
        block = self._blocks[at]
        row = min(y - self._tops[at], len(block.rows) - 1)
        end = block.rows[row + 1] if row + 1 < len(block.rows) else len(block.shown)
        return block, block.rows[row], end

    def runs(self, y: int) -> list[Run]:
        """Row y, cut where the tokens or the style change; a line feed ends it as `\\n`."""
        block, start, end = self._find(y)
        runs: list[Run] = []
        piece = max(0, bisect_right(block.pieces, start) - 1)
        while start < end:
            following = block.pieces[piece + 1] if piece + 1 < len(block.pieces) else end
            stop = min(following, end)
            runs.extend(self._cut(block, start, stop, block.firsts[piece], block.lasts[piece]))
            start = stop
            piece += 1
        return runs

    @staticmethod
    def _cut(block: _Block, start: int, stop: int, first: int, last: int) -> Iterator[Run]:
        """A piece of one row, cut around its escapes."""
        escape = bisect_left(block.escapes, start)
        while escape < len(block.escapes) and block.escapes[escape] < stop:
            at = block.escapes[escape]
            end = block.starts[bisect_right(block.starts, at)]
            if at > start:
                yield Run(block.shown[start:at], first, last, False)
            yield Run(block.shown[at:end], first, last, True)
            start = end
            escape += 1
        if start < stop:
            yield Run(block.shown[start:stop], first, last, False)

    def shown(self, y: int) -> str:
        """What stands on row y, without its line feed."""
        block, start, end = self._find(y)
        return block.shown[start:end].removesuffix("\n")

    def token_at(self, y: int, x: int) -> int | None:
        """The token shown at a cell; right of the row's end its last one; None where none is."""
        block, start, end = self._find(max(0, min(y, self.height - 1)))
        if start == end:
            return None
        offset = min(block.offset_at_column(block.column(start) + max(x, 0)), end - 1)
        return block.lasts[bisect_right(block.pieces, offset) - 1]

    def place(self, index: int) -> Place:
        """Where a token is shown; one that shows nothing stands where the next one begins."""
        at = bisect_left(self._ends, index)
        if at >= len(self._blocks):
            return Place(self.height - 1, self.last_x, self.height - 1)
        block = self._blocks[at]
        piece = bisect_left(block.lasts, index)
        if piece >= len(block.pieces):
            return Place(self.height - 1, self.last_x, self.height - 1)
        offset = block.pieces[piece]
        row = bisect_right(block.rows, offset) - 1
        x = block.column(offset) - block.column(block.rows[row])
        return Place(self._tops[at] + row, x, self._last_row(index))

    def _last_row(self, index: int) -> int:
        """The last row that shows a token."""
        at = min(bisect_right(self._ends, index), len(self._blocks) - 1)
        block = self._blocks[at]
        piece = bisect_right(block.firsts, index) - 1
        while piece < 0 and at > 0:
            at -= 1
            block = self._blocks[at]
            piece = bisect_right(block.firsts, index) - 1
        if piece < 0:
            return 0
        end = block.pieces[piece + 1] if piece + 1 < len(block.pieces) else len(block.shown)
        return self._tops[at] + bisect_right(block.rows, max(0, end - 1)) - 1

    def raw(self, start: tuple[int, int] | None, end: tuple[int, int] | None) -> str:
        """The exact text between two (row, offset in the shown row) points; None is an end of all.

        A point inside a character that is shown as several takes the whole of it.
        """
        low = start or (0, 0)
        high = end or (self.height - 1, len(self.shown(self.height - 1)))
        at, until = (bisect_right(self._tops, max(0, y)) - 1 for y in (low[0], high[0]))
        parts = []
        for i in range(at, until + 1):
            block = self._blocks[i]
            begin, finish = 0, len(block.raw)
            if i == at:
                begin = block.raw_offset(self._offset(block, low, self._tops[i]))
            if i == until:
                finish = block.raw_offset(self._offset(block, high, self._tops[i]), up=True)
            parts.append(block.raw[begin:finish])
        return "".join(parts)

    @staticmethod
    def _offset(block: _Block, point: tuple[int, int], top: int) -> int:
        """A point as an offset of the block's shown text."""
        row = point[0] - top
        if row >= len(block.rows):
            return len(block.shown)
        end = block.rows[row + 1] if row + 1 < len(block.rows) else len(block.shown)
        return min(block.rows[row] + max(0, point[1]), end)
