"""The session: a tree of text, where its head stands, and what generations do to it.

Law: state changes in `apply(entry)` and nowhere else; every command only adds entries, hands each
to `sink`, and applies it. A session from a file is `for entry in entries: session.apply(entry)`.

The document is `path(head.node)[:head.at]`. What the head's node holds beyond `at` is its *tail*: a
completion not accepted yet, or text that was stepped back from. So accepting, rejecting, undo and
changing to a sibling only move the head, and are remembered by the file. An empty document is
seeded by a node of role "seed" holding `<|endoftext|>`: an ordinary first token of the context,
folded out of the text, as the tokens of a chat template are (`tree.FOLDED`).
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from qwen_tui.journal import ids_sha256, pieces, utf8
from qwen_tui.session.runs import Branch, Run
from qwen_tui.session.tree import Layout, Node, Piece, Place, Tree
from qwen_tui.types import (
    Added,
    Choice,
    Emitted,
    Entry,
    Environment,
    Event,
    Happened,
    Head,
    Hidden,
    Marked,
    Mode,
    Moved,
    Prefilled,
    Progress,
    Request,
    Sampling,
    Scored,
    Source,
    Started,
    Titled,
    Token,
    Trouble,
    Unknown,
    Weighed,
    joined,
    text_of,
)

if TYPE_CHECKING:
    from qwen_tui.vocab import Vocab

SEEDS: Final = 2**64
_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_WORD = re.compile(r"\s*(?:[^\W_]+(?:['’_-][^\W_]+)*|[^\w\s]+|_+)?")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Scripts written without spaces between words: there a word is what one token says."""


def crockford(value: int, length: int) -> str:
    """`value` in Crockford's base 32, `length` digits."""
    return "".join(_BASE32[value >> 5 * place & 31] for place in reversed(range(length)))


def ulid(unix_ms: int, random: int) -> str:
    """A ULID: 48 bits of Unix milliseconds, then 80 of `random`; 26 characters, sorting by time."""
    return crockford(unix_ms % 2**48 << 80 | random % 2**80, 26)


def fresh_id() -> str:
    """A random id of 60 bits for a node or a generation."""
    return crockford(secrets.randbits(60), 12).lower()


def fresh_seed() -> int:
    """A random 64-bit seed."""
    return secrets.randbits(64)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a chat on the head's path: the nodes that hold it and its text."""

    role: str
    text: str
    nodes: tuple[str, ...]


