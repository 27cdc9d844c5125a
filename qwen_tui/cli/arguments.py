"""What a word on the command line means: a command, a file, or a session.

Law: nothing is opened for writing here; for an unknown word the error names the nearest known one.
"""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qwen_tui.types import NO_INPUT, Trouble

if TYPE_CHECKING:
    from qwen_tui.session.session import Session

STUDIO: Final = "studio"
"""The hidden command behind `qwen-tui [FILE]`."""


def file_named(word: str, commands: list[str]) -> Path:
    """The file that a word on the command line names; a word with a folder or an extension may name
    a new file. Trouble 66 names the nearest command.
    """
    path = Path(word)
    if path.exists():
        return path
    if path.suffix or os.sep in word:
        if path.parent.is_dir():
            return path
        raise Trouble(f"there is no folder {str(path.parent)!r} for {word!r}", code=NO_INPUT)
    near = get_close_matches(word, [name for name in commands if name != STUDIO], 1)
    raise Trouble(
        f"there is no file and no command {word!r}",
        hint=f"did you mean `qwen-tui {near[0]}`?"
        if near
        else f"`qwen-tui ./{word}` begins a new file; qwen-tui --help lists the commands",
        code=NO_INPUT,
    )


def stored_session(name: str) -> Session:
    """The stored session of that name, read completely; damage of its file is reported on stderr.
    Trouble if there is none.
    """
    from qwen_tui.session import library
    from qwen_tui.session.opening import open_session

    opened = open_session(library.resolve(name), read_only=True)
    opened.close()
    for line in opened.damage:
        print(f"warning: {line}", file=sys.stderr)
    return opened.session
