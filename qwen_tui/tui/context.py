"""What the command line hands to the interface: rooms that have already been introduced.

Law: the interface makes no runner and no backend; it opens another one only through a door.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qwen_tui.engine.runner import Opener, Runner
from qwen_tui.session.drafts import Drafts
from qwen_tui.session.library import Follower, Loaded
from qwen_tui.session.session import Session
from qwen_tui.session.store import Store
from qwen_tui.settings import Settings

if TYPE_CHECKING:
    from qwen_tui.vocab import Vocab


@dataclass(slots=True)
class Desk:
    """A session on the desk, with the store that writes it (None: nothing is saved).

    `read_only` says why a session that exists is not written; `follower` gives what another process
    writes to it; `badges` are what its file has suffered. `drafts` is the interface's own.
    """

    session: Session
    store: Store | None = None
    read_only: str = ""
    follower: Follower | None = None
    badges: tuple[str, ...] = ()
    drafts: Drafts | None = None

    @classmethod
    def of(cls, loaded: Loaded) -> Desk:
        """The desk of a session that the library opened."""
        return cls(
            loaded.session,
            loaded.store,
            loaded.read_only,
            loaded.follower,
            tuple(loaded.badges),
        )

    @property
    def path(self) -> Path | None:
        """The file the session is saved in."""
        return self.store.path if self.store is not None else None

    def flush(self, timeout: float = 1.0) -> bool:
        """Make safe what was handed in; any thread, also in a signal handler."""
        if self.drafts is not None:
            self.drafts.flush(timeout / 2)
        return self.store.flush(timeout) if self.store is not None else True

    def close(self, timeout: float = 1.0, *, committed: bool = False) -> bool:
        """Let go of everything; True when all is saved. `committed`: no typing waits, so the draft
        can go.
        """
        if self.drafts is not None:
            self.drafts.close(timeout / 2, discard=committed)
        if self.follower is not None:
            self.follower.close()
        return self.store.close(timeout) if self.store is not None else True


@dataclass(frozen=True, slots=True)
class StudioContext:
    """Everything the interface is given.

    `runner` has loaded nothing yet; the interface calls `load()` after its first paint.
    `opener(settings)` is what `runner.swap` takes for another model. `vocab(settings)` reads the
    tokenizer of `settings.model`; it is called on a thread and may raise Trouble. `open_desk(path)`
    opens another session file (`Desk.of` its `library.Loaded`), `open_desk(None)` begins a new one;
    it may raise Trouble. `file` is where Ctrl+S writes, `text` what the document begins with.
    `play` plays the recorded generations of the desk's session from the start (the runner is then a
    replay's, and `settings.save` is off). `log` is where a crash is written.
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
    log: Path | None = None
