"""`replay --verify`: the model scores the tokens that a session stored, and logprobs are compared.

Law: every comparison names the largest difference and its token; changes in the environment are
warnings of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from qwen_tui.cli.signals import die, dying_at_once, stopping
from qwen_tui.cli.stderr import Reporter, one_line
from qwen_tui.session.generations import GenerationState
from qwen_tui.session.session import Session
from qwen_tui.types import (
    DONE,
    GENERIC,
    NO_INPUT,
    Backend,
    Environment,
    Finished,
    Request,
    Scored,
    Token,
    Trouble,
)

TOLERANCES: Final = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.25}
"""Tolerance of a logprob (natural log) by dtype: scoring a whole text rounds differently from
decoding it token by token."""
QUANTISED: Final = 0.5
"""The tolerance with quantised weights."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored completion: its prompt, its tokens, and `name`, its number for messages."""

    name: str
    run: GenerationState
    prompt: tuple[Token, ...]
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a logprob is from the stored one, and at which token."""

    delta: float
    name: str
    index: int
    token: Token
    now: float


def verified(name: str, flags: dict[str, Any], *, quiet: bool) -> int:
    """Verify every completion of the session of that name; returns the exit code."""
    from qwen_tui import settings
    from qwen_tui.cli.arguments import stored_session
    from qwen_tui.cli.generation import described, ignore, load
    from qwen_tui.cli.wiring import with_model_of

    session = stored_session(name)
    # Every position is scored: no cached prefix, no drafts.
    chosen = with_model_of(settings.load(flags | {"kv_disk": 0, "draft": ""}), session)
    with Reporter(quiet=quiet) as reporter:
        reporter.warn(chosen.warnings)
        completions = list(stored(session, reporter))
        if not completions:
            raise Trouble("this session holds no completion to verify", code=NO_INPUT)
        with dying_at_once():
            backend = load(chosen, reporter, ignore)
        with closing(backend), stopping() as stopped:
            reporter.say(described(backend))
            if not backend.abilities.score:
                raise Trouble(f"{backend.name} cannot score a text")
            worst, count = compare(session, completions, backend, reporter, stopped.cancel)
        if stopped.by is not None:
            die(stopped.by)
    return print_verdict(worst, count, backend.environment)


def stored(session: Session, reporter: Reporter) -> Iterator[Stored]:
    """The session's completions that can be scored: those with token ids and a known prompt."""
    for number, run in enumerate(session.generations.values(), 1):
        prompt = run.prompt(tuple(session.tree.path(*run.place)))
        for branch, each in enumerate(run.branches):
            name = f"completion {number}" + (f".{branch + 1}" if len(run.branches) > 1 else "")
            tokens = tuple(session.tree[each.node].tokens)
            if not tokens:
                continue
            if prompt is None:
                reporter.warn([f"{name}: its prompt cannot be rebuilt; skipped"])
            elif any(token.id < 0 for token in (*prompt, *tokens)):
                reporter.warn([f"{name}: has no token ids; skipped"])
            else:
                yield Stored(name, run, prompt, tokens)


def compare(
    session: Session,
    completions: list[Stored],
    backend: Backend,
    reporter: Reporter,
    cancel: threading.Event,
) -> tuple[Difference | None, int]:
    """The largest difference, and how many logprobs were compared."""
    worst: Difference | None = None
    count = 0
    warned: set[str] = set()
    for each in completions:
        then = session.environments.get(each.run.started.environment)
        if then is not None and then.id not in warned:
            warned.add(then.id)
            reporter.warn(differences(then, backend.environment))
        found = list(logprob_differences(each, backend, cancel))
        count += len(found)
        largest = max(found, key=lambda difference: difference.delta, default=None)
        if largest is not None:
            reporter.say(f"{each.name}: {len(found)} tokens, {difference_text(largest)}")
            if worst is None or largest.delta > worst.delta:
                worst = largest
    return worst, count


def logprob_differences(
    each: Stored, backend: Backend, cancel: threading.Event
) -> Iterator[Difference]:
    """The difference of each stored logprob from the model's now; Trouble if the model cannot
    score.
    """
    start = len(each.prompt)
    request = Request(each.prompt + each.tokens, max_tokens=0, score=True)
    now: dict[int, float] = {}
    for event in backend.stream(request, cancel):
        if isinstance(event, Scored):
            for place, token in enumerate(event.tokens, event.start):
                if token.logprob is not None:
                    now[place] = token.logprob
        elif isinstance(event, Finished) and event.message:
            raise Trouble(f"{each.name}: {event.message}", hint=event.hint)
    for index, token in enumerate(each.tokens):
        if token.logprob is not None and start + index in now:
            value = now[start + index]
            yield Difference(abs(value - token.logprob), each.name, index, token, value)


def differences(then: Environment, now: Environment) -> list[str]:
    """What differs between two environments, a line each."""
    lines = []
    for name in ("engine", "dtype", "quant", "attn", "kernels", "threads", "device"):
        old, new = getattr(then, name), getattr(now, name)
        if old != new:
            lines.append(f"{name} was {old or 'unknown'}, is {new or 'unknown'}")
    lines += [
        f"the model's {name} is not the same"
        for name in sorted({*then.model, *now.model} - {"path"})
        if then.model.get(name) != now.model.get(name)
    ]
    for name in sorted({*then.vers, *now.vers}):
        old, new = then.vers.get(name, "none"), now.vers.get(name, "none")
        if old != new:
            lines.append(f"{name} was {old}, is {new}")
    return lines


def difference_text(difference: Difference) -> str:
    """Where the largest difference is, in words."""
    spelling = difference.token.data.decode("utf-8", "backslashreplace")
    stored_value = difference.token.logprob
    return (
        f"largest difference {difference.delta:.2e} at token {difference.index} {spelling!r}: "
        f"stored {stored_value:.6f}, now {difference.now:.6f}"
    )


def tolerance(environment: Environment) -> float:
    """The largest acceptable difference of a logprob in this environment."""
    if environment.quant not in ("", "none"):
        return QUANTISED
    return TOLERANCES.get(environment.dtype, QUANTISED)


def print_verdict(worst: Difference | None, count: int, environment: Environment) -> int:
    """The verdict on standard output; 0 within the tolerance, 1 beyond."""
    if worst is None:
        raise Trouble("no stored token has a logprob to compare", code=NO_INPUT)
    allowed = tolerance(environment)
    kind = f"{environment.dtype} {environment.quant}".removesuffix(" none").strip()
    kind = kind or "numbers of an unknown type"
    good = worst.delta <= allowed
    print(f"{'same' if good else 'different'}: tolerance {allowed:g} for {kind}")
    print(one_line(f"{count} tokens; {worst.name}: {difference_text(worst)}"))
    return DONE if good else GENERIC
