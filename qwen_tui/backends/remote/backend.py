"""The remote backend: a server's model behind the same protocol as a local one.

Law: the server's identity and missing abilities are known before the first token; a session records
its name, version and model, never its address or key.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path, PurePosixPath

from qwen_tui import journal
from qwen_tui.backends.remote import keys
from qwen_tui.backends.remote.client import Client
from qwen_tui.backends.remote.dialects import Dialect
from qwen_tui.backends.remote.dialects.llamacpp import LlamaCpp
from qwen_tui.backends.remote.dialects.ollama import Ollama
from qwen_tui.backends.remote.dialects.openai import OpenAI
from qwen_tui.backends.remote.dialects.vllm import Vllm
from qwen_tui.backends.remote.facts import ServerFacts
from qwen_tui.backends.remote.prober import prober
from qwen_tui.backends.remote.run import Run
from qwen_tui.settings import Endpoint, Settings
from qwen_tui.types import (
    BAD_CONFIG,
    Environment,
    Event,
    Finished,
    Request,
    Sampling,
    Stats,
    Trouble,
)
from qwen_tui.vocab import Vocab


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Sampling values that a server may ignore: those from defaults, and with `lenient` all."""

    lenient: bool
    defaults: Sampling
    unset: frozenset[str]

    def refused(self, sampling: Sampling, unknown: tuple[str, ...]) -> tuple[str, ...]:
        """The unsupported values for which a request is refused."""
        if self.lenient:
            return ()
        return tuple(
            name
            for name in unknown
            if name not in self.unset or getattr(sampling, name) != getattr(self.defaults, name)
        )


