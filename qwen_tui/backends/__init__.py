"""The backends by name, and the functions that open them.

Law: backends are named by strings here; opening one imports only that one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from qwen_tui import hub
from qwen_tui.types import Backend, Progress, Trouble

if TYPE_CHECKING:
    from qwen_tui.settings import Settings

NAMES: Final = {
    "local": "qwen_tui.backends.local:open",
    "remote": "qwen_tui.backends.remote:open",
}
"""Name → `module:factory`; a factory takes (settings, report, cancel) and returns a `Backend`."""


def open(
    settings: Settings, report: Callable[[Progress], None], cancel: threading.Event
) -> Backend:
    """Import and open the backend that the setting `engine` names, reporting progress.

    Blocks while loading; `cancel` stops it. Raises Trouble for errors that a person can mend;
    defects raise as they are.
    """
    name = "local" if settings.endpoint() is None else "remote"
    report(Progress("import", 0, 1))
    module, _, factory = NAMES[name].partition(":")
    opened = getattr(import_module(module), factory)
    report(Progress("import", 1, 1))
    return cast("Backend", opened(settings, report, cancel))


def look(settings: Settings, *, weights: bool = True) -> tuple[Path | None, int]:
    """The folder of the tokenizer of the engine's model, None if only its server has it; and the
    model's context in tokens, 0 if unknown. Loads no weights, may ask a server.

    Without `weights` missing weight files are no error.
    """
    if settings.endpoint() is not None:
        from qwen_tui.backends import remote

        return remote.look(settings)
    snapshot = None if weights else hub.locate(settings.model)
    folder = (snapshot or hub.find(settings.model)).path
    try:
        return folder, hub.card(folder).context
    except Trouble:
        if weights:
            raise
        return folder, 0


def context(settings: Settings) -> int:
    """The most tokens that a prompt and its completion may have together, as planned for this
    machine before weights are read; 0 if only a server knows. Raises Trouble for a model that
    cannot be run here.
    """
    if settings.endpoint() is not None:
        return 0
    from qwen_tui.backends import local

    return local.context(settings)
