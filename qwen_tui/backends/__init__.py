"""Where tokens come from: names of backends, and the one door that opens them.

Law: only strings stand here; opening a backend imports exactly that one, so nothing else pays for
it.
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
    """Import and open the backend that the setting `engine` names, reporting how far it is.

    Blocks for as long as loading takes; `cancel` gives it up. Raises Trouble for everything a
    person can mend, and lets defects through.
    """
    name = "local" if settings.endpoint() is None else "remote"
    report(Progress("import", 0, 1))
    module, _, factory = NAMES[name].partition(":")
    opened = getattr(import_module(module), factory)
    report(Progress("import", 1, 1))
    return cast("Backend", opened(settings, report, cancel))


def look(settings: Settings, *, weights: bool = True) -> tuple[Path | None, int]:
    """The folder of the tokenizer that the engine's model has, None where only its server has it;
    and the model's context in tokens, 0 if it is unknown. Loads no weights, may ask a server.

    Without `weights` what is missing of them is no trouble.
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
    """The most tokens that a prompt and its completion may hold together, as planned for this
    machine before any weights are read; 0 where a server knows. Raises Trouble for a model that
    cannot be run here.
    """
    if settings.endpoint() is not None:
        return 0
    from qwen_tui.backends import local

    return local.context(settings)
