"""Ids of sessions, nodes and generations, and random seeds."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Final

SEEDS: Final = 2**64
_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
SESSION_START: Final = b'{"k":"head","fmt":"qwen-tui.session"'
"""The first bytes of a session file."""
_ULID = re.compile(r"^[0-9A-HJKMNP-TV-Z]{26}", re.IGNORECASE)


def crockford(value: int, length: int) -> str:
    """`value` in Crockford's base 32, `length` digits."""
    return "".join(_BASE32[value >> 5 * place & 31] for place in reversed(range(length)))


def ulid(unix_ms: int, random: int) -> str:
    """A ULID: 48 bits of Unix milliseconds, then 80 of `random`; 26 characters, sorting by time."""
    return crockford(unix_ms % 2**48 << 80 | random % 2**80, 26)


def fresh_id() -> str:
    """A random id of 60 bits for a node or a generation."""
    return crockford(secrets.randbits(60), 12).lower()


def fresh_seed() -> int:
    """A random 64-bit seed."""
    return secrets.randbits(64)


def id_of(path: Path) -> str:
    """The session id in a file's name, "" without one."""
    found = _ULID.match(path.name)
    return found[0].upper() if found else ""


def created(id: str) -> float:
    """The time in a ULID, Unix seconds; 0.0 for anything else."""
    if not _ULID.match(id):
        return 0.0
    value = 0
    for digit in id[:10].upper():
        value = value * 32 + _BASE32.index(digit)
    return value / 1000


def is_session(path: Path) -> bool:
    """Whether a file is one of our session files, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(SESSION_START)) == SESSION_START
