"""What the command line hands to the interface: rooms that have already been introduced.

Law: the interface makes no runner, no backend and no store; it opens another one only through a door.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qwen_tui.engine.runner import Opener, Runner
from qwen_tui.session.session import Session
from qwen_tui.session.store import Store
from qwen_tui.settings import Settings

if TYPE_CHECKING:
    from qwen_tui.vocab import Vocab


@dataclass(frozen=True, slots=True)
class Desk:
    """A session on the desk, with the store that writes it (None: nothing is saved)."""

    session: Session
    store: Store | None = None


@dataclass(frozen=True, slots=True)
class Doors:
    """Everything the interface is given.

    `runner` has loaded nothing yet; the interface calls `load()` after its first paint.
    `opener(settings)` is what `runner.swap` takes for another model. `vocab(settings)` reads the
    tokenizer of `settings.model`; it is called on a thread and may raise Trouble. `open_desk(path)`
    opens another session file, `open_desk(None)` begins a new one; it may raise Trouble.
    `file` is where Ctrl+S writes, `text` what the document begins with. `play` plays the recorded
    generations of the desk's session from the start (a replay runner must be given with it).
    """

    settings: Settings
    runner: Runner
    opener: Callable[[Settings], Opener]
    vocab: Callable[[Settings], Vocab | None]
    open_desk: Callable[[Path | None], Desk]
    desk: Desk
    file: Path | None = None
    text: str = ""
    play: bool = False
