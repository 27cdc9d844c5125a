"""Tables and JSON on stdout for the commands that list things.

Law: all text from outside is made safe to show; a pipe gets whole lines, neither cut nor coloured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, TextIO

WIDEST: Final = 1 << 16
"""Columns of a table whose output is not a terminal."""


def show(
    rows: Iterable[Sequence[str]],
    *,
    header: Sequence[str] = (),
    right: Sequence[int] = (),
    stream: TextIO | None = None,
) -> None:
    """Print rows in aligned columns; those in `right` are right-aligned."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from qwen_tui.safe_text import visible

    stream = stream or sys.stdout
    cells = [[Text(visible(cell)) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, show_header=bool(header))
    for index in range(max(map(len, [header, *cells]), default=0)):
        title = header[index] if index < len(header) else ""
        table.add_column(title, justify="right" if index in right else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    width = None if stream.isatty() else WIDEST
    console = Console(file=stream, width=width, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip(), file=stream)


def safe_json(value: Any) -> str:
    """One line of JSON in ASCII: no control or bidirectional character survives."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False).replace("\x7f", "\\u007f")
