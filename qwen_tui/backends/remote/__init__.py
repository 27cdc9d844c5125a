"""The remote backend: a model on an OpenAI-compatible server, in particular vLLM and llama.cpp.

Law: importing the package imports no HTTP client; only opening or probing an engine does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qwen_tui.backends.remote.backend import Remote
    from qwen_tui.backends.remote.facts import ServerFacts
    from qwen_tui.settings import Settings
    from qwen_tui.types import Progress


def open(settings: Settings, report: Callable[[Progress], None], cancel: threading.Event) -> Remote:
    """Ask the server that the settings name what it is; raises Trouble."""
    from qwen_tui.backends.remote.backend import opened

    return opened(settings, cancel)


def look(settings: Settings) -> tuple[Path | None, int]:
    """The folder of the tokenizer of the server's model, None if it is not on this machine; and the
    context in tokens. Raises Trouble.
    """
    from qwen_tui.backends.remote.backend import looked_at

    return looked_at(settings)


def probe(settings: Settings) -> tuple[ServerFacts, float]:
    """What the server is and can do, probed again whatever is remembered; and the seconds that a
    question takes. Raises Trouble.
    """
    from qwen_tui.backends.remote.backend import probed

    return probed(settings)
