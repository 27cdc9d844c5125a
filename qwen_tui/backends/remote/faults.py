"""Errors of a server in words for a person: statuses, broken connections, error objects.

Law: nothing is retried here; a delay that the server requests is reported to the person.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from typing import Any, Final

import httpx2

from qwen_tui.types import (
    BAD_DATA,
    GENERIC,
    NO_INPUT,
    NO_PERMISSION,
    TEMPORARY,
    UNAVAILABLE,
    Reason,
    Trouble,
)

MOST_TOLD: Final = 500
"""Most characters of a server's own words that are repeated."""


class Fault(Trouble):
    """A failure of a server or of the connection; `reason` is how a branch ends by it."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: int = UNAVAILABLE,
        reason: Reason = "failed",
        status: int = 0,
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.reason = reason
        self.status = status


_STATUS: Final[Mapping[int, tuple[str, str, int]]] = {
    400: ("refuses the request", "", BAD_DATA),
    401: ("wants a key", "name it with key_env or key_file under [engines.NAME]", NO_PERMISSION),
    403: ("forbids it", "this key may not use this model or address", NO_PERMISSION),
    404: ("has no such model or address", "qwen-tui engines probe shows what there is", NO_INPUT),
    405: ("does not take completions there", "is the address right?", NO_INPUT),
    413: ("finds the prompt too large", "shorten it, or --truncate left", BAD_DATA),
    422: ("does not understand a value of the request", "", BAD_DATA),
    429: ("has too many requests", "try again later", TEMPORARY),
    500: ("failed inside", "its own log says more", UNAVAILABLE),
    502: ("is not reachable behind its proxy", "", UNAVAILABLE),
    503: ("is not ready", "it may still be loading its model", TEMPORARY),
    504: ("did not answer its proxy in time", "", UNAVAILABLE),
}


def of_status(label: str, status: int, headers: Mapping[str, str], body: bytes) -> Fault:
    """The failure for a status other than 200; `body` is the response's."""
    if 300 <= status < 400:
        where = headers.get("location", "nowhere")
        return Fault(
            f"{label} sends us on to {where[:200]}; nothing was sent there",
            hint="put that address into the settings if it is the right one",
            status=status,
        )
    kind = "failed" if status >= 500 else "refuses the request"
    said, hint, code = _STATUS.get(status, (kind, "", UNAVAILABLE if status >= 500 else GENERIC))
    words = told(body)
    wait = headers.get("retry-after", "")
    if wait:
        hint = f"it asks to wait {wait} s" if wait.isdigit() else f"it asks to wait until {wait}"
    message = f"{label} {said} ({status})" + (f": {words}" if words else "")
    return Fault(message, hint=hint, code=code, status=status)


def told(body: bytes) -> str:
    """The server's own words in an error's body, or ""."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return words_of(found)


def words_of(found: Any) -> str:
    """The message in an error object of any of the servers we know."""
    if isinstance(found, Mapping):
        for name in ("error", "message", "detail", "msg"):
            if found.get(name):
                return words_of(found[name])
        return ""
    if isinstance(found, list):
        return "; ".join(filter(None, map(words_of, found[:3])))
    return " ".join(str(found).split())[:MOST_TOLD] if isinstance(found, str) else ""


def in_stream(label: str, data: Mapping[str, Any]) -> Fault | None:
    """The failure in an object of the stream; None for any other object."""
    error = data.get("error")
    if not error and data.get("object") != "error":
        return None
    words = words_of(data) or "without a word why"
    status = error.get("code") if isinstance(error, Mapping) else None
    code = _STATUS[status][2] if isinstance(status, int) and status in _STATUS else UNAVAILABLE
    return Fault(f"{label} failed: {words}", code=code)


def of_transport(label: str, error: httpx2.HTTPError, stall: float) -> Fault:
    """The failure of a connection."""
    certificate = _certificate(error)
    if certificate is not None:
        return Fault(
            f"the certificate of {label} cannot be trusted: {certificate}",
            hint="ca_file under [engines.NAME] names certificates to trust besides the system's",
        )
    match error:
        case httpx2.ConnectTimeout():
            return Fault(f"{label} does not answer", hint="is the server up, the address right?")
        case httpx2.ConnectError():
            return Fault(
                f"{label} cannot be reached: {error}", hint="is the server up, the address right?"
            )
        case httpx2.ReadTimeout() | httpx2.WriteTimeout():
            return Fault(
                f"{label} has sent nothing for {stall:g} seconds",
                hint="--stall SECONDS waits longer, --stall 0 for ever",
                reason="eof",
            )
        case httpx2.SSEError():
            return Fault(f"{label} does not send a stream of events: {error}")
        case httpx2.DecodingError():
            return Fault(f"{label} sends what cannot be unpacked: {error}")
        case _:
            return cut_off(label, str(error))


def cut_off(label: str, why: str = "") -> Fault:
    """The stream ended before its completion did."""
    more = f" ({why})" if why else ""
    return Fault(
        f"cut off: {label} ended the stream before the completion{more}",
        hint="what had come is kept; continue from there",
        reason="eof",
    )


def _certificate(error: BaseException) -> str | None:
    """What is wrong with a certificate, if that is behind an error."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return seen.verify_message or str(seen)
        if isinstance(seen, ssl.SSLError):
            return seen.reason or str(seen)
        seen = seen.__cause__ or seen.__context__
    return None
