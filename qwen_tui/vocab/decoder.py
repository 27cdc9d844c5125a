"""Token bytes to text, piece by piece: the only incremental UTF-8 decoder of the program.

Law: all pieces joined are `joined bytes .decode("utf-8", "replace")`.
"""

from __future__ import annotations

import codecs


class Decoder:
    """Bytes to text piece by piece; waits for the rest of an incomplete character, shows a bad byte
    as U+FFFD.

    pending: the bytes of an incomplete character (at most three).
    """

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending = b""

    def feed(self, data: bytes) -> str:
        """The characters that these bytes complete."""
        if self.pending:
            data = self.pending + data
        text, used = codecs.utf_8_decode(data, "replace", False)
        self.pending = data[used:]
        return text

    def flush(self) -> str:
        """U+FFFD for an incomplete character, else ""; resets the decoder."""
        text = codecs.utf_8_decode(self.pending, "replace", True)[0]
        self.pending = b""
        return text
