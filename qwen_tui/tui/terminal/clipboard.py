"""The clipboard, by whatever reaches it: tmux's buffer, the desktop's own tool, or OSC 52.

Law: what is said of a copy is what was done; OSC 52 is not answered, so of it nothing is claimed.
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
"""How long a tool may take."""
_TMUX: Final = ("tmux", "load-buffer", "-w", "-")
_OLD_TMUX: Final = ("tmux", "load-buffer", "-")
"""tmux before 3.2 does not hand a buffer on to the terminal."""


def copy(text: str, env: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Put a text where it can be pasted; the tools that took it, none where none is there."""
    data = text.encode("utf-8", "replace")
    ways = _ways(env)
    taken = (next((tool[0] for tool in way if _ran(tool, data, env)), "") for way in ways)
    return tuple(filter(None, taken))


def said(tools: tuple[str, ...]) -> str:
    """Where a copy went, for a person: `to tmux`, or that the terminal was asked."""
    if tools:
        return f"to {' and '.join(tools)}"
    return "to the terminal (OSC 52), if it takes it"


def _ways(env: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """The commands to try, of each group the first that works."""
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
