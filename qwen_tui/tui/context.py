"""What the interface is given by the command line: settings, a runner and a session.

Law: the interface creates no runner and no backend; it opens others only through this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qwen_tui.engine.runner import Opener, Runner
from qwen_tui.session.opening import OpenSession
from qwen_tui.session.session import Session
from qwen_tui.settings import Settings

if TYPE_CHECKING:
    from qwen_tui.vocab import Vocab


ENGINE: Final = "engine:"
"""Prefix of a server's name where models are chosen by name."""


@dataclass(frozen=True, slots=True)
class StudioContext:
    """Everything the interface is given.

    runner: has loaded nothing yet; the interface calls `load()` after its first paint.
    opener(settings): what `runner.swap` takes for another model.
    vocab(settings): reads the tokenizer of `settings.model`, on a thread; may raise Trouble.
    open_session(path): opens another session file, None: begins a new one; may raise Trouble.
    opened: the session to begin with.
    file: where Ctrl+S writes. newer: a session with another text of that file, which is offered.
    text: what the document begins with.
    play: the recorded generations of `opened` are played from the start (the runner is then a
    replay's, and `settings.save` is off).
    settings_of(settings, session): the settings with the model that a session is gone on with.
    log: where a crash is written.
    """

    settings: Settings
    runner: Runner
    opener: Callable[[Settings], Opener]
    vocab: Callable[[Settings], Vocab | None]
    open_session: Callable[[Path | None], OpenSession]
    opened: OpenSession
    file: Path | None = None
    newer: Path | None = None
    text: str = ""
    play: bool = False
    settings_of: Callable[[Settings, Session], Settings] = lambda settings, _session: settings
    log: Path | None = None
