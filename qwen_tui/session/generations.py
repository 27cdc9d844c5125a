"""The state of each generation of a session, branch by branch: speed, end, parameters.

Law: derived from entries alone, so a session read from a file has the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from qwen_tui.journal import ids_sha256
from qwen_tui.session.tree import Place
from qwen_tui.types import (
    Emitted,
    Finished,
    Prefilled,
    Progress,
    Request,
    Sampling,
    Started,
    Token,
)

NEAR: Final = 8
"""Tokens by which a cut in the middle may be off its exact centre."""


@dataclass(slots=True, eq=False)
class BranchState:
    """One completion of a generation. Milliseconds count from the generation's start."""

    node: str
    count: int = 0
    first: int = 0
    first_ms: int | None = None
    last_ms: int = 0
    finished: Finished | None = None

    def emit(self, event: Emitted) -> None:
        """Record one decoding step."""
        self.count += len(event.tokens)
        if self.first_ms is None:
            self.first_ms, self.first = event.ms, len(event.tokens)
        self.last_ms = event.ms

    @property
    def tok_s(self) -> float:
        """Decoding speed so far in tokens per second, without the first step; 0.0 if unknown."""
        if self.first_ms is None or self.last_ms <= self.first_ms:
            return self.finished.stats.tok_s if self.finished else 0.0
        return (self.count - self.first) * 1000 / (self.last_ms - self.first_ms)


@dataclass(slots=True, eq=False)
class GenerationState:
    """One generation. `place` is where its nodes fork; `live` is False for one read from a file.

    `branches` are the known ones; `by_number` finds one by its event's number. `progress` is the
    latest long stage, until the first token.
    """

    started: Started
    place: Place
    branches: list[BranchState]
    live: bool = False
    progress: Progress | None = None
    prefilled: Prefilled | None = None
    by_number: dict[int, BranchState] = field(init=False)

    def __post_init__(self) -> None:
        self.by_number = dict(enumerate(self.branches))

    def add(self, number: int, branch: BranchState) -> None:
        """Add a branch that the start entry did not name, which happens only in a damaged file."""
        self.by_number[number] = branch
        self.branches.append(branch)

    @property
    def id(self) -> str:
        """The generation's id."""
        return self.started.generation

    @property
    def running(self) -> bool:
        """Whether it is live and a branch has not ended."""
        return self.live and not self.ended

    @property
    def ended(self) -> bool:
        """Whether every branch has ended."""
        return all(branch.finished for branch in self.branches)

    @property
    def interrupted(self) -> bool:
        """Whether it was read from a file or abandoned without an end."""
        return not self.live and not self.ended

    @property
    def count(self) -> int:
        """Tokens emitted by all branches."""
        return sum(branch.count for branch in self.branches)

    @property
    def tok_s(self) -> float:
        """Tokens per second of all branches together."""
        return sum(branch.tok_s for branch in self.branches)

    @property
    def ttft_ms(self) -> int | None:
        """Milliseconds to the first token of any branch."""
        firsts = [branch.first_ms for branch in self.branches if branch.first_ms is not None]
        return min(firsts, default=None)

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters it ran with, by name."""
        return self.started.params

    @property
    def start_ids(self) -> tuple[int, ...]:
        """The ids that were sent before the document (a BOS)."""
        ids = self.started.prompt.get("start")
        return tuple(id for id in ids if isinstance(id, int)) if isinstance(ids, list) else ()

    def prompt(self, path: Sequence[Token]) -> tuple[Token, ...] | None:
        """The exact tokens it was started with, identified by their hash; None if they cannot be
        found. `path` is the document up to the fork, which may have been cut on the left or in the
        middle.
        """
        known = self.started.prompt
        start = tuple(Token(id, b"") for id in self.start_ids)
        size, wanted = known.get("n"), known.get("sha256")
        if not isinstance(size, int) or not 0 <= (size := size - len(start)) <= len(path):
            return None
        # A cut moves a little, so as not to fall into a character.
        around = range(max(0, size // 2 - NEAR), min(size, size // 2 + NEAR) + 1)
        for head in (size,) if size == len(path) else (0, *around):
            prompt = (*start, *path[:head], *path[len(path) - (size - head) :])
            if ids_sha256(prompt) == wanted:
                return prompt
        return None

    @property
    def seed(self) -> int | None:
        """The seed that was really used."""
        seed = self.started.params.get("seed")
        return seed if isinstance(seed, int) else None


def parameters(request: Request) -> dict[str, Any]:
    """Every parameter of a generation by its name, as `Started.params` stores them."""
    values: dict[str, Any] = asdict(request.sampling)
    return values | {
        "order": list(request.sampling.order),
        "logit_bias": [list(pair) for pair in request.sampling.logit_bias],
        "dry_sequence_breakers": list(request.sampling.dry_sequence_breakers),
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
        "choices": request.choices,
        "branches": request.branches,
        "ignore_eos": request.ignore_eos,
        "prefix": request.prefix.decode("utf-8", "backslashreplace"),
    }


def sampling_of(params: Mapping[str, Any]) -> Sampling:
    """The sampling values in `Started.params`; unknown and invalid ones are ignored."""
    fresh = Sampling()
    known: dict[str, Any] = {}
    for name in Sampling.__slots__:
        value = params.get(name)
        wanted = getattr(fresh, name)
        if name == "seed":
            known[name] = value if isinstance(value, int) else None
        elif name in ("order", "dry_sequence_breakers") and isinstance(value, list | tuple):
            known[name] = tuple(map(str, value))
        elif name == "logit_bias" and isinstance(value, list | tuple):
            known[name] = tuple((int(id), float(bias)) for id, bias in value)
        elif isinstance(wanted, int | float) and isinstance(value, int | float):
            known[name] = type(wanted)(value)
    return Sampling(**known)
