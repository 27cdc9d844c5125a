"""Append-only branching text: a node forks its parent's path at a token offset.

Law: `path(node) == path(parent)[:at] + tokens(node)`; `at` counts tokens of the whole path. Nodes
and tokens are only ever added. Entries of a damaged or hostile file are repaired, with a warning.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from qwen_tui.types import Added, Choice, Reason, Source, Token
from qwen_tui.vocab.decoder import Decoder

FOLDED: Final = frozenset({"template", "seed"})
"""Roles whose tokens are in the context but not in the document's text: a chat template's tokens
around a turn, and the `<|endoftext|>` that begins an empty document."""

GAP: Final = Token(-1, "\ufffd".encode())
"""The first of a run of lost tokens; the others are `LOST`, so that offsets stay correct."""
LOST: Final = Token(-1, b"")
MOST_LOST: Final = 1_000_000
"""Most placeholders for lost tokens in a session."""
_CACHED_PATHS = 4


@dataclass(slots=True, eq=False)
class Node:
    """One run of text. `at` and `end` count tokens of its path; `tokens` only grows.

    `reason` is how its generation ended: None for a person's text, and for one that is running or
    was interrupted. `gaps` are (index, count) of tokens that a damaged file lost. `jump` is a
    distant ancestor, with which any ancestor is found in O(log depth) steps.
    """

    id: str
    parent: str | None
    at: int
    source: Source
    role: str | None = None
    tokens: list[Token] = field(default_factory=list)
    generation: str | None = None
    branch: int = 0
    reason: Reason | None = None
    gaps: list[tuple[int, int]] = field(default_factory=list)
    children: list[str] = field(default_factory=list)
    depth: int = 0
    jump: str | None = None
    missing: bool = False
    hidden: bool = False
    marked: bool = False
    label: str = ""

    @property
    def end(self) -> int:
        """Length of the node's path in tokens."""
        return self.at + len(self.tokens)

    @property
    def folded(self) -> bool:
        """Whether it is in the context but not in the text."""
        return self.role in FOLDED


class Place(NamedTuple):
    """A point in the tree: after `at` tokens of the path of `node`; None, 0: the empty document."""

    node: str | None
    at: int


class PathPart(NamedTuple):
    """The part of a path in one node: path tokens `start` … `stop` (exclusive)."""

    node: Node
    start: int
    stop: int

    @property
    def tokens(self) -> list[Token]:
        """The tokens of the part."""
        return self.node.tokens[self.start - self.node.at : self.stop - self.node.at]


