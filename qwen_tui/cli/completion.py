"""One completion from start to end: prompt, context, weights, events, output, session, exit code.

Law: what can be refused is refused before weights are loaded; what was generated is never lost to a
failure that comes after it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from qwen_tui import backends, hub, journal, settings, window
from qwen_tui.cli import prompt as prompts
from qwen_tui.cli.narrate import Narrator, complain
from qwen_tui.cli.output import Output, Teller, opened
from qwen_tui.cli.recording import Recording
from qwen_tui.cli.signals import die, dying_at_once, stopping
from qwen_tui.settings import Settings
from qwen_tui.types import (
    BAD_DATA,
    DONE,
    GENERIC,
    INTERNAL,
    TEMPORARY,
    UNAVAILABLE,
    USAGE,
    Backend,
    Emitted,
    Entry,
    Event,
    Finished,
    Prefilled,
    Progress,
    Reason,
    Request,
    Sampling,
    Source,
    Token,
    Trouble,
    joined,
)
from qwen_tui.vocab import Vocab

CODES: Final[dict[Reason, int]] = {
    "eos": DONE,
    "stop": DONE,
    "length": DONE,
    "cancelled": GENERIC,
    "oom": TEMPORARY,
    "nan": INTERNAL,
    "eof": UNAVAILABLE,
    "failed": GENERIC,
}
"""The exit code of a branch that ended for that reason."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for beside the settings: where from, where to, in which form."""

    NAMES: ClassVar = (
        "file", "prompt", "encoding", "escape", "as_json", "echo", "raw", "output", "save",
        "quiet", "dry_run",
    )  # fmt: skip

    file: str | None
    prompt: str | None
    encoding: str | None
    escape: bool
    as_json: bool
    echo: bool
    raw: bool
    output: str | None
    save: str | None
    quiet: bool
    dry_run: bool
    flags: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is known before weights are loaded: the person's text and the exact request."""

    settings: Settings
    vocab: Vocab
    context: int
    text: str
    source: Source
    document: tuple[Token, ...]
    request: Request


def run(wanted: Wanted) -> int:
    """Do what is wanted and return the exit code; Trouble for what a person can mend."""
    if wanted.flags.get("choices") is not None and not wanted.as_json:
        raise Trouble("--logprobs needs --json", code=USAGE)
    written = prompts.read(
        wanted.file, wanted.prompt, encoding=wanted.encoding, escape=wanted.escape
    )
    signum = None
    with Narrator(quiet=wanted.quiet) as narrator:
        narrator.warn(written.notes)
        plan = planned(wanted, written, narrator)
        with opened(wanted.output, raw=wanted.raw) as output:
            if wanted.dry_run:
                show_tokens(plan, output, as_json=wanted.as_json)
                room = f" of {plan.context:,}" if plan.context else ""
                narrator.say(f"{len(plan.request.prompt):,}{room} tokens; nothing was sent")
                code = DONE
            else:
                code, signum = generate(plan, wanted, output, narrator)
    if signum is not None:
        die(signum)
    return code


def planned(wanted: Wanted, written: prompts.Prompt, narrator: Narrator) -> Plan:
    """Settings, tokenizer, tokens and context, all checked; no weights."""
    flags = wanted.flags
    if wanted.escape and flags.get("stop"):
        flags = flags | {"stop": [prompts.unescaped(stop) for stop in flags["stop"]]}
    chosen = settings.load(flags)
    narrator.warn(chosen.warnings)
    folder = hub.find(chosen.model).folder
    chosen = settings.for_checkpoint(chosen, folder)
    vocab = Vocab.load(folder)
    document = vocab.encode(written.text, special=chosen.special) or start_of_document(vocab)
    context = hub.card(folder).context
    if chosen.context:
        context = min(chosen.context, context) if context else chosen.context
    prompt, max_tokens = window.fit(
        document, chosen.max_tokens, context, chosen.truncate, chosen.explicit("max_tokens")
    )
    if len(prompt) < len(document):
        narrator.warn([f"{len(document) - len(prompt):,} tokens of the prompt were left out"])
    weigh = flags.get("choices") is not None or wanted.save is not None
    request = Request(
        prompt=prompt,
        sampling=seeded(chosen.sampling),
        max_tokens=max_tokens,
        stop=chosen.stop,
        choices=chosen.choices if weigh else 0,
        branches=chosen.branches,
        ignore_eos=chosen.ignore_eos,
    )
    return Plan(chosen, vocab, context, written.text, written.source, document, request)


def start_of_document(vocab: Vocab) -> tuple[Token, ...]:
    """What an empty prompt is seeded with: the token that parts documents."""
    if vocab.end_of_text is None:
        raise Trouble(
            "the prompt is empty, and this model has no token to start from", code=BAD_DATA
        )
    return (vocab.token(vocab.end_of_text),)


