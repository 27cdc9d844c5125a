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

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from qwen_tui.context_window import Window, dropped_note, fit
from qwen_tui.journal import ids_sha256
from qwen_tui.session.byte_words import next_word, recommit
from qwen_tui.session.discarded import elsewhere
from qwen_tui.session.generations import Run, parameters, sampling_of
from qwen_tui.session.identity import SEEDS, fresh_id, fresh_seed, ulid
from qwen_tui.session.state import State
from qwen_tui.session.tree import Layout, Place
from qwen_tui.types import (
    Added,
    Choice,
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
    Weighed,
    joined,
    text_of,
)

if TYPE_CHECKING:
    from qwen_tui.vocab import Vocab

__all__ = ["Session", "parameters", "recommit", "sampling_of", "ulid"]

MOST_TOKENS: Final = 100_000
MOST_BYTES: Final = 1024 * 1024
"""Largest text of a person that is kept as one node; longer ones are a chain of nodes."""
MOST_WEIGHED: Final = 2_000
"""Most tokens whose probabilities are kept as one entry."""


class Session(State):
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
        super().__init__(vocab=vocab)
        self.sink = sink
        self._ids = ids
        self._seeds = seeds

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

    # -- the document ------------------------------------------------------------------------------

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
        """Add text as a node; a very long one as a chain of nodes, so that each is one line that
        every reader takes. Returns the id of the last.
        """
        id = ""
        for run in _portions(tokens):
            id = self._ids()
            self._do(Added(id, place.node, place.at, source, role, text_of(run), tuple(run)))
            place = Place(id, place.at + len(run))
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
        window: Window | None = None,
        note: Callable[[str], None] | None = None,
    ) -> Request:
        """The request that goes on from the document, its seed settled, fitted into `window`.

        An empty document gets its seed token first; tokens the vocabulary would spell otherwise
        (text without ids, another tokenizer's, one cut by a stop string) are encoded anew. `heal`
        backs up so that the last word can be completed freely. `note` is told in a line when the
        prompt had to be shortened. Raises Trouble when it does not fit and may not be.
        """
        self.settle()
        prompt: tuple[Token, ...] = tuple(self.tokens)
        prefix = b""
        if heal and self.vocab is not None and prompt:
            prompt, prefix = self.vocab.heal(prompt)
        if sampling.seed is None:
            sampling = replace(sampling, seed=self._seeds() % SEEDS)
        if window is not None:
            whole = len(prompt)
            prompt, max_tokens = fit(
                prompt,
                max_tokens,
                window.tokens,
                window.truncate,
                window.explicit,
                shortens=window.shortens,
            )
            said = dropped_note(whole, len(prompt), window.truncate)
            if said and note is not None:
                note(said)
        return Request(
            prompt,
            sampling,
            max_tokens,
            stop,
            choices,
            branches,
            score,
            prefix,
            ignore_eos,
            elsewhere(self.tree, self.head),
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
            for at in range(0, len(scored), MOST_WEIGHED):
                some = scored[at : at + MOST_WEIGHED]
                rows = tuple(tuple((c.id, c.logprob) for c in token.choices) for token in some)
                logprobs = tuple(token.logprob for token in some)
                first = start - part.node.at + at
                self._do(Weighed(part.node.id, first, logprobs, rows if any(rows) else ()))

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

    def abandon(self, generation: str) -> None:
        """Stop expecting events of a generation; without its end it counts as interrupted."""
        if generation in self.runs:
            self.runs[generation].live = False
            self._version += 1

    # -- taking, leaving, choosing -----------------------------------------------------------------

    def show(self, node: str) -> None:
        """Make one of `completions()` the one that is shown; the document stays."""
        self._move(Place(node, min(self.head.at, self.tree.length(node))))

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
        if not tail:
            return False
        count = max(1, layout.boundary(next_word(layout.text)))
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


def _portions(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """The tokens in runs of a bounded size, at least one run."""
    start = size = 0
    for index, token in enumerate(tokens):
        if index > start and (index - start >= MOST_TOKENS or size + len(token.data) > MOST_BYTES):
            yield tokens[start:index]
            start, size = index, 0
        size += len(token.data)
    yield tokens[start:]
