"""Stop strings across token boundaries: a possible beginning of one is held back, and the cut is
exact.

Law: the bytes of all released tokens, in order, are the text up to the first stop string.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qwen_tui.types import Token


class StopWatch:
    """Watches one branch's tokens for stop strings.

    A token that reaches beyond the cut keeps its id and loses those bytes (all of them, if it lies
    wholly beyond), so that the ids still say what the model produced.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [(stop, stop.encode()) for stop in stops if stop]
        self._held: list[tuple[Token, int]] = []
        self._bytes = b""

    def feed(self, token: Token, ms: int) -> tuple[list[tuple[Token, int]], str]:
        """Add the next token with its time; returns the released tokens, and the stop string that
        was completed, or "".
        """
        self._held.append((token, ms))
        self._bytes += token.data
        places = [
            (place, -len(raw), stop)
            for stop, raw in self._stops
            if (place := self._bytes.find(raw)) >= 0
        ]
        if places:
            cut, _, stop = min(places)
            return self._cut(cut), stop
        return self._settled(len(self._bytes) - self._pending()), ""

    def flush(self) -> list[tuple[Token, int]]:
        """All tokens still held back, when the text ended without a stop string."""
        held, self._held, self._bytes = self._held, [], b""
        return held

    def _pending(self) -> int:
        """How many of the last bytes are the beginning of some stop string."""
        return max(
            (
                size
                for _, raw in self._stops
                for size in range(1, min(len(raw), len(self._bytes) + 1))
                if self._bytes.endswith(raw[:size])
            ),
            default=0,
        )

    def _settled(self, upto: int) -> list[tuple[Token, int]]:
        """Release the held tokens that end at or before byte `upto`."""
        ready = []
        at = 0
        while self._held and at + len(self._held[0][0].data) <= upto:
            token, ms = self._held.pop(0)
            at += len(token.data)
            ready.append((token, ms))
        self._bytes = self._bytes[at:]
        return ready

    def _cut(self, at: int) -> list[tuple[Token, int]]:
        ready = []
        for token, ms in self.flush():
            ready.append((replace(token, data=token.data[: max(0, at)]), ms))
            at -= len(token.data)
        return ready
