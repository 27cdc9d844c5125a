"""The document's tokens as a person walks them in the inspector.

Law: it holds for one place of the head; where that moved or the text was edited, it is made anew.
"""

from __future__ import annotations

from bisect import bisect_right

from qwen_tui.session.session import Session
from qwen_tui.types import Token


class DocumentTokens:
    """The tokens of the document, a template's left out, of which one is marked."""

    def __init__(self, session: Session, offset: int) -> None:
        """Mark the token that the character at `offset` belongs to, at the end the last one."""
        self.head = session.head
        """Where the head stood."""
        self._layout = session.layout()
        self._tokens = session.tokens
        self._places = [
            place
            for part in session.parts()
            if not part.node.folded
            for place in range(part.start, part.stop)
        ]
        found = session.token_at(offset)
        place = self.head.at if found is None else found[0]
        self.at = max(0, bisect_right(self._places, place) - 1)
        """Which of the tokens is marked."""

    def __len__(self) -> int:
        return len(self._places)

    @property
    def token(self) -> Token | None:
        """The marked token; None in an empty document."""
        return self._tokens[self._places[self.at]] if self._places else None

    @property
    def span(self) -> tuple[int, int]:
        """The characters of the marked token, as offsets in the text; end exclusive."""
        return self._layout.span(self._places[self.at]) if self._places else (0, 0)

    @property
    def from_end(self) -> int:
        """The marked token's place counted from the document's end: −1 is its last token."""
        return self._places[self.at] - self.head.at if self._places else 0

    def walk(self, steps: int) -> None:
        """Mark the token so many further on; beyond an end, the last one there."""
        self.at = max(0, min(self.at + steps, len(self._places) - 1))
