"""A Textual app with a guarded terminal: crashes are logged quietly, and leaving is quick.

Law: an error never paints a traceback; `run` prints one line after the terminal is restored.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from rich.console import RenderableType
from textual.app import App
from textual.filter import LineFilter, Monochrome, NoColor

from qwen_tui.tui.terminal import clipboard
from qwen_tui.tui.terminal.guard import (
    FLUSH_S,
    HANGUP_CODE,
    RESTORE_S,
    Guard,
    flush_streams,
)
from qwen_tui.tui.terminal.line_filters import NoColours, NoControls, colour_refused
from qwen_tui.tui.terminal.shutdown import within
from qwen_tui.types import INTERNAL

if TYPE_CHECKING:
    from textual.driver import Driver

ReturnType = TypeVar("ReturnType")
_NO_CONTROLS: Final = NoControls()
_NO_COLOURS: Final = NoColours()


class GuardedApp(App[ReturnType], Generic[ReturnType]):
    """A Textual app that logs crashes and whose driver survives its terminal.

    `guard` is None in tests and wherever the terminal was not taken.
    """

    guard: Guard | None = None
    crashed: BaseException | None = None
    """The error that ended it, if one did."""
    copied_to: tuple[str, ...] = ()
    """The tools that took the last copy; empty: the terminal was asked."""

    def get_driver_class(self) -> type[Driver]:
        """The driver that survives bad input and a lost terminal; Textual's on systems other than
        Unix.
        """
        chosen = super().get_driver_class()
        if chosen.__name__ != "LinuxDriver":
            return chosen
        from qwen_tui.tui.terminal.driver import SafeDriver

        return SafeDriver

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's filters, the one against control characters, and ours if colour is refused
        (unlike for Textual, an empty `NO_COLOR` does not refuse it).
        """
        if colour_refused():
            return [_NO_CONTROLS, _NO_COLOURS]
        filters = super().get_line_filters()
        kept = [each for each in filters if not isinstance(each, Monochrome | NoColor)]
        return [*kept, _NO_CONTROLS]

    def copy_to_clipboard(self, text: str) -> None:
        """Copy by tmux and the desktop's tool if available, else by OSC 52."""
        self.copied_to = clipboard.copy(text)
        if self.copied_to:
            self._clipboard = text
        else:
            super().copy_to_clipboard(text)

    def terminal_lost(self) -> None:
        """Called by the driver when input ended; on the input thread."""
        if self.guard is not None:
            self.guard.terminal_lost()
        else:
            os._exit(HANGUP_CODE)

    def _handle_exception(self, error: Exception) -> None:
        """Flush, log the traceback, and end; Textual would print every local variable."""
        if self.crashed is None:
            self.crashed = error
            if self.guard is not None:
                self.guard.record(error)
                within(FLUSH_S, self.guard.flush)
        self._return_code = INTERNAL
        if self._exception is None:
            self._exception = error
            self._exception_event.set()
        self._close_messages_no_wait()

    def panic(self, *renderables: RenderableType) -> None:
        """End on an error reported by Textual, such as broken CSS; it goes to the log."""
        self._handle_exception(RuntimeError(" ".join(map(str, renderables))))

    def _print_error_renderables(self) -> None:
        """Nothing: `run` prints one line, after the terminal is restored."""
        self._exit_renderables.clear()


def run(app: GuardedApp[int], guard: Guard, *, mouse: bool = True) -> int:
    """Run the interface to its end and restore the terminal; returns the exit code.

    A crash is 70 and one line on standard error with the log's path, or the whole traceback without
    a log.
    """
    try:
        with guard:
            app.guard = guard
            try:
                code = app.run(mouse=mouse)
            except Exception as error:
                guard.record(error)
                within(FLUSH_S, guard.flush)
                app.crashed = error
                code = None
    finally:
        app.guard = None
    if app.crashed is not None:
        kind = type(app.crashed).__name__
        details = f"; details in {guard.log}" if guard.log else f"\n{guard.crash}"
        print(f"qwen-tui: internal error ({kind}){details}", file=sys.stderr)
        return INTERNAL
    return (app.return_code or 0) if code is None else code


def leave(code: int, *, stuck: bool) -> int:
    """The exit code, unless ending the interpreter would be slow or unsafe: then the process ends
    here.

    A daemon thread inside native code at interpreter exit aborts with 134 (`stuck`), and unloading
    torch's modules takes seconds for nothing.
    """
    if stuck or "torch" in sys.modules:
        within(RESTORE_S, atexit._run_exitfuncs)
        flush_streams()
        os._exit(code)
    return code
