"""The local backend: a checkpoint on this machine, through torch.

Law: this is the only room where torch may be imported, and importing the room itself does not; only
opening a backend, or asking for a plan, does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qwen_tui.backends.local.backend import Local
    from qwen_tui.settings import Settings
    from qwen_tui.types import Progress


def open(settings: Settings, report: Callable[[Progress], None], cancel: threading.Event) -> Local:
    """Find, plan and load the checkpoint that the settings name; raises Trouble."""
    from qwen_tui.backends.local.opening import opened

    return opened(settings, report, cancel)


def context(settings: Settings) -> int:
    """The most tokens a prompt and its completion may hold together, as `open` will plan it."""
    from qwen_tui.backends.local.opening import planned

    return planned(settings).plan.context
