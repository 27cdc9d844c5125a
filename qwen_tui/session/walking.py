"""Moves of a session's head: accepting, choosing, undoing, walking the tree.

Law: a move adds one entry and destroys nothing; what is left behind stays in the tree.
"""

from __future__ import annotations

from dataclasses import replace

from qwen_tui.session.byte_words import next_word
from qwen_tui.session.editing import Editing
from qwen_tui.session.tree import Layout, Place
from qwen_tui.types import Choice, Hidden, Moved, Step, Token, Trouble, Weighed


class Walking(Editing):
    """A session's editing, with the commands that move its head."""

    # -- taking, leaving, choosing -----------------------------------------------------------------

    def show(self, node: str) -> None:
        """Show another one of `completions()`; the document stays."""
        self._move(Place(node, min(self.head.at, self.tree.length(node))))

    def accept(self, node: str | None = None, upto: int | None = None) -> bool:
        """Move the completion (or `node`) into the document: all of it but a final eos, or its
        first `upto` own tokens. While it streams, accepts what is there. False if there is nothing
        to accept.
        """
        if node is None:
            if self.completion is None:
                return False
            node = self.head.node
            assert node is not None
        end = self.accept_end(node)
        if node == self.head.node and self._tail_stop() > self.head.at:
            end = min(end, self._tail_stop())
        at = end if upto is None else min(end, self.tree[node].at + upto)
        if at <= self.head.at and self.head.node == node:
            return False
        self._move(Place(node, at))
        return True

    def accept_word(self) -> bool:
        """Move the tail's next word into the document, to the next token boundary that splits no
        character.
        """
        id = self.head.node
        tail = self.tail
        if id is None or not tail:
            return False
        tail = tail[: self.accept_end(id) - self.head.at]
        layout = Layout(tail)
        if not tail:
            return False
        count = max(1, layout.boundary(next_word(layout.text)))
        self._move(Place(id, self.head.at + count))
        return True

    def reject(self) -> bool:
        """Leave the completion: it stays in the tree, and the document is unchanged."""
        if self.completion is None:
            return False
        self._move(self._without_tail(self.head))
        return True

    def fork(self, node: str, index: int, choice: Choice) -> str:
        """Replace the node's own token `index` by an alternative; the head is then after it.

        Returns the id of the new "choice" node. Raises Trouble if the alternative's bytes are
        unknown.
        """
        found = self.tree[node]
        data = choice.data or self._spell(choice.id)
        if not data:
            raise Trouble(
                f"the bytes of token {choice.id} are not known",
                hint="open the session with the model that made it",
            )
        row = found.tokens[index].choices if index < len(found.tokens) else ()
        token = Token(choice.id, data, choice.logprob, row)
        place = self.tree.resolve(node, found.at + index)
        role = found.role if not found.folded else None
        fork = self._add(place, (token,), "choice", role)
        pairs = tuple((other.id, other.logprob) for other in row)
        self._do(Weighed(fork, 0, (choice.logprob,), (pairs,) if pairs else ()))
        self._move(Place(fork, self.tree.length(fork)))
        return fork

    # -- walking -----------------------------------------------------------------------------------

    def undo(self) -> bool:
        """Undo the last step: a move of the head, or hiding a node with the move that it caused."""
        if not self._undo:
            return False
        step = self._undo[-1]
        self._take(step, "undo")
        if isinstance(step, Place) and self._undo:
            before = self._undo[-1]
            if isinstance(before, Hidden) and not before.on and self._on(step, before.node):
                self._take(before, "undo")
        return True

    def redo(self) -> bool:
        """Redo the last undone step."""
        if not self._redo:
            return False
        step = self._redo[-1]
        self._take(step, "redo")
        if isinstance(step, Hidden) and step.on and self._on(self.head, step.node) and self._redo:
            self._take(self._redo[-1], "redo")
        return True

    def _take(self, taken: Place | Hidden, step: Step) -> None:
        if self._meaning(taken) == step:
            step = ""
        if isinstance(taken, Hidden):
            self._do(replace(taken, step=step))
        else:
            self._do(Moved(*taken, step))

    def _on(self, place: Place, node: str) -> bool:
        return any(part.node.id == node for part in self.tree.chain(place.node))

    def go(self, node: str | None, at: int | None = None) -> None:
        """Move the head after `at` tokens of a node's path; None: to its end. Raises KeyError."""
        length = self.tree.length(node)
        self._move(Place(node, length if at is None else max(0, min(at, length))))

    def next(self) -> bool:
        """Switch to the next sibling, cyclically. False if there is no other."""
        return self._turn(1)

    def previous(self) -> bool:
        """Switch to the previous sibling, cyclically."""
        return self._turn(-1)

    def _turn(self, step: int) -> bool:
        if here := self.completions():
            current = self.completion
            if current is None:
                self.show(here[0 if step > 0 else -1])
                return True
            if len(here) < 2 or current not in here:
                return False
            self.show(here[(here.index(current) + step) % len(here)])
            return True
        node, siblings = self._accepted(), self.siblings()
        if node is None or len(siblings) < 2 or node not in siblings:
            return False
        other = siblings[(siblings.index(node) + step) % len(siblings)]
        self._move(Place(other, self.accept_end(other)))
        return True

    def parent(self) -> bool:
        """Move back to where the text before the head forked; that text becomes the tail."""
        parts = self.parts()
        if not parts:
            return False
        last = parts[-1]
        self._move(Place(self.head.node, last.start))
        return True

    def child(self) -> bool:
        """Move forward over the next node of the tail, or to the newest completion."""
        id, at = self.head
        if self.tree.length(id) > at:
            if self.completion == id:
                return self.accept()
            stop = next(part.stop for part in self.tree.chain(id) if part.stop > at)
            self._move(Place(id, stop))
            return True
        if self.completion is not None:
            return False
        if here := self.completions():
            self.show(here[-1])
            return True
        typed = [each for each in self.tree.shown(self.head) if self.tree[each].tokens]
        if not typed:
            return False
        self.go(typed[-1])
        return True

    def hide(self, node: str, on: bool = True) -> None:
        """Hide a node and its descendants; a head on it moves off."""
        entry = Hidden(node, on)
        self._do(entry if self._meaning(entry) == "new" else replace(entry, step="new"))
        if on and self._on(self.head, node):
            found = self.tree[node]
            self._move(self._without_tail(Place(found.parent, min(found.at, self.head.at))))

    def unhide(self, node: str) -> None:
        """Show a hidden node and its descendants again."""
        self.hide(node, on=False)
