"""The session: a tree of text with a head, and the generations that extend it.

Law: state changes in `apply(entry)` only; every command only adds entries, applies each, and passes
it to `sink`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from qwen_tui.context_window import Window
from qwen_tui.journal import ids_sha256
from qwen_tui.session.discarded import discarded_ids
from qwen_tui.session.generations import GenerationState, parameters
from qwen_tui.session.identity import SEEDS, fresh_id, fresh_seed, ulid
from qwen_tui.session.tree import Place
from qwen_tui.session.walking import Walking
from qwen_tui.types import (
    Added,
    Entry,
    Environment,
    Event,
    Happened,
    Head,
    Marked,
    Mode,
    Prefilled,
    Progress,
    Remembered,
    Request,
    Sampling,
    Scored,
    Started,
    Titled,
    Token,
    Weighed,
)

if TYPE_CHECKING:
    from qwen_tui.vocab import Vocab

MOST_WEIGHED: Final = 2_000
"""Most tokens whose probabilities are kept as one entry."""


class Session(Walking):
    """One session: its tree, its head, its generations, and the commands on them.

    `vocab` may be None (a server that gives text only, a session opened without its model) and may
    be set later. `sink` receives every new entry, in order, after it was applied. `ids` and `seeds`
    give fresh ids and seeds. Not thread-safe: one thread owns a session.
    """

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
        bos: bool = True,
        window: Window | None = None,
        note: Callable[[str], None] | None = None,
    ) -> Request:
        """The request that continues the document, with a seed, fitted into `window`.

        An empty document gets its seed token first; tokens the vocabulary would spell otherwise
        (text without ids, another tokenizer's, one cut by a stop string) are encoded anew. `heal`
        backs up so that the last word can be completed freely. `bos` puts the tokenizer's start
        tokens first; they are no part of the document. `note` is told in a line when the prompt
        had to be shortened. Raises Trouble when it does not fit and may not be.
        """
        self.settle()
        prompt: tuple[Token, ...] = tuple(self.tokens)
        prefix = b""
        if heal and self.vocab is not None and prompt:
            prompt, prefix = self.vocab.heal(prompt)
        start = self.vocab.opening(prompt) if bos and self.vocab is not None else ()
        prompt = start + prompt
        if sampling.seed is None:
            sampling = replace(sampling, seed=self._seeds() % SEEDS)
        if window is not None:
            prompt, max_tokens = window.fit(prompt, max_tokens, keep=len(start), note=note)
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
            discarded_ids(self.tree, self.head),
        )

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
        the tail. `rng` names the source of the draws. Raises ValueError without a
        seed.
        """
        if request.sampling.seed is None:
            raise ValueError("a request needs a seed to be started: see Session.request")
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
        prompt: dict[str, Any] = {"n": len(request.prompt), "sha256": ids_sha256(request.prompt)}
        if start := self._start_ids(request):
            prompt["start"] = start
        params = parameters(request) | {"rng": rng}
        self._do(Started(generation, nodes, environment.id, prompt, params, mode))
        self.generations[generation].live = True
        self._move(Place(nodes[0], place.at))
        return generation, nodes

    def _start_ids(self, request: Request) -> list[int]:
        """The ids before the document's own in a request made by `request`."""
        start = self.vocab.opening(self.tokens) if self.vocab is not None else ()
        sent = [token.id for token in request.prompt[: len(start)]]
        return sent if sent == [token.id for token in start] else []

    def _healed(self, request: Request) -> int:
        """How many of the document's last tokens spell the request's byte prefix."""
        tokens = self.tokens
        count, size = 0, 0
        while size < len(request.prefix) and count < len(tokens):
            count += 1
            size += len(tokens[-count].data)
        return count if size == len(request.prefix) else 0

    def happen(self, generation: str, event: Event) -> None:
        """Apply an event of a running generation. Progress is shown and not recorded; events after
        a branch's end are dropped.
        """
        run = self.generations[generation]
        if isinstance(event, Progress):
            run.progress = event
            self._version += 1
        elif isinstance(event, Scored):
            self._scored(run, event)
        elif isinstance(event, Prefilled) or not run.by_number[event.branch].finished:
            self._do(Happened(generation, event))

    def _scored(self, run: GenerationState, event: Scored) -> None:
        """Record the logprobs of the prompt on the nodes of the path."""
        # Positions of the prompt, from where the document begins in it.
        first_at = event.start - len(run.start_ids)
        last = first_at + len(event.tokens)
        for part in self.tree.chain(*run.place):
            start, stop = max(part.start, first_at), min(part.stop, last)
            if start >= stop or part.node.source == "model":
                continue
            scored = event.tokens[start - first_at : stop - first_at]
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
        """Move back to the fork of the shown (or just accepted) completion and request another.

        With a fixed seed the new one has the old seed + 1, or the next that no sibling used.
        `values` are those of `request`. Without a completion it is `request`.
        """
        node = self.completion or self._accepted()
        if node is None or self.tree[node].source != "model":
            return self.request(sampling, **values)
        self._move(Place(node, self.tree[node].at))
        if sampling.seed is not None:
            sampling = replace(sampling, seed=self._next_seed(node, sampling.seed))
        return self.request(sampling, **values)

    def request_siblings(self, sampling: Sampling, **values: Any) -> Request:
        """Request more completions of the document, accepted text included.

        With a fixed seed they get the next one that no completion of this text used. `values` are
        those of `request`.
        """
        if sampling.seed is not None:
            used = self._seeds_of([*self.completions(), *self.tree.forks(self.head)])
            sampling = replace(sampling, seed=_unused(sampling.seed, used))
        return self.request(sampling, **values)

    def _next_seed(self, node: str, fixed: int) -> int:
        run = self.generation_of(node)
        own = run.seed if run is not None and run.seed is not None else fixed
        return _unused(own + 1, self._seeds_of(self.tree.siblings(node)))

    def _seeds_of(self, nodes: Iterable[str]) -> set[int | None]:
        runs = map(self.generation_of, nodes)
        return {run.seed for run in runs if run is not None}

    def abandon(self, generation: str) -> None:
        """Expect no more events of a generation; if it has not ended it counts as interrupted."""
        if generation in self.generations:
            self.generations[generation].live = False
            self._version += 1

    # -- about the session -------------------------------------------------------------------------

    def rename(self, title: str, tags: Sequence[str] | None = None) -> None:
        """Give the session a title and, when given, tags."""
        self._do(Titled(title, self.tags if tags is None else tuple(tags)))

    def tag(self, *tags: str) -> None:
        """Make these the session's tags."""
        self._do(Titled(self.title, tags))

    def remember(self, **values: Any) -> None:
        """Store values of the interface (JSON's types) with the session; see `remembered`."""
        new = {
            name: value
            for name, value in values.items()
            if name not in self.remembered or self.remembered[name] != value
        }
        if new:
            self._do(Remembered(new))

    def mark(self, node: str, on: bool = True, label: str = "") -> None:
        """Put a bookmark on a node, or take it away."""
        self._do(Marked(node, on, label))


def _unused(seed: int, used: Collection[int | None]) -> int:
    """The seed, or the next one that is not in use."""
    seed %= SEEDS
    while seed in used:
        seed = (seed + 1) % SEEDS
    return seed
