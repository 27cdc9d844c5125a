"""Converts a terminal's input bytes to Textual's messages.

Law: a key sequence, whole or truncated, known or not, never becomes text; only typed characters do.
Sequences are split here (ECMA-48), and Textual's parser gets whole ones.
"""

from __future__ import annotations

import re
import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from typing import Final

from textual import constants, events
from textual._parser import ParseError
from textual._xterm_parser import XTermParser
from textual.keys import Keys
from textual.message import Message

ESC: Final = "\x1b"
_SEQUENCE: Final = re.compile(
    "\x1b(?:\\[(?:\\[[A-E]|M...|[0-?]*[ -/]*[@-~])"  # CSI, also the Linux console's and mouse's
    "|O[0-9;]*[@-~]"  # SS3: function keys
    "|[P\\]X^_][^\x07\x18\x1a\x1b]*(?:\x07|\x1b\\\\))",  # a string that a terminal answers with
    re.DOTALL,
)
_BEGUN: Final = re.compile(
    "\x1b(?:\\[(?:\\[|M.{0,2}|[0-?]*[ -/]*)|O[0-9;]*|[P\\]X^_][^\x07\x18\x1a\x1b]*\x1b?)?",
    re.DOTALL,
)
_BROKEN: Final = re.compile("\x1b(?:\\[[0-?]*[ -/]*|O[0-9;]*|[P\\]X^_][^\x07\x18\x1a\x1b]*)")
_LONGEST: Final = 32
"""Longest sequence for Textual's parser; it treats longer ones as typed characters."""
_PASTE_MARKS: Final = ("\x1b[200~", "\x1b[201~")
_MODIFIERS: Final = ("alt+", "ctrl+", "super+", "hyper+", "meta+")
_PARSE_ERRORS: Final = (
    *(ValueError, OverflowError, LookupError, TypeError, AttributeError),
    *(EOFError, ParseError, StopIteration, RuntimeError),
)
"""Exceptions of Textual's parser for sequences it does not expect, such as `CSI 99999999 u`."""


class KeyReader:
    """Feed it the input. A sequence that is unknown, or fails in Textual's parser, is dropped.

    A lone Esc, and Alt with a character that begins sequences, are recognised only after `delay`
    seconds of silence: call `tick` meanwhile. Paste marks in this input are dropped.
    """

    def __init__(
        self,
        debug: bool = False,
        *,
        delay: float = constants.ESCAPE_DELAY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._debug = debug
        self._delay = delay
        self._clock = clock
        self._parser = XTermParser(debug)
        self._decode = getincrementaldecoder("utf-8")("replace").decode
        self._begun = ""
        self._heard = 0.0

    @property
    def waits(self) -> bool:
        """Whether a sequence has begun and not ended."""
        return bool(self._begun)

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages completed by more input."""
        self._heard = self._clock()
        rest, self._begun = self._begun + self._decode(data), ""
        while rest:
            if rest[0] != ESC:
                typed, escape, after = rest.partition(ESC)
                yield from self._parsed(typed)
                rest = escape + after
            elif _BEGUN.fullmatch(rest):
                self._begun, rest = rest, ""
            elif whole := _SEQUENCE.match(rest):
                sequence, rest = whole.group(), rest[whole.end() :]
                known = sequence[1] in "[O" and len(sequence) <= _LONGEST
                if known and sequence not in _PASTE_MARKS:
                    yield from self._parsed(sequence)
            else:
                broken = _BROKEN.match(rest)
                used = broken.end() if broken else 1 if rest[1] == ESC else 2
                yield from self._key(rest[:used])
                rest = rest[used:]

    def tick(self) -> Iterator[Message]:
        """The messages completed by silence."""
        if self._begun and self._clock() - self._heard >= self._delay:
            begun, self._begun = self._begun, ""
            yield from self._key(begun)

    def _key(self, begun: str) -> Iterator[Message]:
        """The keys of an incomplete sequence: Esc, Alt with a character, or nothing."""
        if begun == ESC:
            yield events.Key("escape", ESC)
        elif len(begun) == 2:
            of = self._parser._sequence_to_key_events
            for key in list(of(begun)) or of(begun[1], alt=True):
                if key.is_printable:  # Textual forgets Alt where the character has a name
                    yield events.Key("alt+" + key.key.removeprefix("alt+"), None)
                elif key.key != Keys.Ignore:
                    yield key

    def _parsed(self, sequence: str) -> list[Message]:
        parser = self._parser
        try:
            found = list(parser.feed(sequence))
        except _PARSE_ERRORS:
            found = []
        else:
            if parser._awaiting.timeout is None:
                return list(map(_without_text, found))
        self._parser = XTermParser(self._debug)
        self._parser.mouse_pixels = parser.mouse_pixels
        self._parser.terminal_size = parser.terminal_size
        self._parser.terminal_pixel_size = parser.terminal_pixel_size
        return found


def _without_text(message: Message) -> Message:
    """A key with a modifier must not have a character, or widgets would write it."""
    if not isinstance(message, events.Key) or not message.is_printable:
        return message
    modified = any(modifier in message.key for modifier in _MODIFIERS)
    return events.Key(message.key, None) if modified else message
