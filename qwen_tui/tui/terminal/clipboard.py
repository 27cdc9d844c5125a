"""Copies to the clipboard: by tmux's buffer, the desktop's own tool, or OSC 52.

Law: only what is certain is reported; the terminal does not answer OSC 52, so success is not
claimed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

PATIENCE_S: Final = 2.0
"""Seconds that a tool may take."""
_TMUX: Final = ("tmux", "load-buffer", "-w", "-")
_OLD_TMUX: Final = ("tmux", "load-buffer", "-")
"""For tmux before 3.2, which does not forward a buffer to the terminal."""


def copy(text: str, env: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Copy a text; returns the tools that took it, none if there is none."""
    data = text.encode("utf-8", "replace")
    ways = _ways(env)
    taken = (next((tool[0] for tool in way if _ran(tool, data, env)), "") for way in ways)
    return tuple(filter(None, taken))


def said(tools: tuple[str, ...]) -> str:
    """Where a copy went, for a person: `to tmux`, or that the terminal was asked to take it."""
    if tools:
        return f"to {' and '.join(tools)}"
    return "to the terminal (OSC 52), if it takes it"


def _ways(env: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Groups of commands; of each group the first that works is used."""
    if env.get("TMUX"):
        yield (_TMUX, _OLD_TMUX)
    if sys.platform == "darwin":
        yield (("pbcopy",),)
    elif sys.platform == "win32":
        yield (("clip",),)
    elif env.get("WAYLAND_DISPLAY"):
        yield (("wl-copy",),)
    elif env.get("DISPLAY"):
        yield (("xclip", "-selection", "clipboard"), ("xsel", "--clipboard", "--input"))


def _ran(tool: tuple[str, ...], data: bytes, env: Mapping[str, str]) -> bool:
    program = shutil.which(tool[0], path=env.get("PATH"))
    if program is None:
        return False
    nowhere = subprocess.DEVNULL
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            (program, *tool[1:]),
            input=data,
            stdout=nowhere,
            stderr=nowhere,
            timeout=PATIENCE_S,
            env=dict(env),
            check=False,
        )
        return done.returncode == 0
    return False
