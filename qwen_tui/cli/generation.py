"""One completion from start to end: prompt, context, weights, events, output, session, exit code.

Law: errors that can be found before loading weights are; what was generated is printed and saved
even if something fails later; JSON output and a saved session have the same entries.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from qwen_tui import backends, journal, settings
from qwen_tui.cli import prompt as prompts
from qwen_tui.cli.options import CompleteOptions
from qwen_tui.cli.save import Recording
from qwen_tui.cli.signals import die, dying_at_once, stopping
from qwen_tui.cli.stderr import Reporter, print_error
from qwen_tui.cli.stdout import BranchPrinter, Output, opened
from qwen_tui.context_window import Window
from qwen_tui.session.session import Session
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
    Finished,
    Happened,
    Progress,
    Reason,
    Request,
    Sampling,
    Token,
    Trouble,
    joined,
)
from qwen_tui.vocab import Vocab, is_nfc

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

FINISH_S: Final = 5.0
"""Most seconds to wait until a long prompt's KV blocks are on disk. The completion is already
printed, and prefilling such a prompt again would take longer; but a slow disk must not hold up a
pipeline."""

RNG: Final = "philox4x32-10"
"""The name of the random generator, as a session records it."""


@dataclass(frozen=True, slots=True)
class PlannedCompletion:
    """Everything known before weights are loaded: the session so far, and the exact request.

    `make(context, sampling)` builds the request again for a context of that many tokens.
    """

    settings: Settings
    vocab: Vocab | None
    context: int
    recording: Recording
    request: Request
    make: Callable[[int, Sampling], Request]

    @property
    def session(self) -> Session:
        """The session that the completion is added to."""
        return self.recording.session

    def fitted(self, context: int) -> Request:
        """The request for the context planned for the loaded weights, which may be smaller than the
        checkpoint's.
        """
        if not 0 < context < (self.context or context + 1):
            return self.request
        return self.make(context, self.request.sampling)


Sink = Callable[[Entry | Progress], None]


def run(options: CompleteOptions) -> int:
    """Complete as the options say and return the exit code; Trouble for errors that the person can
    mend.
    """
    if options.flags.get("choices") is not None and not options.as_json:
        raise Trouble("--logprobs needs --json", code=USAGE)
    written = prompts.read(
        options.file, options.prompt, encoding=options.encoding, escape=options.escape
    )
    signum = None
    with Reporter(quiet=options.quiet) as reporter:
        reporter.warn(written.notes)
        if written.joined:
            reporter.say("the prompt is standard input, then the text of -p")
        with opened(options.output, raw=options.raw) as output:
            if options.dry_run:
                plan = planned(options, written, reporter, ignore)
                show_tokens(plan.request, output, as_json=options.as_json)
                room = f" of {plan.context:,}" if plan.context else ""
                reporter.say(f"{len(plan.request.prompt):,}{room} tokens; nothing was sent")
                return DONE
            code, signum = generate(options, written, output, reporter)
    if signum is not None:
        die(signum)
    return code


def ignore(entry: Entry | Progress) -> None:
    """A sink that drops every entry."""


def settings_of(options: CompleteOptions, reporter: Reporter) -> Settings:
    """The settings with those from the command line; warns of a stop string that looks escaped."""
    flags = options.flags
    for stop in flags.get("stop") or ():
        if not options.escape and prompts.unescaped_stop(stop):
            said = f"--stop '{stop}' is taken as it stands, backslash and all"
            reporter.warn([f"{said}; --escape makes a newline of \\n"])
    for name in ("stop", "dry_sequence_breakers"):
        if options.escape and flags.get(name):
            flags = flags | {name: [prompts.unescaped(text) for text in flags[name]]}
    chosen = settings.load(flags)
    if options.save_as is None and not chosen.explicit("kv_disk"):
        chosen = replace(chosen, kv_disk=0.0)  # who saves nothing leaves nothing behind
    return chosen


def planned(
    options: CompleteOptions, written: prompts.Prompt, reporter: Reporter, sink: Sink
) -> PlannedCompletion:
    """Check settings, tokenizer, tokens and context; loads no weights."""
    chosen = settings_of(options, reporter)
    folder, context = backends.look(chosen, weights=not options.dry_run)
    vocab = None
    if folder is not None:
        chosen = settings.for_checkpoint(chosen, folder)
        vocab = Vocab.load(folder)
        chosen = known_biases(chosen, vocab.size)
    if vocab is not None and vocab.normalises and not is_nfc(written.text):
        reporter.say("note: the prompt is not in Unicode's composed form; it is sent as it stands")
    if chosen.context:
        context = min(chosen.context, context) if context else chosen.context
    reporter.warn(chosen.warnings)
    spelling = vocab if chosen.special or vocab is None else cast(Vocab, NoSpecials(vocab))
    recording = Recording(options.save_as, spelling, sink)
    session = recording.session
    session.commit(written.text, written.source)
    weigh = options.flags.get("choices") is not None or options.save_as is not None

    def make(context: int, sampling: Sampling) -> Request:
        return session.request(
            sampling,
            max_tokens=chosen.max_tokens,
            stop=chosen.stop,
            choices=chosen.choices if weigh else 0,
            branches=chosen.branches,
            ignore_eos=chosen.ignore_eos,
            bos=chosen.bos,
            window=window(chosen, context),
            note=lambda said: reporter.warn([said]),
        )

    request = make(context, chosen.sampling)
    if not request.prompt:
        raise Trouble(
            "the prompt is empty, and this model has no token to begin with", code=BAD_DATA
        )
    if not written.text:
        reporter.warn(["the prompt is empty; the text begins from nothing"])
    return PlannedCompletion(chosen, vocab, context, recording, request, make)


def known_biases(chosen: Settings, size: int) -> Settings:
    """The settings without biases of tokens that a vocabulary of `size` does not have.

    Trouble (2) for such a bias from the command line; one from a file may be meant for another
    model and becomes a warning.
    """
    strange = [token for token, _ in chosen.sampling.logit_bias if token >= size]
    if not strange:
        return chosen
    origin = chosen.origin["sampling.logit_bias"]
    said = f"{origin.where}: there is no token {strange[0]}; this model's go from 0 to {size - 1}"
    if origin.source == "flag":
        raise Trouble(said, code=USAGE)
    kept = tuple(pair for pair in chosen.sampling.logit_bias if pair[0] < size)
    sampling = replace(chosen.sampling, logit_bias=kept)
    return replace(chosen, sampling=sampling, warnings=(*chosen.warnings, f"{said}; ignored"))


def window(chosen: Settings, context: int) -> Window:
    """The space for a request: a context of that many tokens (0: unknown)."""
    return Window(context, chosen.truncate, chosen.explicit("max_tokens"))


def show_tokens(request: Request, output: Output, *, as_json: bool = False) -> None:
    """Print the exact tokens, one a line: index, id, spelling; bytes that are not UTF-8 as
    `\\xHH`.
    """
    for place, token in enumerate(request.prompt):
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
    options: CompleteOptions, written: prompts.Prompt, output: Output, reporter: Reporter
) -> tuple[int, int | None]:
    """Plan, load, stream, print and save; returns the exit code, and the signal that stopped it."""
    sinks: list[Sink] = [JsonSink(output)] if options.as_json else []

    def sink(entry: Entry | Progress) -> None:
        for each in sinks:
            each(entry)

    plan = planned(options, written, reporter, sink)
    printer = None
    if not options.as_json:
        lead = written.text.encode() if options.echo else b""
        eos = plan.vocab.ends(plan.request.prompt) if plan.vocab else ()
        printer = TextSink(output, plan.request, eos, lead=lead)
        sinks.append(printer)
    with dying_at_once():
        # What does not fit is refused here, and not minutes later.
        plan.fitted(backends.context(plan.settings))
        backend = load(plan.settings, reporter, sink)
    with closing(backend), stopping() as stopped:
        request = plan.fitted(backend.context)
        reporter.say(described(backend))
        reporter.warn(backend.warnings)
        plan.recording.begin()
        reporter.say(f"seed {request.sampling.seed}")
        lost = DONE
        try:
            ends = stream(plan.session, request, backend, reporter, stopped.cancel, sink)
            if request.branches == 1 and options.save_as is not None:
                plan.session.accept()
            if printer is not None:
                printer.finish()
        finally:
            lost = saved(plan.recording, reporter)
        backend.finish(FINISH_S, stopped.cancel.is_set)
    return concluded(ends, request, reporter) or lost, stopped.by


def saved(recording: Recording, reporter: Reporter) -> int:
    """Save the session. A failure is printed and its exit code returned, because the completion is
    on standard output already.
    """
    try:
        where = recording.close()
    except Trouble as trouble:
        reporter.clear()
        print_error(trouble)
        return trouble.code
    if where:
        reporter.say(f"saved in {where}")
    return DONE


def load(settings: Settings, reporter: Reporter, sink: Sink) -> Backend:
    """Open the backend, with a progress bar on stderr and progress records for `--json`."""

    def report(progress: Progress) -> None:
        reporter.report(progress)
        sink(progress)

    try:
        return backends.open(settings, report, threading.Event())
    except MemoryError:
        hint = "--quant nf4 needs a quarter of it"
        raise Trouble("out of memory while loading", hint=hint, code=TEMPORARY) from None
    finally:
        reporter.clear()


def stream(
    session: Session,
    request: Request,
    backend: Backend,
    reporter: Reporter,
    cancel: threading.Event,
    sink: Sink = ignore,
) -> list[Finished]:
    """Run the request and return how each branch ended. Every event goes through the session to its
    sink; progress, which a session does not record, goes to `sink`.
    """
    ends: list[Finished] = []
    generation, _ = session.start(request, backend.environment, rng=RNG)
    events = backend.stream(request, cancel)
    try:
        for event in events:
            if isinstance(event, Progress):
                reporter.report(event)
                sink(event)
                continue
            reporter.clear()
            session.happen(generation, event)
            if isinstance(event, Finished):
                ends.append(event)
    finally:
        getattr(events, "close", lambda: None)()
        session.abandon(generation)
    return ends


def described(backend: Backend) -> str:
    """Model, device, dtype and quantisation in one line."""
    env = backend.environment
    name = env.model_name or backend.name
    return " · ".join(filter(None, [name, env.device, env.dtype, env.quant]))


def concluded(ends: Sequence[Finished], request: Request, reporter: Reporter) -> int:
    """Print how each branch ended; the exit code of the first that ended badly."""
    ends = sorted(ends, key=lambda end: end.branch)
    for end in ends:
        reporter.finished(end, branches=request.branches)
        if end.message:
            reporter.clear()
            print_error(Trouble(end.message, hint=end.hint))
    bad = [end.code or CODES[end.reason] for end in ends if CODES[end.reason] != DONE]
    return bad[0] if bad else DONE if ends else INTERNAL


class NoSpecials:
    """A vocabulary that encodes the spelling of a special token as ordinary text
    (`--no-special`).
    """

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vocab, name)

    def recommit(
        self, tokens: Sequence[Token], text: str, *, special: bool = True
    ) -> tuple[int, tuple[Token, ...]]:
        """`Vocab.recommit` with the spellings of all added tokens as ordinary text."""
        return self._vocab.recommit(tokens, text, special=False)


class TextSink:
    """A sink that prints the completion: its tokens' bytes without the final end-of-text token."""

    def __init__(
        self, output: Output, request: Request, ends: Collection[int], *, lead: bytes = b""
    ) -> None:
        self._teller = BranchPrinter(output, branches=request.branches, lead=lead)
        self._ends = () if request.ignore_eos else ends

    def __call__(self, entry: Entry | Progress) -> None:
        event = entry.event if isinstance(entry, Happened) else None
        if isinstance(event, Emitted):
            data = joined(token for token in event.tokens if token.id not in self._ends)
            self._teller.feed(event.branch, data)
        elif isinstance(event, Finished):
            self._teller.end(event.branch)

    def finish(self) -> None:
        """Print the rest of every branch."""
        self._teller.finish()


class JsonSink:
    """A sink that prints all entries as JSON lines: a session file's records, without times."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._scribe = journal.Scribe()

    def __call__(self, entry: Entry | Progress) -> None:
        self._output.write(journal.line(self._scribe.record(entry)))