def seeded(sampling: Sampling) -> Sampling:
    """The same values with a seed: a fresh 64-bit one where none was given."""
    return sampling if sampling.seed is not None else replace(sampling, seed=secrets.randbits(64))


def show_tokens(plan: Plan, output: Output, *, as_json: bool = False) -> None:
    """The exact tokens, one a line: place, id, spelling; bytes that are no UTF-8 as `\\xHH`."""
    for place, token in enumerate(plan.request.prompt):
        if as_json:
            row: dict[str, Any] = {"i": place, "id": token.id}
            row["text"] = token.data.decode("utf-8", "replace")
            if row["text"].encode() != token.data:
                row["hex"] = token.data.hex()
            output.write(journal.line(row))
        else:
            spelling = json.dumps(token.data.decode("utf-8", "backslashreplace"))
            output.write(f"{place:6} {token.id:7}  {spelling}\n".encode())


def generate(
    plan: Plan, wanted: Wanted, output: Output, narrator: Narrator
) -> tuple[int, int | None]:
    """Load, stream, tell and save; the exit code, and the signal that stopped it."""
    narrator.say(f"seed {plan.request.sampling.seed}")
    told = Records(output) if wanted.as_json else Text(output, plan, echo=wanted.echo)
    with dying_at_once():
        backend = load(plan.settings, narrator, told)
    ends: list[Finished] = []
    with closing(backend), stopping() as stopped:
        narrator.say(described(backend))
        with closing(Recording(plan, backend, wanted.save)) as recording:
            for entry in recording.entries:
                told.entry(entry)
            stream = backend.stream(plan.request, stopped.cancel)
            try:
                for event in stream:
                    if isinstance(event, Progress):
                        narrator.report(event)
                    elif isinstance(event, Prefilled):
                        narrator.clear()
                    recording.keep(event)
                    if isinstance(event, Finished):
                        ends.append(event)
                    told.event(event, recording.generation)
                told.finish()
            finally:
                getattr(stream, "close", lambda: None)()
        if recording.name:
            narrator.say(f"saved in {recording.name}")
    return concluded(ends, plan, narrator), stopped.by


def load(settings: Settings, narrator: Narrator, told: Records | Text) -> Backend:
    """Open the backend, with a bar on stderr and, for `--json`, records of its progress."""
    import threading

    def report(progress: Progress) -> None:
        narrator.report(progress)
        told.event(progress, None)

    try:
        return backends.open(settings, report, threading.Event())
    except MemoryError:
        raise Trouble(
            "out of memory while loading", hint="--quant nf4 needs a quarter", code=TEMPORARY
        ) from None
    finally:
        narrator.clear()


def described(backend: Backend) -> str:
    """Where the tokens come from, in one line."""
    env = backend.environment
    name = env.model.get("repo") or env.model.get("path") or backend.name
    return " · ".join(filter(None, [str(name), env.device, env.dtype, env.quant]))


def concluded(ends: Sequence[Finished], plan: Plan, narrator: Narrator) -> int:
    """Say how it ended; the exit code of the first branch that ended badly."""
    ends = sorted(ends, key=lambda end: end.branch)
    for end in ends:
        narrator.finished(end, branches=plan.request.branches)
        if end.message:
            narrator.clear()
            complain(Trouble(end.message, hint=end.hint))
    bad = [CODES[end.reason] for end in ends if CODES[end.reason] != DONE]
    return bad[0] if bad else DONE if ends else INTERNAL


class Text:
    """Tells the completion as text: the bytes of its tokens, without an ending end-of-text."""

    def __init__(self, output: Output, plan: Plan, *, echo: bool) -> None:
        lead = plan.text.encode() if echo else b""
        self._teller = Teller(output, branches=plan.request.branches, lead=lead)
        self._ends = frozenset() if plan.request.ignore_eos else plan.vocab.eos_ids

    def entry(self, entry: Entry) -> None:
        """Entries are the session's affair; the first one lets the echo out."""
        self._teller.begin()

    def event(self, event: Event, generation: str | None) -> None:
        """Tell emitted tokens as they come."""
        if isinstance(event, Emitted):
            data = joined(token for token in event.tokens if token.id not in self._ends)
            self._teller.feed(event.branch, data)
        elif isinstance(event, Finished):
            self._teller.end(event.branch)

    def finish(self) -> None:
        """All branches are over."""
        self._teller.finish()


class Records:
    """Tells everything as JSON lines: the very records that a session file holds, unstamped."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._scribe = journal.Scribe()

    def entry(self, entry: Entry) -> None:
        """One line."""
        self._output.write(journal.line(self._scribe.record(entry)))

    def event(self, event: Event, generation: str | None) -> None:
        """One line."""
        self._output.write(journal.line(self._scribe.record(event, generation=generation)))

    def finish(self) -> None:
        """Nothing is held back."""
