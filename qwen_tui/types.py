"""The types every room shares: tokens, requests, events and session entries.

Law: all are frozen, of the standard library only; text is derived from the tokens' exact bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias

from qwen_tui.sampling import DEFAULT_ORDER as DEFAULT_ORDER
from qwen_tui.sampling import Sampling as Sampling

Reason: TypeAlias = Literal["eos", "stop", "length", "cancelled", "oom", "nan", "eof", "failed"]
Source: TypeAlias = Literal["user", "file", "edit", "choice", "import", "model"]
Stage: TypeAlias = Literal["import", "download", "load", "quantise", "pack", "prefill"]
Mode: TypeAlias = Literal["complete", "chat", "infill"]
Step: TypeAlias = Literal["", "new", "undo", "redo"]
"""How undo treats a step; "": as an undo or redo if it leads where one would, else as new."""

DEFAULT_MODEL: Final = "Qwen/Qwen2.5-7B"
MAX_STOP: Final = 64
"""Most stop strings one request may carry."""

# Exit codes (sysexits.h), the one place they are named.
DONE: Final = 0
GENERIC: Final = 1
USAGE: Final = 2
BAD_DATA: Final = 65
NO_INPUT: Final = 66
UNAVAILABLE: Final = 69
INTERNAL: Final = 70
CANNOT_CREATE: Final = 73
IO_ERROR: Final = 74
TEMPORARY: Final = 75
NO_PERMISSION: Final = 77
BAD_CONFIG: Final = 78


class Trouble(Exception):
    """An expected failure: `message` says what happened, `hint` what to do, in a line each. The
    runner, CLI and app show it without a traceback.
    """

    def __init__(self, message: str, *, hint: str = "", code: int = GENERIC) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


@dataclass(frozen=True, slots=True)
class Choice:
    """One candidate at a position; `logprob` is natural, under the raw model distribution."""

    id: int
    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """A token's exact bytes and its probabilities.

    `id` is -1 if a server gave text only. A special token's `data` is its spelling
    (`<|endoftext|>`). `logprob` is the natural log of its probability under softmax of the raw
    logits (padding rows masked, before any sampling stage). `choices` are the most probable
    candidates, best first, with the token itself only if it is among them. `stale`: both are from
    another context, before an edit. `share` is its probability among the candidates that `mirostat`
    and `adaptive_p` chose from; None if neither ran.
    """

    id: int
    data: bytes
    logprob: float | None = None
    choices: tuple[Choice, ...] = ()
    drafted: bool = False
    stale: bool = False
    share: float | None = None


def joined(tokens: Iterable[Token]) -> bytes:
    """The bytes of a run of tokens."""
    return b"".join(token.data for token in tokens)


def text_of(tokens: Iterable[Token]) -> str:
    """The text of a run of tokens; bytes that are not UTF-8 show as U+FFFD."""
    return joined(tokens).decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Request:
    """One generation to run: the exact prompt tokens and all parameters.

    `choices` candidates are reported per token; `score` requests `Scored` events for the prompt.
    `max_tokens` -1 runs to eos or a full context, 0 generates nothing. `prefix` constrains the
    first tokens to begin with these bytes (token healing). `sources` are
    other texts as ids, for prompt lookup.
    """

    prompt: tuple[Token, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    choices: int = 0
    branches: int = 1
    score: bool = False
    prefix: bytes = b""
    ignore_eos: bool = False
    sources: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Stats:
    """The cost of one branch, in wall-clock seconds; `decode_s` is first emitted token to last."""

    prompt: int = 0
    reused: int = 0
    emitted: int = 0
    drafted: int = 0
    accepted: int = 0
    prefill_s: float = 0.0
    ttft_s: float = 0.0
    decode_s: float = 0.0
    peak_bytes: int = 0

    @property
    def tok_s(self) -> float:
        """Tokens per second after the first token; 0.0 when unknown."""
        return (self.emitted - 1) / self.decode_s if self.decode_s > 0 and self.emitted > 1 else 0.0


# -- events: what a backend yields -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a long stage, in bytes, for prefill in tokens; `total` 0: unknown."""

    stage: Stage
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The prompt is in the KV cache; `reused` of its tokens were already there."""

    prompt: int
    reused: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Scored:
    """Probabilities of a person's text: `tokens` are at positions start, … of the prompt."""

    start: int
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Emitted:
    """One decoding step of one branch: one token, or several that were drafted and accepted.

    `index` is the first one's index in the branch's output; `ms` counts from the generation's
    start.
    """

    tokens: tuple[Token, ...]
    branch: int = 0
    ms: int = 0
    index: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of one branch; every stream yields exactly one per branch, whatever happens.

    `stop` is the stop string that ended it; bytes beyond it were cut from the emitted tokens, an
    eos token is emitted. `schedule` (chunks, reused, batch, draft lengths, …) is for exact replay.
    `code` is the exit code of a command where the reason alone does not say it (0: it does); a
    session does not keep it.
    """

    reason: Reason
    branch: int = 0
    stats: Stats = field(default_factory=Stats)
    stop: str = ""
    message: str = ""
    hint: str = ""
    schedule: Mapping[str, Any] = field(default_factory=dict)
    code: int = 0


Event: TypeAlias = Progress | Prefilled | Scored | Emitted | Finished


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a backend can do. `choices` is the most candidates it reports per token."""

    choices: int = 0
    score: bool = False
    branches: bool = False
    token_ids: bool = False


