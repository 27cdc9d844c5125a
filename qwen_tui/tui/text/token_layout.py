"""The text of a growing run of tokens, laid out in rows of terminal cells; knows no widget.

Law: adding a token costs the same however long the text; no grapheme is split, no wide character
straddles an edge, and every cell knows the tokens whose bytes it shows.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

from qwen_tui.tui.text.line_layout import LineBlock, units
from qwen_tui.vocab.decoder import Decoder

LONGEST_BLOCK: Final = 1 << 14
"""A line longer than this many characters is kept in several blocks, cut where a row ends."""

_JOINER: Final = re.compile("[\u180b-\u180f\u200c\u200d\ufe00-\ufe0f\U000e0000-\U000e01ef]")
"""Invisible characters that may join the next character to the grapheme before them."""
_TAKEN_BACK: Final = 8


class TextRun(NamedTuple):
    """A stretch of one row shown in one style: tokens `first` to `last` share its bytes."""

    text: str
    first: int
    last: int
    escaped: bool


class TokenPosition(NamedTuple):
    """A token's position: its first row and cell, and its last row."""

    y: int
    x: int
    last_y: int


class TokenLayout:
    """Rows of cells for tokens added one by one. Token indexes must not decrease; -1 is context.

    `changed` is the first row that differs from the last `settle()`.
    """

    def __init__(self, width: int = 80) -> None:
        self.width = max(1, width)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._blocks = [LineBlock()]
        self._tops = [0]
        self._ends: list[int] = [-1]
        self._decoder = Decoder()
        self.pending_since = -1
        """The token in which an incomplete character begins, while there is one."""
        self.changed = 0

    @property
    def pending(self) -> bytes:
        """Bytes at the end of an incomplete character."""
        return self._decoder.pending

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
        waiting = bool(self.pending)
        text = self._decoder.feed(data)
        since = self.pending_since if waiting else index
        if self.pending and (not waiting or text):
            self.pending_since = index
        if not text:
            return
        if waiting and since != index:
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
            self._begin_block(LineBlock(), last)
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
        for unit in units(again + line, block.column(len(block.shown))):
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
    def _take_back(block: LineBlock) -> tuple[str, list[tuple[int, int, int]]]:
        """Remove the end that the next text may join: the last grapheme, and while that is an
        invisible joiner, the one before it. Returns its raw text, and (end, first, last) of its
        owners.
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
        """Wrap the added text: the last two rows may change, those before them are final."""
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

    def _begin_block(self, block: LineBlock, end: int) -> None:
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

    def _find(self, y: int) -> tuple[LineBlock, int, int]:
        """The block of row y and the row's start and end offsets in it."""
        at = bisect_right(self._tops, y) - 1
        block = self._blocks[at]
        row = min(y - self._tops[at], len(block.rows) - 1)
        end = block.rows[row + 1] if row + 1 < len(block.rows) else len(block.shown)
        return block, block.rows[row], end

    def runs(self, y: int) -> list[TextRun]:
        """Row y, split where the tokens or the style change; a line feed ends it as `\\n`."""
        block, start, end = self._find(y)
        runs: list[TextRun] = []
        piece = max(0, bisect_right(block.pieces, start) - 1)
        while start < end:
            following = block.pieces[piece + 1] if piece + 1 < len(block.pieces) else end
            stop = min(following, end)
            runs.extend(self._cut(block, start, stop, block.firsts[piece], block.lasts[piece]))
            start = stop
            piece += 1
        return runs

    @staticmethod
    def _cut(block: LineBlock, start: int, stop: int, first: int, last: int) -> Iterator[TextRun]:
        """A piece of one row, cut around its escapes."""
        escape = bisect_left(block.escapes, start)
        while escape < len(block.escapes) and block.escapes[escape] < stop:
            at = block.escapes[escape]
            end = block.starts[bisect_right(block.starts, at)]
            if at > start:
                yield TextRun(block.shown[start:at], first, last, False)
            yield TextRun(block.shown[at:end], first, last, True)
            start = end
            escape += 1
        if start < stop:
            yield TextRun(block.shown[start:stop], first, last, False)

    def shown(self, y: int) -> str:
        """The text of row y, without its line feed."""
        block, start, end = self._find(y)
        return block.shown[start:end].removesuffix("\n")

    def token_at(self, y: int, x: int) -> int | None:
        """The token shown at a cell; right of the row's end its last one; None if there is none."""
        block, start, end = self._find(max(0, min(y, self.height - 1)))
        if start == end:
            return None
        offset = min(block.offset_at_column(block.column(start) + max(x, 0)), end - 1)
        return block.lasts[bisect_right(block.pieces, offset) - 1]

    def place(self, index: int) -> TokenPosition:
        """Where a token is shown; one that shows nothing is where the next one begins."""
        at = bisect_left(self._ends, index)
        if at >= len(self._blocks):
            return TokenPosition(self.height - 1, self.last_x, self.height - 1)
        block = self._blocks[at]
        piece = bisect_left(block.lasts, index)
        if piece >= len(block.pieces):
            return TokenPosition(self.height - 1, self.last_x, self.height - 1)
        offset = block.pieces[piece]
        row = bisect_right(block.rows, offset) - 1
        x = block.column(offset) - block.column(block.rows[row])
        return TokenPosition(self._tops[at] + row, x, self._last_row(index))

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
    def _offset(block: LineBlock, point: tuple[int, int], top: int) -> int:
        """A point as an offset of the block's shown text."""
        row = point[0] - top
        if row >= len(block.rows):
            return len(block.shown)
        end = block.rows[row + 1] if row + 1 < len(block.rows) else len(block.shown)
        return min(block.rows[row] + max(0, point[1]), end)
