"""The state that a session's entries produce: the tree, the head, the document, the generations.

Law: state changes in `apply(entry)` only, so a session from a file is `for entry in entries:
state.apply(entry)`; entries of damaged files are repaired, never raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from qwen_tui.session.generations import BranchState, GenerationState
from qwen_tui.session.tree import Layout, Node, Place, Tree
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
    Remembered,
    Started,
    Step,
    Titled,
    Unknown,
    Weighed,
)

if TYPE_CHECKING:
    from qwen_tui.vocab import Vocab


MOST_TITLE: Final = 1_000
"""Characters of a title or tag that are used; a file may have longer ones."""
MOST_TAGS: Final = 100


class State:
    """The state after the entries so far. Changed by `apply` alone; see `Session` for commands.

    The document is `path(head.node)[:head.at]`. The rest of the head's node is its tail: a
    completion that is not accepted yet, or text that was stepped back from. An empty document
    begins with a node of role "seed" with `<|endoftext|>`: an ordinary first token of the context,
    folded out of the text like the tokens of a chat template (`tree.FOLDED`).
    """

    def __init__(self, *, vocab: Vocab | None = None) -> None:
        self.vocab = vocab
        self.followed = False
        """Another process writes this session: generations without an end may still be running
        there."""
        self.id = ""
        self.app = ""
        self.title = ""
        self.tags: tuple[str, ...] = ()
        self.tree = Tree()
        self.head = Place(None, 0)
        self.environments: dict[str, Environment] = {}
        self.generations: dict[str, GenerationState] = {}
        self.remembered: dict[str, Any] = {}
        """Values of the interface that the session keeps, by name (`Session.remember`)."""
        self.entries: list[Entry] = []
        self._undo: list[Place | Hidden] = []
        self._redo: list[Place | Hidden] = []
        self._spellings: dict[int, bytes] = {}
        self._version = 0
        self._read: tuple[Place, str, Layout | None] | None = None

    # -- entries -----------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Increases with every entry: values derived from an older version may be stale."""
        return self._version

    @property
    def warnings(self) -> Sequence[str]:
        """What was repaired while applying entries."""
        return self.tree.warnings

    def apply(self, entry: Entry | Progress) -> None:
        """The only function that changes state. Takes any entry of any file without raising."""
        if isinstance(entry, Progress):
            return
        self._version += 1
        self.entries.append(entry)
        match entry:
            case Happened():
                self._happened(entry)
            case Added():
                self._added(entry)
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
                self._hidden(entry)
            case Remembered():
                self.remembered.update(entry.values)
            case Unknown():
                pass

    def _added(self, entry: Added) -> None:
        known = entry.id in self.tree
        if known:
            self._read = None
        node = self.tree.add(entry)
        if entry.source == "edit" and not known:
            self._keep_records(node)

    def _keep_records(self, node: Node) -> None:
        """Copy the logprobs of replaced tokens to a new edit node where it ends with the same
        tokens: an edit re-encodes the text after it, and these records remain, marked as from
        another context.
        """
        if self.head.node is None:
            return
        old, end = self.tree.shared_path(self.head.node), self.head.at
        for back in range(1, min(len(node.tokens), end) + 1):
            was, now = old[end - back], node.tokens[-back]
            if was.id != now.id or was.data != now.data:
                break
            if was.logprob is not None:
                node.tokens[-back] = replace(
                    now, logprob=was.logprob, choices=was.choices, stale=True
                )

    def _hidden(self, entry: Hidden) -> None:
        if entry.node not in self.tree or self.tree[entry.node].hidden == entry.on:
            return
        self.tree[entry.node].hidden = entry.on
        self._step(Hidden(entry.node, entry.on), Hidden(entry.node, not entry.on), entry.step)

    def _step(self, taken: Place | Hidden, back: Place | Hidden, step: Step) -> None:
        """Record how a step is undone."""
        match self._meaning(taken, step):
            case "undo":
                self._undo.pop()
                self._redo.append(back)
            case "redo":
                self._redo.pop()
                self._undo.append(back)
            case _:
                self._undo.append(back)
                self._redo.clear()

    def _meaning(self, taken: Place | Hidden, step: Step = "") -> Step:
        """What a step means for undo: as it says, else inferred from where it leads."""
        if self._undo and (step == "undo" or (not step and taken == self._undo[-1])):
            return "undo"
        if self._redo and (step == "redo" or (not step and taken == self._redo[-1])):
            return "redo"
        return "new"

    def _moved(self, entry: Moved) -> None:
        if entry.node is not None and entry.node not in self.tree:
            self.tree.warnings.append(f"the head moved to an unknown node {entry.node}")
            return
        place = Place(entry.node, min(entry.at, self.tree.length(entry.node)))
        if place == self.head:
            return
        self._step(place, self.head, entry.step)
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
            self.tree.warnings.append(f"node {id} is missing: its text is put at the root")
            self.tree.add(Added(id, None, 0, "model"))
        return self.tree[id]

    def _branch(self, generation: str, branch: int) -> tuple[GenerationState, BranchState]:
        """The branch an event belongs to; created if its start entry is lost."""
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
        """The bytes of a token id, from the vocabulary or from this session's tokens; else b""."""
        vocab = self.vocab
        if vocab is not None and 0 <= id < vocab.size:
            return vocab.data(id)
        return self._spellings.get(id, b"")

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to undo."""
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to redo."""
        return bool(self._redo)

    # -- its generations ---------------------------------------------------------------------------

    @property
    def running(self) -> list[GenerationState]:
        """The generations of this process that have not ended."""
        return [run for run in self.generations.values() if run.running]

    def generation_of(self, node: str) -> GenerationState | None:
        """The generation of a node; None for a person's text."""
        return self.generations.get(self.tree[node].generation or "")

    def is_interrupted(self, node: str) -> bool:
        """Whether a model's node has a generation that neither ended nor runs here (`accept`
        continues it).
        """
        found = self.tree[node]
        run = self.generation_of(node)
        if self.followed:
            return False
        return found.source == "model" and found.reason is None and not (run and run.running)

    def interrupted(self) -> list[str]:
        """Ids of the visible nodes whose generation was interrupted."""
        return [id for id in self.tree.nodes if self.is_interrupted(id) and self.tree.is_shown(id)]
