"""What a session's entries amount to: the tree, the head, the document, the generations.

Law: state changes in `apply(entry)` and nowhere else, so a session from a file is
`for entry in entries: state.apply(entry)`; what damaged files say is mended, never raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from qwen_tui.session.generations import BranchState, GenerationState
from qwen_tui.session.tree import Layout, Node, PathPart, Place, Tree
from qwen_tui.types import (
    Added,
    Choice,
    Emitted,
    Entry,
    Environment,
    Happened,
    Head,
    Hidden,
    Marked,
    Moved,
    Prefilled,
    Progress,
    Started,
    Titled,
    Token,
    Unknown,
    Weighed,
    text_of,
)

if TYPE_CHECKING:
    from qwen_tui.vocab import Vocab


MOST_TITLE: Final = 1_000
"""Most characters of a title or tag that are used; a file may hold longer ones."""
MOST_TAGS: Final = 100


class State:
    """What the entries so far amount to. Changed by `apply` alone; see `Session` for commands.

    The document is `path(head.node)[:head.at]`. What the head's node holds beyond `at` is its tail:
    a completion that is not accepted yet, or text that was stepped back from. An empty document
    begins with a node of role "seed" that holds `<|endoftext|>`: an ordinary first token of the
    context, folded out of the text, as the tokens of a chat template are (`tree.FOLDED`).
    """

    def __init__(self, *, vocab: Vocab | None = None) -> None:
        self.vocab = vocab
        self.followed = False
        """Another process writes this session: what has no end may still be running there."""
        self.id = ""
        self.app = ""
        self.title = ""
        self.tags: tuple[str, ...] = ()
        self.tree = Tree()
        self.head = Place(None, 0)
        self.environments: dict[str, Environment] = {}
        self.generations: dict[str, GenerationState] = {}
        self.entries: list[Entry] = []
        self._undo: list[Place] = []
        self._redo: list[Place] = []
        self._spellings: dict[int, bytes] = {}
        self._version = 0
        self._read: tuple[Place, str, Layout | None] | None = None

    # -- entries -----------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Grows with every entry: what was derived from an older version may be stale."""
        return self._version

    @property
    def warnings(self) -> Sequence[str]:
        """What had to be mended while applying entries."""
        return self.tree.warnings

    def apply(self, entry: Entry | Progress) -> None:
        """The one function that changes state. Takes any entry of any file without raising."""
        if isinstance(entry, Progress):
            return
        self._version += 1
        self.entries.append(entry)
        match entry:
            case Happened():
                self._happened(entry)
            case Added():
                if entry.id in self.tree:
                    self._read = None
                self.tree.add(entry)
            case Moved():
                self._moved(entry)
            case Started():
                self._started(entry)
            case Weighed():
                self._weighed(entry)
            case Environment():
                self.environments[entry.id] = entry
            case Head():
                if not self.id:
                    self.id, self.app = entry.id, entry.app
                    self.title = self.title or entry.title[:MOST_TITLE]
            case Titled():
                self.title = entry.title[:MOST_TITLE]
                self.tags = tuple(tag[:MOST_TITLE] for tag in entry.tags[:MOST_TAGS])
            case Marked():
                if entry.node in self.tree:
                    node = self.tree[entry.node]
                    node.marked, node.label = entry.on, entry.label
            case Hidden():
                if entry.node in self.tree:
                    self.tree[entry.node].hidden = entry.on
            case Unknown():
                pass

    def _moved(self, entry: Moved) -> None:
        if entry.node is not None and entry.node not in self.tree:
            self.tree.warnings.append(f"the head moved to an unknown node {entry.node}")
            return
        place = Place(entry.node, min(entry.at, self.tree.length(entry.node)))
        if place == self.head:
            return
        # Undo and redo are ordinary moves; which they were is seen from where they lead.
        if self._undo and place == self._undo[-1]:
            self._undo.pop()
            self._redo.append(self.head)
        elif self._redo and place == self._redo[-1]:
            self._redo.pop()
            self._undo.append(self.head)
        else:
            self._undo.append(self.head)
            self._redo.clear()
        self.head = place

    def _started(self, entry: Started) -> None:
        if entry.generation in self.generations:
            return
        for branch, id in enumerate(entry.nodes):
            node = self._model_node(id)
            node.generation, node.branch = entry.generation, branch
        first = self.tree[entry.nodes[0]] if entry.nodes else None
        place = Place(first.parent, first.at) if first else Place(None, 0)
        self.generations[entry.generation] = GenerationState(
            entry, place, [BranchState(id) for id in entry.nodes]
        )

    def _model_node(self, id: str) -> Node:
        if id not in self.tree:
            self.tree.warnings.append(f"node {id} is missing: its text stands at the root")
            self.tree.add(Added(id, None, 0, "model"))
        return self.tree[id]

    def _branch(self, generation: str, branch: int) -> tuple[GenerationState, BranchState]:
        """The branch an event belongs to; stood in for when its start is lost."""
        run = self.generations.get(generation)
        if run is None:
            self.tree.warnings.append(f"the start of generation {generation} is lost")
            started = Started(generation, (), "", {}, {})
            run = self.generations[generation] = GenerationState(started, Place(None, 0), [])
        if branch not in run.by_number:
            id = f"{generation}/{branch}"
            node = self._model_node(id)
            node.generation, node.branch = generation, branch
            run.add(branch, BranchState(id))
        return run, run.by_number[branch]

    def _happened(self, entry: Happened) -> None:
        event = entry.event
        if isinstance(event, Prefilled):
            if entry.generation in self.generations:
                self.generations[entry.generation].prefilled = event
            return
        run, branch = self._branch(entry.generation, event.branch)
        run.progress = None
        if isinstance(event, Emitted):
            for token in event.tokens:
                self._spellings.update((c.id, c.data) for c in token.choices if c.data)
            if self.tree.extend(branch.node, event.index, event.tokens):
                branch.emit(event)
        else:
            branch.finished = event
            self.tree[branch.node].reason = event.reason

    def _weighed(self, entry: Weighed) -> None:
        if entry.node not in self.tree:
            return
        rows = [
            tuple(Choice(id, self._spell(id), logprob) for id, logprob in row)
            for row in entry.choices
        ]
        self.tree.weigh(entry.node, entry.start, entry.logprobs, rows)

    def _spell(self, id: int) -> bytes:
        """The bytes of a token id, by the vocabulary or as this session has seen it; else b""."""
        vocab = self.vocab
        if vocab is not None and 0 <= id < vocab.size:
            return vocab.data(id)
        return self._spellings.get(id, b"")

    # -- the document ------------------------------------------------------------------------------

    @property
    def tokens(self) -> list[Token]:
        """The document's tokens, the folded ones too: exactly what a model would be sent."""
        return self.tree.path(*self.head)

    @property
    def text(self) -> str:
        """The document: text up to the head, without folded tokens."""
        return self._reading()[0]

    def layout(self) -> Layout:
        """Characters ⇄ tokens of the document. Read it, do not grow it."""
        text, layout = self._reading()
        if layout is None:
            layout = Layout()
            for part in self.parts():
                layout.extend(part.tokens, folded=part.node.folded)
            self._read = (self.head, text, layout)
        return layout

    def _reading(self) -> tuple[str, Layout | None]:
        # What stands before a place never changes, so the place is the key.
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
        """The nodes that hold the document (or the path to `place`), root first."""
        return self.tree.chain(*(self.head if place is None else place))

    def locate(self, position: int) -> tuple[str, int]:
        """The node and the index in its own tokens of token `position` of the head's path, tail
        included. Raises IndexError beyond it.
        """
        end = self.tree.length(self.head.node)
        if not 0 <= position < end:
            raise IndexError(position)
        owner = self.tree.resolve(self.head.node, position + 1)
        assert owner.node is not None
        return owner.node, position - self.tree[owner.node].at

    def _shown_tokens(self) -> tuple[list[Token], list[int]]:
        """The document's tokens without folded ones, and the place of each in the path."""
        tokens: list[Token] = []
        places: list[int] = []
        for part in self.parts():
            if not part.node.folded:
                tokens.extend(part.tokens)
                places.extend(range(part.start, part.stop))
        return tokens, places

    def turns(self) -> list[tuple[str, str]]:
        """(role, text) of the document's chat turns, the shown answer left out; text outside turns
        has role "". Folded tokens end a turn.
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

    # -- what goes on from it ----------------------------------------------------------------------

    @property
    def tail(self) -> list[Token]:
        """What the head's node holds beyond the document."""
        return self.tree.after(*self.head)

    @property
    def completion(self) -> str | None:
        """The node that goes on from the head and is shown as its completion: the one that holds
        the tail's first token, or a model's node that has none yet. None when there is no tail.
        """
        id, at = self.head
        if id is None:
            return None
        if self.tree.length(id) > at:
            return self.tree.resolve(id, at + 1).node
        node = self.tree[id]
        return id if node.source == "model" and node.at == at else None

    @property
    def tentative(self) -> bool:
        """There is a completion that is not accepted yet."""
        return self.completion is not None

    def completions(self) -> list[str]:
        """All that goes on from the head's place, oldest first: the tabs of the output pane."""
        place = self.tree.resolve(*self.head)
        out = []
        if place.node is not None and self.tree.length(place.node) > place.at:
            out.append(place.node)
        for id in self.tree.shown(place):
            node = self.tree[id]
            if node.tokens or node.source == "model":
                out.append(id)
        return out

    def accept_end(self, node: str) -> int:
        """Path length up to which a node is accepted: all but an eos token that ended it."""
        found = self.tree[node]
        return found.end - (1 if found.reason == "eos" and found.tokens else 0)

    def siblings(self) -> list[str]:
        """What `next` and `previous` turn through: the completions of the head's place, or, when
        nothing goes on from there, the siblings of the node the head stands at the end of.
        """
        if here := self.completions():
            return here
        node = self._accepted()
        return self.tree.siblings(node) if node is not None else []

    def _accepted(self) -> str | None:
        return self.tree.resolve(*self.head).node

    @property
    def can_undo(self) -> bool:
        """There is a step to take back."""
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        """There is a step that was taken back."""
        return bool(self._redo)

    # -- its generations ---------------------------------------------------------------------------

    @property
    def running(self) -> list[GenerationState]:
        """The generations of this process that have not ended."""
        return [run for run in self.generations.values() if run.running]

    def generation_of(self, node: str) -> GenerationState | None:
        """The generation that fills a node; None for a person's."""
        return self.generations.get(self.tree[node].generation or "")

    def is_interrupted(self, node: str) -> bool:
        """A model's node whose generation neither ended nor runs here: go on with `accept`."""
        found = self.tree[node]
        run = self.generation_of(node)
        if self.followed:
            return False
        return found.source == "model" and found.reason is None and not (run and run.running)

    def interrupted(self) -> list[str]:
        """Ids of the shown nodes whose generation was interrupted."""
        return [id for id in self.tree.nodes if self.is_interrupted(id) and self.tree.is_shown(id)]
