"""What a session shows at its head: the document, its completion, and the siblings of that.

Law: derived from the state alone; text that a person wrote is never shown as a completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from qwen_tui.session.state import State
from qwen_tui.session.tree import Layout, PathPart, Place
from qwen_tui.types import Source, Token, text_of

PERSONS: Final[frozenset[Source]] = frozenset({"user", "file", "edit", "import"})
"""Sources of text that no model wrote; a "choice" is an alternative of the model's."""


class Document(State):
    """A session's state, with the properties that depend on its head."""

    # -- the document ------------------------------------------------------------------------------

    @property
    def tokens(self) -> list[Token]:
        """The document's tokens with the folded ones: exactly what a model is sent."""
        return self.tree.path(*self.head)

    @property
    def text(self) -> str:
        """The text up to the head, without folded tokens."""
        return self._reading()[0]

    def layout(self) -> Layout:
        """The mapping between characters and tokens of the document. Read only."""
        text, layout = self._reading()
        if layout is None:
            layout = Layout()
            for part in self.parts():
                layout.extend(part.tokens, folded=part.node.folded)
            self._read = (self.head, text, layout)
        return layout

    def _reading(self) -> tuple[str, Layout | None]:
        # The text before a place never changes, so the place is the key.
        if self._read is None or self._read[0] != self.head:
            self._read = (self.head, self._text_of(self.parts()), None)
        return self._read[1], self._read[2]

    @staticmethod
    def _text_of(parts: Sequence[PathPart]) -> str:
        runs: list[list[Token]] = [[]]
        for part in parts:
            if part.node.folded:
                runs.append([])
            else:
                runs[-1].extend(part.tokens)
        return "".join(text_of(run) for run in runs)

    def parts(self, place: Place | None = None) -> list[PathPart]:
        """The nodes of the document (or of the path to `place`), root first."""
        return self.tree.chain(*(self.head if place is None else place))

    def locate(self, position: int) -> tuple[str, int]:
        """The node and the index in its own tokens of token `position` of the head's path, tail
        included. IndexError beyond its end.
        """
        end = self.tree.length(self.head.node)
        if not 0 <= position < end:
            raise IndexError(position)
        owner = self.tree.resolve(self.head.node, position + 1)
        assert owner.node is not None
        return owner.node, position - self.tree[owner.node].at

    def _shown_tokens(self) -> tuple[list[Token], list[int]]:
        """The document's tokens without folded ones, and the index of each on the path."""
        tokens: list[Token] = []
        places: list[int] = []
        for part in self.parts():
            if not part.node.folded:
                tokens.extend(part.tokens)
                places.extend(range(part.start, part.stop))
        return tokens, places

    def turns(self) -> list[tuple[str, str]]:
        """(role, text) of the document's chat turns, without the tentative answer; text outside
        turns has role "". Folded tokens end a turn.
        """
        out: list[tuple[str, str]] = []
        joins = False
        for part in self.parts():
            if part.node.folded:
                joins = False
                continue
            role, text = part.node.role or "", text_of(part.tokens)
            if joins and out[-1][0] == role:
                out[-1] = (role, out[-1][1] + text)
            else:
                out.append((role, text))
            joins = True
        return out

    # -- the completion ----------------------------------------------------------------------------

    @property
    def tail(self) -> list[Token]:
        """The tokens of the shown completion: the rest of the head's path after the document, up to
        the next text by a person.
        """
        id, at = self.head
        return self.tree.after(id, at)[: self._tail_stop() - at]

    def _tail_stop(self) -> int:
        """The path length where the shown completion ends; the head's own if there is none."""
        id, at = self.head
        stop = self.tree.length(id)
        parts: list[tuple[Source, int]] = []
        while id is not None and stop > at:
            node = self.tree[id]
            if node.at < stop:
                parts.append((node.source, stop))
                stop = node.at
            id = node.parent
        end = at
        for source, stop in reversed(parts):
            if source in PERSONS:
                break
            end = stop
        return end

    @property
    def completion(self) -> str | None:
        """The node of the shown completion: the one with the tail's first token, or a model's node
        that has none yet. None without a completion.
        """
        id, at = self.head
        if id is None:
            return None
        if self.tree.length(id) > at:
            first = self.tree.resolve(id, at + 1).node
            return first if first and self.tree[first].source not in PERSONS else None
        node = self.tree[id]
        return id if node.source == "model" and node.at == at else None

    @property
    def tentative(self) -> bool:
        """Whether a completion is shown that is not accepted yet."""
        return self.completion is not None

    def completions(self) -> list[str]:
        """All completions that fork at the head, oldest first: the tabs of the output pane. A
        finished one without text is included only while it is shown.
        """
        place = self.tree.resolve(*self.head)
        out = []
        if place.node is not None and self.tree.length(place.node) > place.at:
            out.append(place.node)
        out += self.tree.shown(place)
        shown = self.completion
        models = (id for id in out if self.tree[id].source not in PERSONS)
        return [id for id in models if id == shown or not self.is_empty(id)]

    def is_empty(self, node: str) -> bool:
        """Whether a model's node has no text and will get none: stopped before its first token, or
        ended at once.
        """
        found = self.tree[node]
        if found.source != "model" or self.accept_end(node) > found.at or self.followed:
            return False
        run = self.generation_of(node)
        return found.reason is not None or run is None or not run.running

    def accept_end(self, node: str) -> int:
        """The path length up to which accepting a node takes it: all but a final eos token."""
        found = self.tree[node]
        return found.end - (1 if found.reason == "eos" and found.tokens else 0)

    def siblings(self) -> list[str]:
        """The nodes that `next` and `previous` cycle through: the completions at the head, or, if
        there are none, the siblings of the accepted completion that ends there. A person's text has
        none, so it is never replaced.
        """
        if here := self.completions():
            return here
        node = self._accepted()
        if node is None or self.tree[node].source in PERSONS:
            return []
        return [id for id in self.tree.siblings(node) if self.tree[id].source not in PERSONS]

    def token_at(self, offset: int) -> tuple[int, Token] | None:
        """The document's token at a character offset, and its index on the path (see `locate`);
        None beyond the end.
        """
        layout, tokens = self.layout(), self.tokens
        index = layout.token(offset)
        return (index, tokens[index]) if 0 <= index < len(tokens) else None

    def hidden(self) -> list[str]:
        """The nodes that were hidden and can be shown again, in the order they were added."""
        return [id for id, node in self.tree.nodes.items() if node.hidden]

    def _accepted(self) -> str | None:
        return self.tree.resolve(*self.head).node
