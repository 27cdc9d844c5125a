"""The local backend: a checkpoint on this machine, run by torch.

Law: torch is imported only in this package, and only when a backend is opened or a plan is asked
for, not when the package is imported.
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
    """The most tokens that a prompt and its completion have together, as `open` will plan it."""
    from qwen_tui.backends.local.opening import planned

    return planned(settings).plan.context
