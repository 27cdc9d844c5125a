"""Ids and seeds: what names a session, a node and a generation, and what makes one repeatable."""

from __future__ import annotations

import secrets
from typing import Final

SEEDS: Final = 2**64
_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


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
