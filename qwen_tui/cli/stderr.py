"""Messages of the one-shot commands on stderr: notes, a progress bar, statistics, errors.

Law: every line is safe on any terminal, and none goes to stdout.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TextIO

from qwen_tui.types import Finished, Progress, Stats, Trouble

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

STAGES: Final = {
    "import": "starting the engine",
    "download": "downloading",
    "load": "loading",
    "quantise": "quantising",
    "pack": "packing",
    "prefill": "reading the prompt",
}
BYTES: Final = ("download", "load", "pack")
LONG_PREFILL: Final = 512
"""Prompt tokens from which prefill shows a progress bar."""
ENDS: Final = {
    "eos": "end of text",
    "stop": "stop string",
    "length": "length",
    "cancelled": "interrupted",
    "oom": "out of memory",
    "nan": "not a number",
    "eof": "the stream broke off",
    "failed": "failed",
}


def one_line(text: str) -> str:
    """The text as one line that is safe on any terminal."""
    from qwen_tui.safe_text import visible

    return visible(text).replace("\n", " ")


def print_error(trouble: Trouble, stream: TextIO | None = None) -> None:
    """Print an error and what to do on stderr."""
    _tell(stream or sys.stderr, f"error: {one_line(trouble.message)}")
    if trouble.hint:
        _tell(stream or sys.stderr, f"hint: {one_line(trouble.hint)}")


def _tell(stream: TextIO | None, line: str) -> None:
    """Print one line; a closed or full stderr must not end the work."""
    with suppress(OSError, ValueError):
        print(line, file=stream, flush=True)


class Reporter:
    """Prints messages on stderr; `quiet` leaves only errors. Use as a context manager."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream: TextIO | None = stream or sys.stderr
        self.quiet = quiet
        terminal = self._stream is not None and self._stream.isatty()
        self._bars = terminal and not quiet and os.environ.get("TERM") != "dumb"
        self._bar: Bar | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()

    def say(self, line: str) -> None:
        """One line, unless quiet."""
        if not self.quiet:
            self.clear()
            _tell(self._stream, one_line(line))

    def warn(self, lines: Iterable[str]) -> None:
        """Warnings, one a line, unless quiet."""
        for line in lines:
            self.say(f"warning: {line}")

    def report(self, progress: Progress) -> None:
        """Update the bar of that stage; does nothing if stderr is not a terminal."""
        if not self._bars or (progress.stage == "prefill" and progress.total < LONG_PREFILL):
            return
        assert self._stream is not None
        bar = self._bar = self._bar or _bar(self._stream)
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = bar.add_task(STAGES[progress.stage], amount="")
        total = progress.total or None
        bar.update(
            self._tasks[progress.stage],
            completed=progress.done,
            total=total,
            amount=amount(progress),
        )

    def clear(self) -> None:
        """Erase the bar, so that what is printed next begins at the left edge."""
        bar, self._bar = self._bar, None
        self._tasks.clear()
        if bar is not None:
            bar.stop()

    def finished(self, end: Finished, *, branches: int = 1) -> None:
        """How one branch ended and what it cost."""
        which = f"{end.branch + 1}/{branches}: " if branches > 1 else ""
        self.say(which + " · ".join([*_spent(end.stats), _reason(end)]))


def amount(progress: Progress) -> str:
    """How far a stage is, in its own unit."""
    if progress.stage in BYTES:
        done, total = (f"{value / 2**30:.2f}" for value in (progress.done, progress.total))
        return f"{done}/{total} GiB" if progress.total else f"{done} GiB"
    if progress.stage == "prefill":
        return f"{progress.done:,}/{progress.total:,} tokens"
    return f"{progress.done}/{progress.total}" if progress.total else ""


def _reason(end: Finished) -> str:
    return f"{ENDS[end.reason]} {end.stop!r}" if end.stop else ENDS[end.reason]


def _spent(stats: Stats) -> list[str]:
    spent = [f"{stats.prompt:,} prompt tokens", f"{stats.emitted:,} new"]
    if stats.reused:
        spent[0] += f" ({stats.reused:,} reused)"
    if stats.tok_s:
        spent.append(f"{stats.tok_s:.1f} tok/s")
    if stats.ttft_s:
        spent.append(f"first token {stats.ttft_s:.2f} s")
    return spent


def _bar(stream: TextIO) -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    class Steady(Console):
        """Leaves the cursor as it is: death by a signal must not leave a terminal without one."""

        def show_cursor(self, show: bool = True) -> bool:
            return False

    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
        console=Steady(file=stream),
        transient=True,
    )
    bar.start()
    return bar
