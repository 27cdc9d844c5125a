"""Servers by name (`[engines.NAME]`) or by address: URL, model, and key.

Law: an address never contains a key; a key is read when it is sent, and only for the scheme, host
and port it was given for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

LOCAL: Final = ("local", "torch")
"""Values of `engine` that mean the models on this machine."""
KEYS: Final = ("url", "model", "tokenizer", "key_env", "key_file", "ca_file", "priority")
"""The keys that a table `[engines.NAME]` may have."""
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server. `name` is "" if only its address was given.

    `model` is its id on the server ("": the server's only or first one), `tokenizer` the local
    model with the same tokenizer ("": found by the model's id). The key is in the variable
    `key_env` or in the file `key_file`; `ca_file` has certificates to trust besides the system's.
    `priority` is vLLM's (lower runs first).
    """

    url: str = field(repr=False)
    name: str = ""
    model: str = ""
    tokenizer: str = ""
    key_env: str = ""
    key_file: str = ""
    ca_file: str = ""
    priority: int = 0

    @property
    def label(self) -> str:
        """Its name, else host and port."""
        return self.name or self.host_port

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: what a key is bound to."""
        return origin(self.url)

    @property
    def host_port(self) -> str:
        """The host, with the port unless it is the scheme's default."""
        scheme, host, port = self.origin
        shown = f"[{host}]" if ":" in host else host
        return shown if port == _PORTS[scheme] else f"{shown}:{port}"

    @property
    def private(self) -> bool:
        """Whether the host is this machine or an address of a private network."""
        host = self.origin[1]
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or address.is_private or address.is_link_local


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a checked address."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme]


def is_address(engine: str) -> bool:
    """Whether `engine` is an address rather than a name."""
    return "://" in engine


def checked_url(value: object) -> str:
    """An address without a trailing slash or `/v1`; ValueError says what is wrong with it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"an address as http://host:port is wanted, not {value!r}")
    try:
        parts = urlsplit(value.strip())
        port = parts.port
    except ValueError as error:
        raise ValueError(f"the address cannot be read: {error}") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("an address begins with http:// or https:// and names a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a key does not belong in an address; name it with key_env or key_file")
    if parts.query or parts.fragment:
        raise ValueError("an address has no ? and no #")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = f"{host}:{port}" if port is not None else host
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{place}{path}"


def checked_engine(value: object) -> str:
    """A value of the setting `engine`: `local`, a name, or an address."""
    if isinstance(value, str) and is_address(value):
        return checked_url(value)
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("local, a name under [engines], or a server's http:// address is wanted")
    return value


def endpoint(name: str, table: object) -> Endpoint:
    """The server of a table `[engines.NAME]`; ValueError says what is wrong in it."""
    if not _NAME.fullmatch(name) or name in LOCAL:
        raise ValueError("a name is letters, digits, dot, dash or underscore, and not `local`")
    if not isinstance(table, Mapping):
        raise ValueError("a table is wanted")
    unknown = sorted(set(table) - set(KEYS))
    if unknown:
        raise ValueError(f"there is no {unknown[0]!r} (there are {', '.join(KEYS)})")
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key == "url":
            values[key] = checked_url(value)
        elif key == "priority":
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError("priority is a whole number")
            values[key] = value
        elif not isinstance(value, str) or "\0" in value:
            raise ValueError(f"{key} is a text")
        else:
            values[key] = value
    if "url" not in values:
        raise ValueError("url is missing")
    return Endpoint(name=name, **values)


def chosen(engine: str, engines: Mapping[str, Endpoint]) -> Endpoint | None:
    """The server that `engine` names; None for this machine; KeyError for an unknown name.

    The address of a named server means that server; another address with the same scheme, host and
    port gets its key.
    """
    if engine in LOCAL:
        return None
    if not is_address(engine):
        return engines[engine]
    for each in engines.values():
        if each.url == engine:
            return each
    for each in engines.values():
        if each.origin == origin(engine):
            return replace(each, url=engine, name="", model="", tokenizer="")
    return Endpoint(engine)