@dataclass(frozen=True, slots=True)
class Environment:
    """Where tokens come from, without URL or key; `id` hashes the rest (`environment_id`)."""

    id: str
    engine: str
    model: Mapping[str, Any]
    dtype: str = ""
    quant: str = ""
    attn: str = ""
    kernels: str = ""
    threads: int = 0
    device: str = ""
    vers: Mapping[str, str] = field(default_factory=dict)

    @property
    def model_name(self) -> str:
        """The model's name: a hub id, a folder, or a server's name for it; "" for none."""
        return str(next(filter(None, map(self.model.get, ("repo", "path", "name"))), ""))


class Backend(Protocol):
    """A synchronous source of events, used by one thread at a time.

    The attributes never change and may be read from any thread. `context` is the most tokens of
    prompt and completion together. `why` explains in lines what was chosen.
    """

    name: str
    abilities: Abilities
    environment: Environment
    context: int
    why: tuple[str, ...]
    warnings: tuple[str, ...]

    def stream(self, request: Request, cancel: threading.Event) -> Iterator[Event]:
        """Run one generation: it ends with one `Finished` per branch; it raises only on defects."""
        ...

    def finish(self, seconds: float, stopped: Callable[[], bool]) -> None:
        """Save what makes the last prompt faster next time; within `seconds` and until
        `stopped`.
        """
        ...

    def close(self) -> None:
        """Free all resources; calling it twice is fine."""
        ...


# -- entries: what a session file is a log of ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """The first line of a session file."""

    id: str
    title: str = ""
    app: str = ""
    fmt: str = "qwen-tui.session"
    v: int = 1
    min: int = 1


@dataclass(frozen=True, slots=True)
class Added:
    """A new node that forks `parent` after `at` tokens of its path (`None` and 0: a root).

    A person's text is whole in `text` and `tokens`; a model's node is filled by its generation.
    """

    id: str
    parent: str | None
    at: int
    source: Source
    role: str | None = None
    text: str = ""
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Moved:
    """The head is after `at` tokens of the path of `node`; `None`: the empty document."""

    node: str | None
    at: int
    step: Step = ""


@dataclass(frozen=True, slots=True)
class Started:
    """A generation begins; branch i fills `nodes[i]`.

    `prompt` holds `n` and `sha256` over the little-endian u32 ids; `params` every sampling value by
    name, with the seed that is really used, `rng`, `max_tokens`, `stop`, `ignore_eos`.
    """

    generation: str
    nodes: tuple[str, ...]
    environment: str
    prompt: Mapping[str, Any]
    params: Mapping[str, Any]
    mode: Mode = "complete"


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of a generation, as a session keeps it."""

    generation: str
    event: Prefilled | Emitted | Finished


@dataclass(frozen=True, slots=True)
class Weighed:
    """Probabilities of a person's text: `logprobs[i]` belongs to token `start + i` of `node`."""

    node: str
    start: int
    logprobs: tuple[float | None, ...]
    choices: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Titled:
    """The session's title and tags; the last one wins."""

    title: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Marked:
    """A bookmark on a node (`on` False removes it)."""

    node: str
    on: bool = True
    label: str = ""


@dataclass(frozen=True, slots=True)
class Hidden:
    """A tombstone: the node and its descendants are no longer shown; nothing is erased."""

    node: str
    on: bool = True
    step: Step = ""


@dataclass(frozen=True, slots=True)
class Remembered:
    """Values that the interface stores with the session, by name; the last value of a name
    counts.
    """

    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unknown:
    """A record of a kind this version does not know; kept as it is, and ignored."""

    record: Mapping[str, Any]


Entry: TypeAlias = (
    Head
    | Environment
    | Added
    | Moved
    | Started
    | Happened
    | Weighed
    | Titled
    | Marked
    | Hidden
    | Remembered
    | Unknown
)
