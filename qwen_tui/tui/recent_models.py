"""Folders that a person chose as models, newest first, in the state folder.

Law: a file that cannot be read or written is ignored.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Final

from qwen_tui.paths import ensure_folder, expanded, replacing, state_dir

MOST: Final = 12
"""Folders that are remembered."""


def _file() -> Path:
    return state_dir() / "recent-models.json"


def recent_models() -> list[str]:
    """The folders, newest first, without missing ones."""
    try:
        found = json.loads(_file().read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    paths = [each for each in found if isinstance(each, str)] if isinstance(found, list) else []
    return [each for each in paths[:MOST] if Path(each).is_dir()]


def remember_model(model: str) -> None:
    """Remember a model if it is a folder; a hub id is found without this."""
    folder = expanded(model)
    with suppress(OSError, ValueError):
        if not folder.is_dir():
            return
        path = str(folder.resolve())
        kept = [path, *(each for each in recent_models() if each != path)][:MOST]
        ensure_folder(_file().parent)
        with replacing(_file()) as file:
            file.write(json.dumps(kept).encode("utf-8"))
