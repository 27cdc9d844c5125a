"""The theme and the layout that a person chose in the studio last, kept in the state folder.

Law: a setting that a person wrote stands before them; a file that cannot be read or written means
no memory, never an error.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from qwen_tui.paths import ensure_folder, replacing, state_dir
from qwen_tui.settings import Settings


def _file() -> Path:
    return state_dir() / "studio.json"


def _kept() -> dict[str, str]:
    try:
        found = json.loads(_file().read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in pairs if isinstance(value, str)}


def last_look(settings: Settings, name: str) -> str:
    """The `theme` or the `layout` chosen last; the setting, where a person wrote one or chose none,
    or nothing is kept.
    """
    value: str = getattr(settings, name)
    return value if settings.explicit(name) or not settings.save else _kept().get(name, value)


def remember_look(settings: Settings, name: str, value: str) -> None:
    """Keep what a person chose, where anything is kept at all."""
    if not settings.save:
        return
    with suppress(OSError, ValueError):
        ensure_folder(_file().parent)
        data = json.dumps(_kept() | {name: value}).encode("utf-8")
        with replacing(_file()) as file:
            file.write(data)
