"""Tables and JSON on stdout for the commands that list things.

Law: every text from outside is made visible; a pipe gets whole lines, never cut or coloured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO


def show(
    rows: Iterable[Sequence[str]],
    *,
    header: Sequence[str] = (),
    right: Sequence[int] = (),
    stream: TextIO | None = None,
) -> None:
    """Print rows in aligned columns; `right` are the columns set flush right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    stream = stream or sys.stdout
    terminal = stream.isatty()
    cells = [[_safe(cell) for cell in row] for row in rows]
    if not terminal:
        _plain(cells, header, right, stream)
        return
    table = Table(box=None, pad_edge=False, show_header=bool(header))
    for index in range(max(map(len, [header, *cells]), default=0)):
        title = header[index] if header else ""
        table.add_column(title, justify="right" if index in right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console(file=stream, highlight=False, markup=False).print(table)


def _plain(
    rows: list[list[str]], header: Sequence[str], right: Sequence[int], stream: TextIO
) -> None:
    from rich.cells import cell_len

    every = [list(header), *rows] if header else rows
    columns = max(map(len, every), default=0)
    widths = [
        max((cell_len(row[index]) for row in every if index < len(row)), default=0)
        for index in range(columns)
    ]
    for row in every:
        cells = []
        for index, cell in enumerate(row):
            gap = " " * (widths[index] - cell_len(cell))
            cells.append(gap + cell if index in right else cell + gap)
        print("  ".join(cells).rstrip(), file=stream)


def _safe(cell: str) -> str:
    from qwen_tui.safe_text import visible

    return visible(cell)


def safe_json(value: Any) -> str:
    """One line of JSON in ASCII: no control or bidirectional character survives."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False).replace("\x7f", "\\u007f")