class Remote:
    """A `Backend` over one model of one server."""

    def __init__(
        self,
        client: Client,
        dialect: Dialect,
        facts: ServerFacts,
        *,
        tolerance: Tolerance,
        parallel: int,
        context: int,
        warnings: tuple[str, ...] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = facts.identity.model
        self.abilities = facts.abilities
        self.context = context
        self.environment = environment(client.endpoint, facts)
        self.why = described(client.endpoint, facts)
        self.warnings = warnings
        self._client = client
        self._dialect = dialect
        self._tolerance = tolerance
        self._parallel = parallel
        self._clock = clock

    def stream(self, request: Request, cancel: threading.Event) -> Iterator[Event]:
        """Run one generation; refused if the server would not do what is requested."""
        unknown = self._dialect.unknown(request.sampling)
        refused = self._tolerance.refused(request.sampling, unknown)
        if refused:
            yield from self._refuse(request, refused)
            return
        most = min(request.choices, self.abilities.choices)
        run = Run(
            self._client,
            self._dialect,
            replace(request, choices=most),
            cancel,
            self._parallel,
            self._clock,
        )
        yield from run.stream()

    def finish(self, seconds: float, stopped: Callable[[], bool]) -> None:
        """Nothing to save: the cache is the server's."""

    def close(self) -> None:
        """Close the connections; calling it twice is fine."""
        self._client.close()

    def _refuse(self, request: Request, names: tuple[str, ...]) -> Iterator[Event]:
        stats = Stats(prompt=len(request.prompt))
        message = f"{self._client.endpoint.label} does not know {' and '.join(names)}"
        hint = "set it to its neutral value, or --lenient goes on without it"
        for branch in range(request.branches):
            yield Finished("failed", branch, stats, message=message, hint=hint)


# -- opening ---------------------------------------------------------------------------------------


def connected(settings: Settings) -> Client:
    """The connections to the settings' engine, none of them open yet; Trouble without a key."""
    endpoint = settings.endpoint()
    if endpoint is None:
        raise Trouble("no server is named", hint="--engine NAME|URL", code=BAD_CONFIG)
    return Client(endpoint, keys.read(endpoint), stall=settings.stall)


def opened(settings: Settings, cancel: threading.Event | None = None) -> Remote:
    """Probe the server and return the backend; raises Trouble."""
    client = connected(settings)
    try:
        facts = prober(settings, client, cancel).facts()
        return _remote(settings, client, facts)
    except BaseException:
        client.close()
        raise


def looked_at(settings: Settings, cancel: threading.Event | None = None) -> tuple[Path | None, int]:
    """The folder of the tokenizer that the server's model has (None: none here), and its context in
    tokens.
    """
    client = connected(settings)
    try:
        facts = prober(settings, client, cancel).facts()
    finally:
        client.close()
    return Path(facts.tokenizer) if facts.tokenizer else None, facts.context


def probed(settings: Settings, cancel: threading.Event | None = None) -> tuple[ServerFacts, float]:
    """What the server is and can do, tried anew; and how many seconds a question takes."""
    client = connected(settings)
    try:
        asking = prober(settings, client, cancel)
        asking.identity()
        began = time.perf_counter()
        client.ask("GET", "/v1/models", cancel=cancel)
        seconds = time.perf_counter() - began
        return asking.anew(), seconds
    finally:
        client.close()


def _remote(settings: Settings, client: Client, facts: ServerFacts) -> Remote:
    dialect = dialect_of(facts, client.endpoint)
    unset = frozenset(
        name for name in vars_of(settings.sampling) if not settings.explicit(f"sampling.{name}")
    )
    tolerance = Tolerance(settings.lenient, settings.sampling, unset)
    context = min(settings.context, facts.context) if settings.context else facts.context
    return Remote(
        client,
        dialect,
        facts,
        tolerance=tolerance,
        parallel=settings.parallel,
        context=context,
        warnings=_warnings(client.endpoint, dialect, settings),
    )


def vars_of(sampling: Sampling) -> tuple[str, ...]:
    """The names of the sampling values."""
    return tuple(sampling.__dataclass_fields__)


def dialect_of(facts: ServerFacts, endpoint: Endpoint) -> Dialect:
    """The dialect for this server."""
    identity = facts.identity
    vocab = Vocab.load(Path(facts.tokenizer)) if facts.tokenizer else None
    if identity.engine == "vllm":
        return Vllm(identity.model, vocab, facts.context, endpoint.priority)
    if identity.engine == "llama.cpp":
        return LlamaCpp(vocab, facts.context)
    if identity.engine == "ollama":
        return Ollama(identity.model, facts.abilities.choices)
    return OpenAI(identity.model, identity.engine, facts.abilities.choices, facts.context)


def _warnings(endpoint: Endpoint, dialect: Dialect, settings: Settings) -> tuple[str, ...]:
    lines = []
    if endpoint.origin[0] == "http" and not endpoint.private:
        what = "the key and the text go" if endpoint.key_env or endpoint.key_file else "text goes"
        lines.append(f"{what} to {endpoint.label} unencrypted: its address is http, not https")
    lines += [
        _without(endpoint.label, name, getattr(settings.sampling, name))
        for name in dialect.unknown(settings.sampling)
        if settings.lenient or not settings.explicit(f"sampling.{name}")
    ]
    return tuple(lines)


def _without(label: str, name: str, value: object) -> str:
    """A message about a sampling value that does not apply."""
    if name == "order":
        return f"{label} applies the temperature before it leaves candidates out, not after"
    return f"{label} does not know {name}: {value} does not apply"


def environment(endpoint: Endpoint, facts: ServerFacts) -> Environment:
    """The environment that a session records."""
    identity = facts.identity
    model = {"repo": _bare(identity.model)}
    if endpoint.name:
        model["endpoint"] = endpoint.name
    versions = {"qwen-tui": _version()}
    if identity.version:
        versions[identity.engine] = identity.version
    found = Environment("", f"qwen-tui/remote/{identity.engine}", model, vers=versions)
    return replace(found, id=journal.environment_id(found))


def _bare(model: str) -> str:
    """A model's id; of a path on the server its last part alone."""
    return PurePosixPath(model).name if model.startswith(("/", ".", "~")) else model


def _version() -> str:
    try:
        return metadata.version("qwen-tui")
    except metadata.PackageNotFoundError:
        return "unknown"


def described(endpoint: Endpoint, facts: ServerFacts) -> tuple[str, ...]:
    """The findings, in lines: the server, how text is sent, and what it cannot do."""
    identity = facts.identity
    server = f"{identity.engine} {identity.version}".rstrip()
    lines = [f"{endpoint.label}: {server}, {identity.model}, {facts.context:,} tokens"]
    lines += facts.notes
    lines += [f"no {name}: {why}" for name, why in facts.cannot.items() if name != "token_ids"]
    return tuple(lines)
