"""The terminal that the studio needs: checked before anything is painted, and reopened after a pipe
was read.

Law: an unusable terminal is refused with a hint at what works instead.
"""

from __future__ import annotations

import os
import sys

from qwen_tui.cli.prompt import decoded, standard_input
from qwen_tui.portable_os import KEYBOARD
from qwen_tui.types import UNAVAILABLE, Trouble


def check_screen() -> None:
    """Raise Trouble 69 if there is no terminal for a full-screen program."""
    instead = "`qwen-tui complete` works in a pipe, `qwen-tui --plain` line by line"
    if sys.stdout is None or not sys.stdout.isatty():
        raise Trouble("standard output is no terminal", hint=instead, code=UNAVAILABLE)
    if os.environ.get("TERM", "") in ("dumb", "unknown"):
        raise Trouble(
            f"a terminal of type {os.environ['TERM']!r} cannot show a screen",
            hint=instead,
            code=UNAVAILABLE,
        )


def piped_text(encoding: str | None) -> str | None:
    """The text piped into standard input; None if it is not a pipe."""
    if sys.stdin is None or sys.stdin.isatty():
        return None
    return decoded(standard_input(), "standard input", encoding)


def take_terminal() -> None:
    """Make standard input the keyboard again, if it was a pipe."""
    if sys.stdin is not None and sys.stdin.isatty():
        return
    try:
        keyboard = os.open(KEYBOARD, os.O_RDWR)
    except OSError:
        raise Trouble(
            "there is no terminal to type into",
            hint="`qwen-tui complete` needs none",
            code=UNAVAILABLE,
        ) from None
    os.dup2(keyboard, 0)
    if keyboard != 0:
        os.close(keyboard)
    sys.stdin = os.fdopen(0, encoding="utf-8", errors="surrogateescape", closefd=False)
