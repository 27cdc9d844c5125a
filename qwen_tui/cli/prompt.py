"""Reads the prompt: from a file, standard input or the command line.

Law: a prompt is never stripped, translated or repaired; what cannot be read exactly is refused with
the offset of the first bad byte.
"""

from __future__ import annotations

import codecs
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from qwen_tui.types import BAD_DATA, IO_ERROR, NO_INPUT, NO_PERMISSION, USAGE, Trouble

MOST_BYTES: Final = 64 << 20
"""Larger than any context; reading an endless device stops here."""

BOM: Final = "\ufeff"
_ESCAPE: Final = re.compile(
    rb"""\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([\\'"0abefnrtv]))"""
)
_LINE_ESCAPE: Final = re.compile(r"\\[nrt](?![a-z])")
_ESCAPES: Final = dict(zip(b"\\'\"0abefnrtv", b"\\'\"\0\a\b\x1b\f\n\r\t\v", strict=True))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's text. `name` is its origin for messages; `source` is recorded in the session;
    `joined`: it begins with a piped text.
    """

    text: str
    name: str
    source: Literal["user", "file"]
    joined: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about it."""
        if self.text.startswith(BOM):
            return (f"{self.name} begins with a byte order mark; it is kept, as a token",)
        return ()


def read(
    file: str | None, text: str | None, *, encoding: str | None = None, escape: bool = False
) -> Prompt:
    """The prompt of `FILE`, `-` (standard input) or `-p`; Trouble if there is none, or two.

    A piped text comes before that of `-p`, with nothing in between. `escape` applies to `-p` only:
    files and pipes are taken as they are.
    """
    if file is not None and text is not None:
        raise Trouble("a FILE and -p are two prompts", hint="leave one of them out", code=USAGE)
    if text is not None:
        before = decoded(_piped_in(), "standard input", encoding)
        return Prompt(before + _argument(text, escape), "the prompt", "user", bool(before))
    if file is None and (sys.stdin is None or sys.stdin.isatty()):
        raise Trouble(
            "there is no prompt",
            hint="name a FILE, pipe a text in, or give one with -p",
            code=USAGE,
        )
    if file in (None, "-"):
        return Prompt(decoded(standard_input(), "standard input", encoding), "-", "user")
    assert file is not None
    return Prompt(decoded(contents(Path(file)), file, encoding), file, "file")


def _piped_in() -> bytes:
    """The text piped in beside another prompt; empty if standard input is closed or not a pipe."""
    if sys.stdin is None or sys.stdin.isatty():
        return b""
    try:
        return standard_input()
    except OSError:
        return b""


def standard_input() -> bytes:
    """All of standard input, up to `MOST_BYTES`."""
    if sys.stdin is None:
        raise Trouble("standard input is closed", code=NO_INPUT)
    return _bounded(sys.stdin.buffer.read(MOST_BYTES + 1), "standard input")


def contents(path: Path) -> bytes:
    """All bytes of a file; Trouble names why it cannot be read."""
    try:
        with path.open("rb") as stream:
            return _bounded(stream.read(MOST_BYTES + 1), str(path))
    except FileNotFoundError:
        raise Trouble(f"{path} does not exist", code=NO_INPUT) from None
    except IsADirectoryError:
        raise Trouble(f"{path} is a folder", code=NO_INPUT) from None
    except PermissionError:
        raise Trouble(f"{path} may not be read", code=NO_PERMISSION) from None
    except OSError as error:
        raise Trouble(f"{path} cannot be read: {error.strerror}", code=IO_ERROR) from None


def decoded(data: bytes, name: str, encoding: str | None = None) -> str:
    """The text of `data`, exactly; Trouble (65) with the offset of the first undecodable byte.

    Without `encoding` it is UTF-8, and a NUL byte means a binary file.
    """
    if encoding is not None:
        return _decoded_as(data, name, encoding)
    for mark, codec in ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16")):
        if data.startswith((mark, mark[::-1])):
            raise Trouble(
                f"{name} is {codec.upper()}, as its first bytes say, not UTF-8: byte offset 0",
                hint=f"--encoding {codec}",
                code=BAD_DATA,
            )
    zero = data.find(b"\0")
    if zero >= 0:
        _decoded_as(data[:zero], name, "utf-8")
        raise Trouble(
            f"{name} is no text: a NUL byte at byte offset {zero}",
            hint="if it is text in another encoding, name it with --encoding",
            code=BAD_DATA,
        )
    return _decoded_as(data, name, "utf-8")


def unescaped(text: str) -> str:
    r"""The text with `\n`, `\t`, `\xHH` (a byte), `\uHHHH` and similar escapes replaced."""

    def meant(match: re.Match[bytes]) -> bytes:
        byte, short, long, letter = match.groups()
        if byte:
            return bytes([int(byte, 16)])
        if letter:
            return bytes([_ESCAPES[letter[0]]])
        try:
            return chr(int(short or long, 16)).encode()
        except (ValueError, OverflowError):
            raise Trouble(f"{match[0].decode()} is no character", code=BAD_DATA) from None

    data = _ESCAPE.sub(meant, text.encode())
    return _decoded_as(data, "the prompt after --escape", "utf-8")


def unescaped_stop(stop: str) -> bool:
    r"""Whether a stop string contains `\n`, `\r` or `\t` as two characters, not as the beginning of
    a word such as `\nabla`.
    """
    return _LINE_ESCAPE.search(stop) is not None


def _bounded(data: bytes, name: str) -> bytes:
    if len(data) > MOST_BYTES:
        raise Trouble(
            f"{name} is larger than {MOST_BYTES >> 20} MiB: no context holds that", code=BAD_DATA
        )
    return data


def _argument(text: str, escape: bool) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        offset = len(text[: error.start].encode("utf-8", "surrogateescape"))
        raise Trouble(f"the prompt is not UTF-8: byte offset {offset}", code=BAD_DATA) from None
    return unescaped(text) if escape else text


def _decoded_as(data: bytes, name: str, encoding: str) -> str:
    try:
        text = data.decode(encoding)
        text.encode()
    except LookupError:
        raise Trouble(f"there is no text encoding {encoding!r}", code=USAGE) from None
    except UnicodeDecodeError as error:
        raise Trouble(
            f"{name} is not {encoding.upper()}: byte 0x{data[error.start]:02x} at byte offset "
            f"{error.start}",
            hint=""
            if encoding != "utf-8"
            else "if it is in another encoding, name it with --encoding",
            code=BAD_DATA,
        ) from None
    except UnicodeEncodeError:
        raise Trouble(f"{name} holds half a surrogate pair", code=BAD_DATA) from None
    return text