class Session:
    """One session: its tree, its head, its generations, and the commands that move them on.

    `vocab` may be None (a server that gives text only, a session opened without its model) and may
    be set later. `sink` receives every new entry, in order, after it was applied. `ids` and `seeds`
    give fresh ids and seeds. Not thread-safe: one thread owns a session.
    """

    def __init__(
        self,
        *,
        vocab: Vocab | None = None,
        sink: Callable[[Entry], None] | None = None,
        ids: Callable[[], str] = fresh_id,
        seeds: Callable[[], int] = fresh_seed,
    ) -> None:
        self.vocab = vocab
        self.sink = sink
        self._ids = ids
        self._seeds = seeds
        self.followed = False
        """Another process writes this session: what has no end may still be running there."""
        self.id = ""
        self.app = ""
        self.title = ""
        self.tags: tuple[str, ...] = ()
        self.tree = Tree()
        self.head = Place(None, 0)
        self.environments: dict[str, Environment] = {}
        self.runs: dict[str, Run] = {}
        self.entries: list[Entry] = []
        self._undo: list[Place] = []
        self._redo: list[Place] = []
        self._version = 0
        self._read: tuple[Place, str, Layout | None] | None = None

    @classmethod
    def new(
        cls,
        *,
        title: str = "",
        app: str = "",
        vocab: Vocab | None = None,
        sink: Callable[[Entry], None] | None = None,
        clock: Callable[[], float] = time.time,
        ids: Callable[[], str] = fresh_id,
        seeds: Callable[[], int] = fresh_seed,
        bits: Callable[[int], int] = secrets.randbits,
    ) -> Session:
        """A fresh session with its head entry; `clock` gives Unix seconds."""
        session = cls(vocab=vocab, sink=sink, ids=ids, seeds=seeds)
        session._do(Head(ulid(int(clock() * 1000), bits(80)), title=title, app=app))
        return session

    # -- entries -----------------------------------------------------------------------------------

    def _do(self, entry: Entry) -> None:
        self.apply(entry)
        if self.sink is not None:
            self.sink(entry)

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
                    self.title = self.title or entry.title
            case Titled():
                self.title, self.tags = entry.title, entry.tags
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
        if entry.generation in self.runs:
            return
        for branch, id in enumerate(entry.nodes):
            node = self._model_node(id)
            node.generation, node.branch = entry.generation, branch
        first = self.tree[entry.nodes[0]] if entry.nodes else None
        place = Place(first.parent, first.at) if first else Place(None, 0)
        self.runs[entry.generation] = Run(entry, place, [Branch(id) for id in entry.nodes])

    def _model_node(self, id: str) -> Node:
        if id not in self.tree:
            self.tree.warnings.append(f"node {id} is missing: its text stands at the root")
            self.tree.add(Added(id, None, 0, "model"))
        return self.tree[id]

    def _branch(self, generation: str, branch: int) -> tuple[Run, Branch]:
        """The branch an event belongs to; stood in for when its start is lost."""
        run = self.runs.get(generation)
        if run is None:
            self.tree.warnings.append(f"the start of generation {generation} is lost")
            started = Started(generation, (), "", {}, {})
            run = self.runs[generation] = Run(started, Place(None, 0), [])
        while len(run.branches) <= branch:
            id = f"{generation}/{len(run.branches)}"
            node = self._model_node(id)
            node.generation, node.branch = generation, len(run.branches)
            run.branches.append(Branch(id))
        return run, run.branches[branch]

    def _happened(self, entry: Happened) -> None:
        event = entry.event
        if isinstance(event, Prefilled):
            if entry.generation in self.runs:
                self.runs[entry.generation].prefilled = event
            return
        run, branch = self._branch(entry.generation, event.branch)
        run.progress = None
        if isinstance(event, Emitted):
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
        vocab = self.vocab
        return vocab.data(id) if vocab is not None and 0 <= id < vocab.size else b""

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
    def _text_of(parts: Sequence[Piece]) -> str:
        runs: list[list[Token]] = [[]]
        for part in parts:
            if part.node.folded:
                runs.append([])
            else:
                runs[-1].extend(part.tokens)
        return "".join(text_of(run) for run in runs)

    def parts(self, place: Place | None = None) -> list[Piece]:
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

    def measure(self, text: str) -> int:
        """How many tokens the context would hold if the document were `text`; changes nothing."""
        if text == self.text:
            return self.head.at
        tokens, places = self._shown_tokens()
        kept, rest = self._recommit(tokens, text)
        return self._fork_at(kept, places, text) + len(rest)

    # -- writing -----------------------------------------------------------------------------------

    def commit(self, text: str, source: Source | None = None) -> str | None:
        """Make `text` the document; returns the new node's id, None when nothing changed.

        Keeps the longest run of tokens that the new text still begins with, backed off to the start
        of the word being edited; the rest becomes a node that forks there. A text that only grew is
        source "user", any other "edit", unless `source` says so ("file" for an opened file).
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
        """Where a text that keeps `kept` of the shown tokens leaves the path: folded tokens before
        the first one that goes stay, except before the very first.
        """
        if kept == 0 or not text:
            return 0
        if kept < len(places):
            return places[kept]
        return places[-1] + 1

    def _role_at(self, at: int) -> str | None:
        """The role of the text at path place `at`: that of the shown node it lies in or follows."""
        parts = self.parts()
        for part in parts:
            if part.stop > at and not part.node.folded:
                return part.node.role
        shown = [part.node.role for part in parts if not part.node.folded]
        return shown[-1] if shown else None

    def _add(
        self, place: Place, tokens: Sequence[Token], source: Source, role: str | None = None
    ) -> str:
        id = self._ids()
        self._do(
            Added(id, place.node, place.at, source, role, text_of(tokens), tuple(tokens)),
        )
        return id

    def _move(self, place: Place) -> None:
        if place != self.head:
            self._do(Moved(*place))

    def _bare(self, place: Place) -> Place:
        """The same place with no tail: an empty edit node stands in where its holder goes on."""
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
        """Append a chat turn a person made: template tokens, the turn's text, template tokens.

        `before` closes the last turn and opens this one; `after` closes it and opens the answer.
        Returns the id of the turn's own node; the head stands after everything.
        """
        place = self._bare(self.head)
        made = ""
        for run, part, kind in (
            (before, "template", "import"),
            (tokens, role, source),
            (after, "template", "import"),
        ):
            if run or part == role:
                id = self._add(place, run, kind, part)  # type: ignore[arg-type]
                made = id if part == role else made
                place = Place(id, self.tree.length(id))
        self._move(place)
        return made

    def turns(self) -> list[Turn]:
        """The chat turns of the head's path, tail included; text outside turns has role ""."""
        out: list[Turn] = []
        joins = False
        for part in self.tree.chain(self.head.node):
            if part.node.folded:
                joins = False
                continue
            role = part.node.role or ""
            text = text_of(part.tokens)
            if joins and out and out[-1].role == role:
                last = out.pop()
                text, nodes = last.text + text, (*last.nodes, part.node.id)
            else:
                nodes = (part.node.id,)
            out.append(Turn(role, text, nodes))
            joins = True
        return out

    # -- generating --------------------------------------------------------------------------------

    def request(
        self,
        sampling: Sampling,
        *,
        max_tokens: int = 256,
        stop: tuple[str, ...] = (),
        choices: int = 0,
        branches: int = 1,
        ignore_eos: bool = False,
        score: bool = False,
        heal: bool = False,
    ) -> Request:
        """The request that goes on from the document, its seed settled.

        An empty document gets its seed token first; tokens the vocabulary would spell otherwise
        (text without ids, another tokenizer's, one cut by a stop string) are encoded anew. `heal`
        backs up so that the last word can be completed freely.
        """
        self.settle()
        prompt: tuple[Token, ...] = tuple(self.tokens)
        prefix = b""
        if heal and self.vocab is not None and prompt:
            prompt, prefix = self.vocab.heal(prompt)
        if sampling.seed is None:
            sampling = replace(sampling, seed=self._seeds() % SEEDS)
        return Request(
            prompt, sampling, max_tokens, stop, choices, branches, score, prefix, ignore_eos
        )

    def settle(self) -> None:
        """Make the document's tokens ones that the vocabulary can be asked to go on from."""
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
        """Encode the document anew from the run of one role that holds path token `odd`."""
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

    def start(
        self,
        request: Request,
        environment: Environment,
        mode: Mode = "complete",
        *,
        rng: str = "",
    ) -> tuple[str, tuple[str, ...]]:
        """Begin a generation from the document: (its id, one new model node per branch).

        The head moves to the first node, at the place it forks: the text stays, the completion is
        the tail. `rng` names the source of the draws. Raises ValueError when the seed is not
        settled.
        """
        if request.sampling.seed is None:
            raise ValueError("a request is started with its seed settled: see Session.request")
        if environment.id not in self.environments:
            self._do(environment)
        at = self.head.at
        if request.prefix:
            at -= self._healed(request)
        place = self.tree.resolve(self.head.node, at)
        nodes = tuple(self._ids() for _ in range(request.branches))
        role = "assistant" if mode == "chat" else None
        for node in nodes:
            self._do(Added(node, place.node, place.at, "model", role))
        generation = self._ids()
        prompt = {"n": len(request.prompt), "sha256": ids_sha256(request.prompt)}
        params = parameters(request) | {"rng": rng}
        self._do(Started(generation, nodes, environment.id, prompt, params, mode))
        self.runs[generation].live = True
        self._move(Place(nodes[0], place.at))
        return generation, nodes

    def _healed(self, request: Request) -> int:
        """How many of the document's last tokens spell the request's prefix."""
        tokens = self.tokens
        count, size = 0, 0
        while size < len(request.prefix) and count < len(tokens):
            count += 1
            size += len(tokens[-count].data)
        return count if size == len(request.prefix) else 0

    def happen(self, generation: str, event: Event) -> None:
        """An event of a running generation. Progress is shown and not kept; what comes after a
        branch's end is dropped.
        """
        run = self.runs[generation]
        if isinstance(event, Progress):
            run.progress = event
            self._version += 1
        elif isinstance(event, Scored):
            self._scored(run, event)
        elif isinstance(event, Prefilled) or not run.branches[event.branch].finished:
            self._do(Happened(generation, event))

    def _scored(self, run: Run, event: Scored) -> None:
        """Note the probabilities of the prompt on the nodes of the path that hold it."""
        last = event.start + len(event.tokens)
        for part in self.tree.chain(*run.place):
            start, stop = max(part.start, event.start), min(part.stop, last)
            if start >= stop or part.node.source == "model":
                continue
            scored = event.tokens[start - event.start : stop - event.start]
            own = part.node.tokens[start - part.node.at : stop - part.node.at]
            if [token.id for token in scored] != [token.id for token in own]:
                continue
            rows = tuple(tuple((c.id, c.logprob) for c in token.choices) for token in scored)
            self._do(
                Weighed(
                    part.node.id,
                    start - part.node.at,
                    tuple(token.logprob for token in scored),
                    rows if any(rows) else (),
                )
            )

    def regenerate(self, sampling: Sampling, **values: Any) -> Request:
        """Step back to where the shown (or just accepted) completion began and request another.

        Under a fixed seed the new one is the old seed + 1, or the next that no sibling used.
        `values` are those of `request`. Without a completion it is `request`.
        """
        node = self.completion or self._accepted()
        if node is None or self.tree[node].source != "model":
            return self.request(sampling, **values)
        self._move(Place(node, self.tree[node].at))
        if sampling.seed is not None:
            sampling = replace(sampling, seed=self._next_seed(node, sampling.seed))
        return self.request(sampling, **values)

    def _accepted(self) -> str | None:
        return self.tree.resolve(*self.head).node

    def _next_seed(self, node: str, fixed: int) -> int:
        run = self.runs.get(self.tree[node].generation or "")
        used = {
            run.seed
            for id in self.tree.siblings(node)
            if (run := self.runs.get(self.tree[id].generation or ""))
        }
        own = run.seed if run is not None and run.seed is not None else fixed
        seed = (own + 1) % SEEDS
        while seed in used:
            seed = (seed + 1) % SEEDS
        return seed

    @property
    def running(self) -> list[Run]:
        """The generations of this process that have not ended."""
        return [run for run in self.runs.values() if run.running]

    def run_of(self, node: str) -> Run | None:
        """The generation that fills a node; None for a person's."""
        return self.runs.get(self.tree[node].generation or "")

    def branch_of(self, node: str) -> Branch | None:
        """The branch of its generation that fills a node."""
        run = self.run_of(node)
        index = self.tree[node].branch
        return run.branches[index] if run is not None and index < len(run.branches) else None

    def is_interrupted(self, node: str) -> bool:
        """A model's node whose generation neither ended nor runs here: go on with `resume`."""
        found = self.tree[node]
        run = self.run_of(node)
        if self.followed:
            return False
        return found.source == "model" and found.reason is None and not (run and run.running)

    def interrupted(self) -> list[str]:
        """Ids of the shown nodes whose generation was interrupted."""
        return [id for id in self.tree.nodes if self.is_interrupted(id) and self.tree.is_shown(id)]

    def resume(self, node: str) -> int:
        """Accept all that an interrupted node holds, so that a request goes on from its last token.
        Returns n of "continue from token n".
        """
        self.accept(node)
        return len(self.tree[node].tokens)

    def abandon(self, generation: str) -> None:
        """Stop expecting events of a generation; without its end it counts as interrupted."""
        if generation in self.runs:
            self.runs[generation].live = False
            self._version += 1

    # -- taking, leaving, choosing -----------------------------------------------------------------

    @property
    def tail(self) -> list[Token]:
        """What the head's node holds beyond the document."""
        return self.tree.path(self.head.node)[self.head.at :]

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

    def shown_tokens(self, node: str) -> Sequence[Token]:
        """The tokens by which a completion goes on from the head: its own, beyond the head."""
        found = self.tree[node]
        return found.tokens[max(0, self.head.at - found.at) :]

    def show(self, node: str) -> None:
        """Make one of `completions()` the one that is shown; the document stays."""
        self._move(Place(node, min(self.head.at, self.tree.length(node))))

    def accept_end(self, node: str) -> int:
        """Path length up to which a node is accepted: all but an eos token that ended it."""
        found = self.tree[node]
        return found.end - (1 if found.reason == "eos" and found.tokens else 0)

    def accept(self, node: str | None = None, upto: int | None = None) -> bool:
        """Move the completion (or `node`) into the document: all of it but an ending eos, or its
        first `upto` own tokens. Accepting while it streams takes what is there. False when there is
        nothing to take.
        """
        if node is None:
            if self.completion is None:
                return False
            node = self.head.node
            assert node is not None
        end = self.accept_end(node)
        at = end if upto is None else min(end, self.tree[node].at + upto)
        if at <= self.head.at and self.head.node == node:
            return False
        self._move(Place(node, at))
        return True

    def accept_word(self) -> bool:
        """Move the tail's next word into the document, to the next token border that splits no
        character.
        """
        id = self.head.node
        tail = self.tail
        if id is None or not tail:
            return False
        tail = tail[: self.accept_end(id) - self.head.at]
        layout = Layout(tail)
        found = _WORD.match(layout.text)
        word = found[0] if found else ""
        size = len(word)
        if unspaced := _UNSPACED.search(word):
            size = unspaced.start() or 1
        if not tail:
            return False
        count = max(1, layout.boundary(max(1, size)))
        self._move(Place(id, self.head.at + count))
        return True

    def reject(self) -> bool:
        """Leave the completion: it stays in the tree, the document stays as it is."""
        if self.completion is None:
            return False
        self._move(self._bare(self.head))
        return True

    def fork(self, node: str, index: int, choice: Choice) -> str:
        """Take another token in place of the node's own token `index`; the head stands after it.

        Returns the id of the new "choice" node. Raises Trouble when the bytes of the alternative
        are not known.
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
        made = self._add(place, (token,), "choice", role)
        pairs = tuple((other.id, other.logprob) for other in row)
        self._do(Weighed(made, 0, (choice.logprob,), (pairs,) if pairs else ()))
        self._move(Place(made, self.tree.length(made)))
        return made

    # -- walking -----------------------------------------------------------------------------------

    @property
    def can_undo(self) -> bool:
        """There is a step to take back."""
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        """There is a step that was taken back."""
        return bool(self._redo)

    def undo(self) -> bool:
        """Move the head to where it was before its last step, typed and generated alike."""
        if self._undo:
            self._do(Moved(*self._undo[-1]))
            return True
        return False

    def redo(self) -> bool:
        """Move the head to where it was before the last undo."""
        if self._redo:
            self._do(Moved(*self._redo[-1]))
            return True
        return False

    def go(self, node: str | None, at: int | None = None) -> None:
        """Stand after `at` tokens of a node's path; None: at its end. Raises KeyError."""
        length = self.tree.length(node)
        self._move(Place(node, length if at is None else max(0, min(at, length))))

    def siblings(self) -> list[str]:
        """What `next` and `previous` turn through: the completions of the head's place, or, when
        nothing goes on from there, the siblings of the node the head stands at the end of.
        """
        if here := self.completions():
            return here
        node = self._accepted()
        return self.tree.siblings(node) if node is not None else []

    def next(self) -> bool:
        """Turn to the next sibling, round the end. False when there is no other."""
        return self._turn(1)

    def previous(self) -> bool:
        """Turn to the previous sibling, round the start."""
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
        node = self._accepted()
        beside = self.tree.siblings(node) if node is not None else []
        if len(beside) < 2 or node not in beside:
            return False
        other = beside[(beside.index(node) + step) % len(beside)]
        self._move(Place(other, self.accept_end(other)))
        return True

    def parent(self) -> bool:
        """Step back to where the text before the head forked; that text becomes the tail."""
        parts = self.parts()
        if not parts:
            return False
        last = parts[-1]
        self._move(Place(self.head.node, last.start))
        return True

    def child(self) -> bool:
        """Step forward over the next node of the tail, or onto the newest completion."""
        current = self.completion
        if current is None:
            here = self.completions()
            if not here:
                return False
            self.show(here[-1])
            return True
        assert self.head.node is not None
        if current == self.head.node:
            return self.accept()
        parts = self.tree.chain(self.head.node)
        stop = next(part.stop for part in parts if part.stop > self.head.at)
        self._move(Place(self.head.node, stop))
        return True

    # -- about the session -------------------------------------------------------------------------

    def rename(self, title: str, tags: Sequence[str] | None = None) -> None:
        """Give the session a title and, when given, tags."""
        self._do(Titled(title, self.tags if tags is None else tuple(tags)))

    def tag(self, *tags: str) -> None:
        """Make these the session's tags."""
        self._do(Titled(self.title, tags))

    def mark(self, node: str, on: bool = True, label: str = "") -> None:
        """Put a bookmark on a node, or take it away."""
        self._do(Marked(node, on, label))

    def hide(self, node: str, on: bool = True) -> None:
        """No longer show a node and what hangs from it; a head on it steps off."""
        self._do(Hidden(node, on))
        if on and any(part.node.id == node for part in self.tree.chain(self.head.node)):
            found = self.tree[node]
            self._move(self._bare(Place(found.parent, min(found.at, self.head.at))))


