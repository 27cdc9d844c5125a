"""Where configuration, sessions, logs, caches, models, themes and the demo are on this machine.

Law: asking for a path never creates it; `ensure_folder` does, readable by its owner alone.
`QWEN_TUI_HOME` moves everything. `replacing` writes a file atomically.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import platformdirs

from qwen_tui.portable_os import open_plain

APP: Final = "qwen-tui"
HOME_VARIABLE: Final = "QWEN_TUI_HOME"
PRIVATE: Final = 0o700
CONFIG_NAME: Final = "config.toml"
PROJECT_NAME: Final = "qwen-tui.toml"
NO_HOME: Final = Path("/nonexistent")
"""Represents the home of a user who has none; it does not exist and is never created."""
_PACKAGE: Final = Path(__file__).resolve().parent


def ensure_folder(folder: Path) -> Path:
    """`folder`, created if missing, each new folder with mode 0700; raises OSError."""
    if NO_HOME in folder.parents:
        raise FileNotFoundError(errno.ENOENT, f"there is no home; set HOME or {HOME_VARIABLE}")
    missing = []
    place = folder
    while not place.exists():
        missing.append(place)
        place = place.parent
    for each in reversed(missing):
        each.mkdir(mode=PRIVATE, exist_ok=True)
    if not folder.is_dir():
        raise NotADirectoryError(20, "not a folder", str(folder))
    return folder


@contextmanager
def replacing(
    path: Path, *, mode: int | None = None, sync: bool = False, buffering: int = -1
) -> Iterator[BinaryIO]:
    """A new binary file that replaces `path` if the block ends without an error.

    After an error the old file is unchanged and no other is left. A symbolic link stays; its target
    is replaced. `mode` None keeps that of the existing file, else 0666 less the umask. `sync`
    writes the bytes to disk before the rename. The folder must exist. Raises OSError.
    """
    target = Path(os.path.realpath(path))
    mark = f"{os.getpid()}.{secrets.token_hex(4)}"
    temporary = target.with_name(f".{target.name[:200]}.{mark}.partial")
    if mode is None and target.exists():
        mode = target.stat().st_mode & 0o777
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    fd = open_plain(temporary, flags, 0o666 if mode is None else 0o600)
    try:
        with os.fdopen(fd, "wb", buffering=buffering) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def home(env: Mapping[str, str] | None = None) -> Path | None:
    """The one folder that holds everything when `QWEN_TUI_HOME` is set (empty counts as unset)."""
    value = (os.environ if env is None else env).get(HOME_VARIABLE, "")
    return expanded(value).absolute() if value else None


def expanded(name: str) -> Path:
    """The path of that name with `~` or `~user` expanded, unchanged if there is no such home."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def user_home() -> Path:
    """The user's home; `NO_HOME` where there is none."""
    try:
        return Path.home()
    except RuntimeError:
        return NO_HOME


def _own(place: Callable[..., str]) -> Path:
    """Our folder in one of the user's places, as platformdirs names it."""
    try:
        return Path(place(APP, appauthor=False))
    except RuntimeError:  # neither HOME nor an entry in the password database
        return NO_HOME / APP


def config_dir(env: Mapping[str, str] | None = None) -> Path:
    """The folder of `config.toml` and `themes/`."""
    top = home(env)
    return top / "config" if top else _own(platformdirs.user_config_dir)


def data_dir(env: Mapping[str, str] | None = None) -> Path:
    """The folder of data that must never be lost: `sessions/`, `trash/`, `models/`."""
    top = home(env)
    return top / "data" if top else _own(platformdirs.user_data_dir)


def state_dir(env: Mapping[str, str] | None = None) -> Path:
    """The folder of `drafts/` (uncommitted typing) and `logs/`."""
    top = home(env)
    return top / "state" if top else _own(platformdirs.user_state_dir)


def cache_dir(env: Mapping[str, str] | None = None) -> Path:
    """The folder of data that can be recomputed: packed weights, keys and values of texts, file
    hashes, the search index.
    """
    top = home(env)
    return top / "cache" if top else _own(platformdirs.user_cache_dir)


def config_file(env: Mapping[str, str] | None = None) -> Path:
    """The user's configuration file."""
    return config_dir(env) / CONFIG_NAME


def sessions_dir(env: Mapping[str, str] | None = None) -> Path:
    """Session files."""
    return data_dir(env) / "sessions"


def trash_dir(env: Mapping[str, str] | None = None) -> Path:
    """Removed session files, until they are purged."""
    return data_dir(env) / "trash"


def models_dir(env: Mapping[str, str] | None = None) -> Path:
    """Checkpoints that a person put there, as `NAME/` or `OWNER/NAME/`."""
    return data_dir(env) / "models"


def drafts_dir(env: Mapping[str, str] | None = None) -> Path:
    """Typing that is not committed yet."""
    return state_dir(env) / "drafts"


def logs_dir(env: Mapping[str, str] | None = None) -> Path:
    """Log files; never prompts, completions or keys."""
    return state_dir(env) / "logs"


def packed_dir(env: Mapping[str, str] | None = None) -> Path:
    """Packed (quantised once) weights."""
    return cache_dir(env) / "packed"


def kv_dir(env: Mapping[str, str] | None = None) -> Path:
    """KV blocks of long texts, and the ids of those texts."""
    return cache_dir(env) / "kv"


def search_index(env: Mapping[str, str] | None = None) -> Path:
    """The disposable full-text index over sessions."""
    return cache_dir(env) / "search.sqlite"


def user_themes_dir(env: Mapping[str, str] | None = None) -> Path:
    """The user's own themes, `*.toml`."""
    return config_dir(env) / "themes"


def themes_dir() -> Path:
    """The themes that ship: inside the package when built into a wheel, else the repository's
    (editable install).
    """
    packaged = _PACKAGE / "themes"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "themes"


def demo_dir() -> Path:
    """The small model that ships."""
    return _PACKAGE / "demo"
