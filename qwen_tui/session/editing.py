"""Text that a person adds to a session: typing, edits, chat turns, and their tokens.

Law: every command only adds entries, applies each and passes it to `sink`; replaced text stays in
the tree.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from qwen_tui.session.byte_words import recommit, word_ends
from qwen_tui.session.document import Document
from qwen_tui.session.identity import fresh_id, fresh_seed
from qwen_tui.session.tree import Place
from qwen_tui.types import Added, Entry, Moved, Source, Token, joined, text_of
from qwen_tui.vocab.alignment import TokenText, to_bytes

if TYPE_CHECKING:
    from qwen_tui.vocab import Vocab

MOST_TOKENS: Final = 100_000
MOST_BYTES: Final = 1024 * 1024
"""Bytes of a person's text that are kept in one node; longer texts become a chain of nodes."""

MOST_STEPS: Final = 100
"""Most undo steps for what was typed before one commit."""


class Editing(Document):
    """A document with the commands that add text.

    `vocab` may be None (a server that gives text only, a session opened without its model) and may
    be set later. `sink` receives every new entry, in order, after it was applied. `ids` and `seeds`
    give fresh ids and seeds.
    """

    def __init__(
        self,
        *,
        vocab: Vocab | None = None,
        sink: Callable[[Entry], None] | None = None,
        ids: Callable[[], str] = fresh_id,
        seeds: Callable[[], int] = fresh_seed,
    ) -> None:
        super().__init__(vocab=vocab)
        self.sink = sink
        self._ids = ids
        self._seeds = seeds
        self._measured: tuple[Place, TokenText, list[int]] | None = None
        """The document that was measured last: its place, its tokens, and their places."""

    # -- entries -----------------------------------------------------------------------------------

    def _do(self, entry: Entry) -> None:
        self.apply(entry)
        if self.sink is not None:
            self.sink(entry)

    # -- the document ------------------------------------------------------------------------------

    def measure(self, text: str) -> int:
        """The number of tokens in the context if the document were `text`; changes nothing."""
        if text == self.text:
            return self.head.at
        if self._measured is None or self._measured[0] != self.head:
            tokens, places = self._shown_tokens()
            self._measured = self.head, TokenText(tokens), places
        _, old, places = self._measured
        if self.vocab is not None:
            kept, count = self.vocab.measure(old, text)
        else:
            kept, rest = recommit(old.tokens, text)
            count = len(rest)
        return self._fork_at(kept, places, text) + count

    # -- writing -----------------------------------------------------------------------------------

    def commit(self, text: str, source: Source | None = None) -> str | None:
        """Make `text` the document; returns the new node's id, None if nothing changed.

        Keeps the longest run of tokens that the new text begins with, backed off to the start of
        the word being edited; the rest becomes a node that forks there. Appended text has source
        "user", any other "edit", unless `source` is given ("file" for an opened file).
        """
        return self._commit(text, source)

    def commit_typing(self, text: str, steps: Sequence[str] = ()) -> str | None:
        """As `commit`, but undone in several steps.

        `steps` are earlier states of the text (where typing paused), oldest first; without them
        appended text is undone word by word. At most `MOST_STEPS` are used.
        """
        if not steps:
            return self._commit(text, None, word_ends(self.text, text, MOST_STEPS))
        node: str | None = None
        last, lengths = "", list[int]()
        for step in (*steps[-MOST_STEPS:], text):
            if not step.startswith(last):
                node = self._commit(last, None, lengths[:-1]) or node
                lengths = []
            lengths.append(len(step))
            last = step
        return self._commit(text, None, lengths[:-1]) or node

    def _commit(self, text: str, source: Source | None, through: Sequence[int] = ()) -> str | None:
        """`commit`, with the head passing through the document of its first `through` characters,
        in ascending order.
        """
        before = self.text
        if text == before:
            return None
        tokens, places = self._shown_tokens()
        kept, rest = self._recommit(tokens, text)
        at = self._fork_at(kept, places, text)
        role = self._role_at(at) if text else None
        node = self._add(
            self.tree.resolve(self.head.node, at),
            rest,
            source or ("user" if text.startswith(before) else "edit"),
            role,
        )
        size = -sum(len(token.data) for token in tokens[:kept])
        ends = list(accumulate(len(token.data) for token in rest))
        last = 0
        for length in through:
            size, last = size + len(to_bytes(text[last:length])), length
            count = bisect_right(ends, size)
            if 0 < count < len(rest) or (size == 0 and length < len(before)):
                self._move(Place(node, at + count))
        self._move(Place(node, self.tree.length(node)))
        return node

    def _recommit(
        self, tokens: Sequence[Token], text: str, *, special: bool = True
    ) -> tuple[int, tuple[Token, ...]]:
        if self.vocab is not None:
            return self.vocab.recommit(tokens, text, special=special)
        return recommit(tokens, text)

    @staticmethod
    def _fork_at(kept: int, places: list[int], text: str) -> int:
        """The path length at which a text that keeps `kept` of the shown tokens forks; folded
        tokens before the first replaced one are kept, except at the very start.
        """
        if kept == 0 or not text:
            return 0
        if kept < len(places):
            return places[kept]
        return places[-1] + 1

    def _role_at(self, at: int) -> str | None:
        """The role of the text at path index `at`: that of the visible node it is in or follows."""
        parts = self.parts()
        for part in parts:
            if part.stop > at and not part.node.folded:
                return part.node.role
        shown = [part.node.role for part in parts if not part.node.folded]
        return shown[-1] if shown else None

    def _add(
        self, place: Place, tokens: Sequence[Token], source: Source, role: str | None = None
    ) -> str:
        """Add text as a node; a very long text as a chain of nodes, since readers limit a line's
        length. Returns the id of the last.
        """
        id = ""
        for run in _portions(tokens):
            id = self._ids()
            self._do(Added(id, place.node, place.at, source, role, text_of(run), tuple(run)))
            place = Place(id, place.at + len(run))
        return id

    def _move(self, place: Place) -> None:
        if place != self.head:
            self._do(Moved(*place, "" if self._meaning(place) == "new" else "new"))

    def _without_tail(self, place: Place) -> Place:
        """The same place without a tail; if its node continues, an empty edit node is added."""
        place = self.tree.resolve(*place)
        if place.node is None or self.tree.length(place.node) == place.at:
            return place
        for id in self.tree.forks(place):
            node = self.tree[id]
            if node.source != "model" and not node.tokens and not node.hidden:
                return Place(id, place.at)
        return Place(self._add(place, (), "edit"), place.at)

    def add_turn(
        self,
        role: str,
        tokens: Sequence[Token],
        *,
        before: Sequence[Token] = (),
        after: Sequence[Token] = (),
        source: Source = "user",
    ) -> str:
        """Append a person's chat turn: template tokens, the turn's text, template tokens.

        `before` closes the previous turn and opens this one; `after` closes it and opens the
        answer. Returns the id of the turn's own node; the head is then after all of it.
        """
        place = self._without_tail(self.head)
        turn = ""
        for run, part, kind in (
            (before, "template", "import"),
            (tokens, role, source),
            (after, "template", "import"),
        ):
            if run or part == role:
                id = self._add(place, run, kind, part)  # type: ignore[arg-type]
                turn = id if part == role else turn
                place = Place(id, self.tree.length(id))
        self._move(place)
        return turn

    def settle(self) -> None:
        """Re-encode the document with this vocabulary where its tokens come from another, so that a
        model can continue it.
        """
        vocab = self.vocab
        if vocab is None:
            return
        if self.head.at == 0:
            if vocab.end_of_text is not None:
                node = self._add(Place(None, 0), (vocab.token(vocab.end_of_text),), "user", "seed")
                self._move(Place(node, 1))
            return
        odd = next(
            (
                place
                for place, token in enumerate(self.tokens)
                if not 0 <= token.id < vocab.size or vocab.data(token.id) != token.data
            ),
            None,
        )
        if odd is not None:
            self._respell(vocab, odd)

    def _respell(self, vocab: Vocab, odd: int) -> None:
        """Encode the document again from the start of the run of one role with path token `odd`."""
        runs: list[tuple[str | None, list[Token], int]] = []
        for part in self.parts():
            if runs and runs[-1][0] == part.node.role:
                runs[-1][1].extend(part.tokens)
            else:
                runs.append((part.node.role, list(part.tokens), part.start))
        place: Place | None = None
        for role, tokens, start in runs:
            if start + len(tokens) <= odd:
                continue
            sound = tokens[: max(0, odd - start)] if place is None else []
            kept, rest = self._encoded(vocab, sound, tokens, special=role != "user")
            if place is None:
                place = self.tree.resolve(self.head.node, start + kept)
            if rest:
                node = self._add(place, rest, "edit", role)
                place = Place(node, self.tree.length(node))
        if place is not None:
            self._move(place)

    @staticmethod
    def _encoded(
        vocab: Vocab, sound: Sequence[Token], tokens: Sequence[Token], *, special: bool
    ) -> tuple[int, tuple[Token, ...]]:
        """How many of the `sound` tokens stay, and what the bytes of the others encode to."""
        try:
            text = joined(tokens).decode("utf-8")
        except UnicodeDecodeError:
            data = joined(tokens[len(sound) :])
            return len(sound), vocab.encode_bytes(data, special=special)
        return vocab.recommit(sound, text, special=special)


def _portions(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """The tokens in runs of a bounded size, at least one run."""
    start = size = 0
    for index, token in enumerate(tokens):
        if index > start and (index - start >= MOST_TOKENS or size + len(token.data) > MOST_BYTES):
            yield tokens[start:index]
            start, size = index, 0
        size += len(token.data)
    yield tokens[start:]