def parameters(request: Request) -> dict[str, Any]:
    """Every value that shapes a generation, by its name, as `Started.params` holds them."""
    values: dict[str, Any] = asdict(request.sampling)
    return values | {
        "order": list(request.sampling.order),
        "logit_bias": [list(pair) for pair in request.sampling.logit_bias],
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
        "choices": request.choices,
        "branches": request.branches,
        "ignore_eos": request.ignore_eos,
        "prefix": request.prefix.decode("utf-8", "backslashreplace"),
    }


def sampling_of(params: Mapping[str, Any]) -> Sampling:
    """The sampling values that `Started.params` holds; unknown and unfit ones are left out."""
    fresh = Sampling()
    known: dict[str, Any] = {}
    for name in Sampling.__slots__:
        value = params.get(name)
        wanted = getattr(fresh, name)
        if name == "seed":
            known[name] = value if isinstance(value, int) else None
        elif name == "order" and isinstance(value, list | tuple):
            known[name] = tuple(str(stage) for stage in value)
        elif name == "logit_bias" and isinstance(value, list | tuple):
            known[name] = tuple((int(id), float(bias)) for id, bias in value)
        elif isinstance(wanted, int | float) and isinstance(value, int | float):
            known[name] = type(wanted)(value)
    return Sampling(**known)


def recommit(tokens: Sequence[Token], text: str) -> tuple[int, tuple[Token, ...]]:
    """`Vocab.recommit` where there is no vocabulary: whole tokens stay, the rest is words.

    Backs off to the start of the word being edited, and never cuts a character.
    """
    data = utf8(text)
    kept, size = 0, 0
    for token in tokens:
        if not data.startswith(token.data, size):
            break
        kept += 1
        size += len(token.data)
    while kept and size < len(data) and (data[size : size + 1] not in b" \t\r\n"):
        kept -= 1
        size -= len(tokens[kept].data)
        if size == 0 or tokens[kept].data[:1] in b" \t\r\n":
            break
    return kept, pieces(data[size:].decode("utf-8", "replace"))
