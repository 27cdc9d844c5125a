"""What a word on the command line means: a command, a file, or a session.

Law: nothing is opened for writing here; a word that means nothing names the nearest that does.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qwen_tui.types import NO_INPUT, Trouble

if TYPE_CHECKING:
    from qwen_tui.session.session import Session

STUDIO: Final = "studio"
"""The hidden command behind `qwen-tui [FILE]`."""
SESSION_START: Final = b'{"k":"head","fmt":"qwen-tui.session"'


def existing(word: str, commands: list[str]) -> Path:
    """The file that a word on the command line names; Trouble 66 names the nearest command."""
    path = Path(word)
    if path.exists():
        return path
    near = get_close_matches(word, [name for name in commands if name != STUDIO], 1)
    raise Trouble(
        f"there is no file and no command {word!r}",
        hint=f"did you mean `qwen-tui {near[0]}`?"
        if near
        else "qwen-tui --help lists the commands",
        code=NO_INPUT,
    )


def is_session(path: Path) -> bool:
    """Whether a file is one of our session files, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(SESSION_START)) == SESSION_START


def stored_session(name: str) -> Session:
    """The session of that name, read and let go; Trouble when there is none."""
    from qwen_tui.session import library
    from qwen_tui.session.opening import open_session

    opened = open_session(library.resolve(name), read_only=True)
    opened.close()
    return opened.session