class Tree:
    """All nodes of a session. Nothing here recurses, so depth is unlimited."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.warnings: list[str] = []
        self.left_out = 0
        """Lost tokens without a placeholder, because a file claims too many."""
        self._room = MOST_LOST
        self._forks: dict[Place, list[str]] = {}
        self._paths: OrderedDict[str, list[Token]] = OrderedDict()

    def __contains__(self, id: object) -> bool:
        return id in self.nodes

    def __getitem__(self, id: str) -> Node:
        return self.nodes[id]

    def __len__(self) -> int:
        return len(self.nodes)

    # -- growing -----------------------------------------------------------------------------------

    def add(self, entry: Added) -> Node:
        """Add a node to the tree, repairing an entry that cannot be true:

        the parent becomes the node with path token `at - 1`; an unknown parent becomes a root of
        lost tokens; an `at` beyond the parent's end is reduced; an id that exists already is left
        as it was.
        """
        known = self.nodes.get(entry.id)
        if known is not None:
            return self._again(known, entry)
        if entry.parent == entry.id:
            self.warnings.append(f"node {entry.id} is its own parent: taken as a root")
            place = Place(None, 0)
        else:
            place = self.resolve(self._parent(entry), entry.at)
        node = Node(entry.id, place.node, place.at, entry.source, entry.role, list(entry.tokens))
        self._attach(node)
        return node

    def _attach(self, node: Node) -> None:
        self.nodes[node.id] = node
        self._forks.setdefault(Place(node.parent, node.at), []).append(node.id)
        if node.parent is None:
            return
        parent = self.nodes[node.parent]
        parent.children.append(node.id)
        node.depth = parent.depth + 1
        # Skew-binary jump pointers (Myers, "An applicative random-access stack", 1983).
        over = self.nodes[parent.jump] if parent.jump else None
        far = self.nodes[over.jump] if over and over.jump else None
        if over and far and parent.depth - over.depth == over.depth - far.depth:
            node.jump = far.id
        else:
            node.jump = parent.id

    def _parent(self, entry: Added) -> str | None:
        if entry.parent is None or entry.parent in self.nodes:
            return entry.parent
        self.warnings.append(f"node {entry.parent} is unknown: its children are put at the root")
        holder = Node(entry.parent, None, 0, "import", missing=True)
        self._attach(holder)
        if entry.at:
            self._lose(holder, entry.at)
        return holder.id

    def _again(self, known: Node, entry: Added) -> Node:
        """A second entry with a node's id: fills a placeholder root, else changes nothing."""
        if known.missing and entry.parent is None and len(entry.tokens) >= len(known.tokens):
            known.tokens[:] = entry.tokens
            known.source, known.role, known.missing = entry.source, entry.role, False
            known.gaps.clear()
            self._paths.clear()
        elif known.missing or (known.parent, known.at) != (entry.parent, entry.at):
            self.warnings.append(f"node {entry.id} comes twice: the first one is kept")
        return known

    def extend(self, id: str, index: int, tokens: Sequence[Token]) -> int:
        """Put `tokens` at index `index` of the node's own tokens; existing ones are kept.

        Missing tokens before them become a visible gap. Returns how many tokens were added.
        """
        node = self.nodes[id]
        have = len(node.tokens)
        if index > have:
            self._lose(node, index - have)
        fresh = tokens[max(0, len(node.tokens) - index) :] if index < have else tokens
        node.tokens.extend(fresh)
        return len(fresh)

    def _lose(self, node: Node, count: int) -> None:
        believed = count if count <= self._room else 1
        self._room -= believed
        self.left_out += count - believed
        node.gaps.append((len(node.tokens), count))
        node.tokens.append(GAP)
        node.tokens.extend([LOST] * (believed - 1))
        self.warnings.append(f"{count} tokens of node {node.id} are lost")

    def weigh(
        self,
        id: str,
        start: int,
        logprobs: Sequence[float | None],
        choices: Sequence[tuple[Choice, ...]] = (),
    ) -> None:
        """Record logprobs and alternatives of the node's tokens from `start`; None changes
        nothing.
        """
        tokens = self.nodes[id].tokens
        for i, logprob in enumerate(logprobs[: max(0, len(tokens) - start)]):
            row = choices[i] if i < len(choices) else ()
            if logprob is not None:
                tokens[start + i] = replace(
                    tokens[start + i], logprob=logprob, choices=row, stale=False
                )
        self._paths.clear()

    # -- reading -----------------------------------------------------------------------------------

    def length(self, id: str | None) -> int:
        """Tokens of the path of a node; 0 for None."""
        return 0 if id is None else self.nodes[id].end

    def resolve(self, id: str | None, at: int) -> Place:
        """The same place, named by the node with the token before it; (None, 0) at the start.

        Raises KeyError for an unknown node; `at` is limited to the path's length.
        """
        at = min(at, self.length(id))
        while id is not None:
            node = self.nodes[id]
            if node.at < at:
                return Place(id, at)
            far = node.jump
            id = far if far is not None and self.nodes[far].at >= at else node.parent
        return Place(None, 0)

    def chain(self, id: str | None, at: int | None = None) -> list[PathPart]:
        """The nodes on a path, root first, each with its part (never empty)."""
        stop = self.length(id) if at is None else min(at, self.length(id))
        out: list[PathPart] = []
        while id is not None:
            node = self.nodes[id]
            if node.at < stop:
                out.append(PathPart(node, node.at, stop))
                stop = node.at
            id = node.parent
        out.reverse()
        return out

    def path(self, id: str | None, at: int | None = None) -> list[Token]:
        """The tokens from the root to the node's end, or the first `at` of them. A fresh list."""
        if id is None:
            return []
        return self._full(id)[:at]

    def after(self, id: str | None, at: int) -> list[Token]:
        """The tokens of the node's path from index `at` on. A fresh list."""
        return [] if id is None else self._full(id)[at:]

    def shared_path(self, id: str) -> list[Token]:
        """As `path`, but the tree's own list: read only, and only until the next call."""
        return self._full(id)

    def _full(self, id: str) -> list[Token]:
        chain: list[Node] = []
        base: list[Token] = []
        step: str | None = id
        while step is not None:
            node = self.nodes[step]
            found = self._paths.get(step)
            if found is not None:
                found.extend(node.tokens[len(found) - node.at :])
                if step == id:
                    self._paths.move_to_end(id)
                    return found
                base = found.copy()
                break
            chain.append(node)
            step = node.parent
        for node in reversed(chain):
            del base[node.at :]
            base.extend(node.tokens)
        self._paths[id] = base
        if len(self._paths) > _CACHED_PATHS:
            self._paths.popitem(last=False)
        return base

    def forks(self, place: Place) -> list[str]:
        """Ids of the nodes that fork at a place, in the order they were added, hidden ones too."""
        return list(self._forks.get(self.resolve(*place), ()))

    def shown(self, place: Place) -> list[str]:
        """As `forks`, without the hidden ones."""
        return [id for id in self.forks(place) if not self.nodes[id].hidden]

    def siblings(self, id: str) -> list[str]:
        """The visible nodes that fork at the same place, this one too, oldest first."""
        node = self.nodes[id]
        return self.shown(Place(node.parent, node.at))

    def roots(self) -> list[str]:
        """Ids of the nodes without a parent."""
        return list(self._forks.get(Place(None, 0), ()))

    def children(self, id: str) -> list[str]:
        """Ids of a node's children, in order of where they fork."""
        return sorted(self.nodes[id].children, key=lambda child: self.nodes[child].at)

    def is_shown(self, id: str) -> bool:
        """Whether neither the node nor an ancestor is hidden."""
        step: str | None = id
        while step is not None:
            node = self.nodes[step]
            if node.hidden:
                return False
            step = node.parent
        return True


