"""The key of a server: read from a variable or a private file, never shown.

Law: a key appears only in the header of a request to its own server.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from qwen_tui.settings import Endpoint
from qwen_tui.types import BAD_CONFIG, NO_INPUT, NO_PERMISSION, Trouble

MOST_BYTES: Final = 16 << 10
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Key:
    """A key that prints as dots, so that no log, traceback or debugger shows it."""

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "Key(…)" if self._secret else "Key()"

    def __bool__(self) -> bool:
        return bool(self._secret)

    def headers(self) -> dict[str, str]:
        """The header that carries it."""
        return {"Authorization": f"Bearer {self._secret}"} if self._secret else {}

    def hidden(self, text: str) -> str:
        """A text from the server without the key, should it repeat it."""
        return text.replace(self._secret, "…") if self._secret else text


def read(endpoint: Endpoint, env: Mapping[str, str] | None = None) -> Key:
    """The endpoint's key, empty if it names none; Trouble if it is missing or its file is readable
    by others.
    """
    env = os.environ if env is None else env
    if endpoint.key_env:
        secret = env.get(endpoint.key_env, "").strip()
        if not secret:
            raise Trouble(
                f"the variable {endpoint.key_env} is empty, and the key of {endpoint.label} "
                "should be in it",
                code=BAD_CONFIG,
            )
        return _checked(secret, endpoint.key_env)
    if endpoint.key_file:
        return _checked(_from_file(Path(endpoint.key_file).expanduser()), endpoint.key_file)
    return Key("")


def _from_file(path: Path) -> str:
    try:
        if not path.is_file():
            raise Trouble(f"there is no file {path} with a key in it", code=NO_INPUT)
        if os.name == "posix" and path.stat().st_mode & _OTHERS:
            raise Trouble(
                f"others may read the key in {path}",
                hint=f"chmod 600 {path}",
                code=NO_PERMISSION,
            )
        with path.open("rb") as stream:
            return stream.read(MOST_BYTES).decode("utf-8", "replace").strip()
    except OSError as error:
        raise Trouble(f"{path} cannot be read: {error.strerror}", code=NO_PERMISSION) from None


def _checked(secret: str, where: str) -> Key:
    if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise Trouble(f"what stands in {where} is no key: one ASCII word", code=BAD_CONFIG)
    return Key(secret)
