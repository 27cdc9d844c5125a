"""The document's tokens as walked in the inspector.

Law: valid for one place of the head; rebuilt when the head moved or the text was edited.
"""

from __future__ import annotations

from bisect import bisect_right

from qwen_tui.session.session import Session
from qwen_tui.types import Token


class DocumentTokens:
    """The tokens of the document, without a template's, one of which is marked."""

    def __init__(self, session: Session, offset: int) -> None:
        """Mark the token of the character at `offset`, at the end the last one."""
        self.head = session.head
        """The head at the time."""
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
        """The index of the marked token."""

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
        """The marked token's index counted from the document's end: −1 is its last token."""
        return self._places[self.at] - self.head.at if self._places else 0

    def walk(self, steps: int) -> None:
        """Mark the token `steps` further on, at most the first or last one."""
        self.at = max(0, min(self.at + steps, len(self._places) - 1))