class Layout:
    """The mapping between characters and tokens of a run of tokens, extended as it grows.

    A character whose bytes are in several tokens belongs to the first of them. Folded tokens have
    no characters. Bytes that are not UTF-8 show as U+FFFD, as in `types.text_of`.
    """

    def __init__(self, tokens: Iterable[Token] = ()) -> None:
        self.starts: list[int] = []
        self._cut: set[int] = set()
        self._parts: list[str] = []
        self._size = 0
        self._decoder = Decoder()
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self.starts)

    def extend(self, tokens: Iterable[Token], *, folded: bool = False) -> None:
        """Append tokens; `folded` ones have no characters."""
        if folded:
            self._flush()
            self.starts.extend(self._size for _ in tokens)
            return
        decoder = self._decoder
        for token in tokens:
            if decoder.pending:
                self._cut.add(len(self.starts))
            self.starts.append(self._size + bool(decoder.pending))
            if text := decoder.feed(token.data):
                self._parts.append(text)
                self._size += len(text)

    def _flush(self) -> None:
        if text := self._decoder.flush():
            self._parts.append(text)
            self._size += len(text)

    @property
    def text(self) -> str:
        """The run's characters."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return "".join(self._parts) + ("\ufffd" if self._decoder.pending else "")

    @property
    def size(self) -> int:
        """Number of characters."""
        return self._size + bool(self._decoder.pending)

    def span(self, index: int) -> tuple[int, int]:
        """Character offsets (start, stop) of token `index`; empty for one that only completes a
        character.
        """
        stop = self.starts[index + 1] if index + 1 < len(self.starts) else self.size
        return self.starts[index], stop

    def token(self, offset: int) -> int:
        """Index of the token that the character at `offset` belongs to; the number of tokens at or
        beyond the end.
        """
        if offset >= self.size:
            return len(self.starts)
        return bisect_right(self.starts, offset) - 1

    def boundary(self, offset: int) -> int:
        """The smallest number of tokens that has all characters before `offset` and splits none."""
        index = self.token(offset)
        while index < len(self.starts) and (self.starts[index] < offset or index in self._cut):
            index += 1
        return index
