"""Measures what a person gets on this machine: speed, latency, loading and memory.

Law: one process, through the backend; every round runs each kind of block once, in rotating order;
a figure is the median of the rounds, and a ratio is formed within a round, the bandwidth bound too.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import torch

from qwen_tui import hub
from qwen_tui.backends.local.backend import Local
from qwen_tui.backends.local.benchmark import bandwidth, quality
from qwen_tui.backends.local.benchmark.figures import BenchProtocol, Figure, Result, memory
from qwen_tui.backends.local.benchmark.workloads import (
    EDITED,
    GREEDY,
    LEAD,
    OPENINGS,
    SAMPLED,
    SAMPLED_NOTE,
    Subject,
    kv_per_token,
    step_s,
)
from qwen_tui.backends.local.opening import opened
from qwen_tui.settings import Settings
from qwen_tui.types import Progress
from qwen_tui.vocab import Vocab

REWRITTEN: Final = 3
"""Rounds in which a passage is rewritten; fewer, because it takes long."""
BUSY: Final = 0.7
"""A system load (processes that want to run) above this disturbs a measurement."""

Report: TypeAlias = Callable[[Progress], None]
Say: TypeAlias = Callable[[str], None]


# -- loading ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """One opening: seconds, whether weights were quantised in it, and the first token after it."""

    seconds: float
    quantised: bool
    first_token_s: float


def loaded(
    settings: Settings,
    known: int,
    report: Report,
    cancel: threading.Event,
    mark: bandwidth.PeakMemory,
) -> tuple[Local, Load]:
    """Open the backend and decode one token, by which time mapped weights have been read."""
    stages: set[str] = set()

    def see(progress: Progress) -> None:
        stages.add(progress.stage)
        mark.look()
        report(progress)

    began = time.perf_counter()
    # What is measured is the model, not what an earlier run left on the disk.
    backend = opened(replace(settings, kv_disk=0.0), see, cancel)
    seconds = time.perf_counter() - began
    try:
        subject = Subject(backend, BenchProtocol(tokens=1), known)
        first = subject.run(subject.ids(LEAD, 0), sampling=GREEDY, max_tokens=1)[0]
    except BaseException:
        backend.close()
        raise
    mark.look()
    return backend, Load(seconds, "quantise" in stages, first.ttft_s)


def load_figures(loads: Sequence[Load], *, draft: bool = False) -> dict[str, Figure]:
    """Loading times, with the draft model if there is one: the first time, and from then on."""
    figures = {}
    also = "; with the draft model" if draft else ""
    fresh = [each for each in loads if each.quantised]
    again = [each for each in loads if not each.quantised]
    if fresh:
        figures["load_first_s"] = Figure(
            "load, quantising", "s", tuple(each.seconds for each in fresh), "the first time" + also
        )
    if again:
        note = "mapped or read; the files were read before" + also
        figures["load_s"] = Figure("load", "s", tuple(each.seconds for each in again), note)
        first = tuple(each.seconds + each.first_token_s for each in again)
        figures["load_first_token_s"] = Figure("load to first token", "s", first)
    return figures


# -- the whole measurement -------------------------------------------------------------------------


def measure(
    settings: Settings,
    protocol: BenchProtocol,
    *,
    report: Report,
    say: Say,
    cancel: threading.Event | None = None,
    gated: bool = False,
) -> Result:
    """Load twice, warm up, run the rounds, and with `gated` compare every kind of weights with
    float32; raises Trouble for what a person can mend.
    """
    cancel = cancel or threading.Event()
    load_before = bandwidth.load()
    if load_before > BUSY:
        say(f"warning: this machine is busy (load {load_before:.1f}); what follows will be too low")
    snapshot = hub.find(settings.model)
    card = hub.card(snapshot.path, snapshot.name)
    vocab = Vocab.load(snapshot.path)
    known = vocab.rows_known
    openings = [[token.id for token in vocab.encode(text)] for text in OPENINGS]
    mark = bandwidth.PeakMemory()
    say(f"loading {card.name}")
    backend, first = loaded(settings, known, report, cancel, mark)
    backend.close()
    del backend
    gc.collect()
    say("loading it once more")
    backend, second = loaded(settings, known, report, cancel, mark)
    try:
        rounds = Rounds(Subject(backend, protocol, known, openings), mark, say)
        rounds.run()
        per_token = kv_per_token(backend, card)
        figures = rounds.figures(per_token)
        figures |= load_figures((first, second), draft=bool(settings.draft))
        figures |= rounds.memory(per_token)
        model = _described(backend, card, settings)
        why = tuple(backend.why)
    finally:
        backend.close()
    found: tuple[quality.QualityLoss, ...] = ()
    if gated:
        say(f"reading {quality.POSITIONS} tokens with every kind of weights")
        ids = quality.some_ids(vocab)
        found = tuple(quality.distances(snapshot.path, ids, known, report))
    return Result(model, bandwidth.host(load_before), protocol, why, figures, found)


def _described(backend: Local, card: hub.Card, settings: Settings) -> dict[str, Any]:
    """The model and how it was run, for the JSON record."""
    env = backend.environment
    return {
        "name": card.name, "device": env.device, "dtype": env.dtype, "quant": env.quant,
        "kernels": env.kernels, "threads": env.threads, "context": backend.context,
        "draft": settings.draft,
    }  # fmt: skip


class Rounds:
    """The interleaved blocks on one subject, and the figures from them."""

    def __init__(self, subject: Subject, mark: bandwidth.PeakMemory, say: Say) -> None:
        self._subject, self._mark, self._say = subject, mark, say
        device = torch.device(subject.backend.environment.device or "cpu")
        self._bandwidth = bandwidth.Bandwidth(device)
        mark.aside = self._bandwidth.host_bytes
        self._found: dict[str, list[Any]] = {}

    def run(self) -> None:
        """Warm up, then all rounds."""
        self.warm_up()
        for number in range(self._subject.protocol.rounds):
            self._say(f"round {number + 1} of {self._subject.protocol.rounds}")
            self.round(number)

    def warm_up(self) -> None:
        """Run every kind of block once; the results are discarded."""
        self._say("warming up")
        self._subject.warm_up()
        self._bandwidth.measure()

    def round(self, number: int) -> None:
        """Run every kind of block once; the order rotates by one from round to round."""
        subject = self._subject
        blocks = [self._read, self._greedy, self._sampled, self._prompts]
        if subject.backend.abilities.branches:
            blocks.append(self._siblings)
        if number < REWRITTEN and subject.backend.speculates:
            blocks.append(self._rewrite)
        if subject.drafts:
            blocks.append(self._drafted)
        turn = number % len(blocks)
        for block in blocks[turn:] + blocks[:turn]:
            block(100 + number)
            self._mark.look()

    def _keep(self, name: str, value: Any) -> None:
        self._found.setdefault(name, []).append(value)

    def _read(self, seed: int) -> None:
        self._keep("read", self._bandwidth.measure())

    def _greedy(self, seed: int) -> None:
        self._keep("greedy", self._subject.decode(GREEDY, seed))

    def _sampled(self, seed: int) -> None:
        self._keep("sampled", self._subject.decode(replace(SAMPLED, seed=seed), seed))

    def _siblings(self, seed: int) -> None:
        count = self._subject.protocol.siblings
        sampling = replace(SAMPLED, seed=seed)
        self._keep("siblings", self._subject.decode(sampling, seed, branches=count))

    def _prompts(self, seed: int) -> None:
        self._keep("cold", self._subject.cold(seed))
        self._keep("edit", self._subject.edit(seed))

    def _rewrite(self, seed: int) -> None:
        self._keep("rewrite", self._subject.rewrite(seed))

    def _drafted(self, seed: int) -> None:
        self._keep("drafted", self._subject.drafted(seed))

    # -- what they add up to ---------------------------------------------------------------------

    def figures(self, kv_per_token: int) -> dict[str, Figure]:
        """Speeds, shares and latencies; `kv_per_token` in bytes."""
        found, subject = self._found, self._subject
        greedy, sampled, reads = found["greedy"], found["sampled"], found["read"]
        figures = {
            "decode_greedy": Figure("decode, greedy", "tok/s", tuple(s.tok_s for s in greedy)),
            "decode_sampled": Figure(
                "decode, sampled", "tok/s", tuple(s.tok_s for s in sampled), SAMPLED_NOTE
            ),
        }
        step = subject.backend.step_bytes + kv_per_token * (LEAD + subject.protocol.tokens // 2)
        note = f"{hub.size_text(step)} a token at the bandwidth below"
        for name, each in (("greedy", greedy), ("sampled", sampled)):
            share = tuple(100 * s.tok_s * step / read for s, read in zip(each, reads, strict=True))
            figures[f"share_{name}"] = Figure(f"share of the bound, {name}", "%", share, note)
        label = (
            "read bandwidth" if subject.backend.environment.device == "cpu" else "copy bandwidth"
        )
        note = f"by {self._bandwidth.kernel}"
        figures["bandwidth"] = Figure(label, "GB/s", tuple(read / 1e9 for read in reads), note)
        figures |= self._latencies()
        word = "a word of its prompt changed"
        figures |= self._speculation(
            "rewrite", "per_forward", "a passage anew, by prompt lookup", word
        )
        drafted = "with the draft model"
        return figures | self._speculation("drafted", "drafted_per_forward", drafted, SAMPLED_NOTE)

    def _latencies(self) -> dict[str, Figure]:
        found, count = self._found, self._subject.prompt_tokens
        cold, edit, sampled = found["cold"], found["edit"], found["sampled"]
        pairs = list(zip(edit, sampled, strict=True))
        reused = min(each.reused for each in edit)
        figures = {
            "prefill": Figure(
                "prefill",
                "tok/s",
                tuple((each.prompt - each.reused) / each.prefill_s for each in cold),
            ),
            "ttft_cold": Figure(
                "first token, cold", "s", tuple(each.ttft_s for each in cold), f"{count:,} tokens"
            ),
            "ttft_edit": Figure(
                "first token, after an edit",
                "s",
                tuple(each.ttft_s for each in edit),
                f"the last {EDITED} tokens changed; {reused:,} of {count:,} reused",
            ),
            "edit_steps": Figure(
                "the same in decoding steps",
                "steps",
                tuple(each.ttft_s / step_s(other) for each, other in pairs),
            ),
        }
        if "siblings" in found:
            many = self._subject.protocol.siblings
            figures["siblings"] = Figure(
                f"{many} siblings: a step against 1",
                "×",
                tuple(
                    step_s(each) / step_s(one)
                    for each, one in zip(found["siblings"], sampled, strict=True)
                ),
                "the same prompt, in one batch",
            )
        return figures

    def _speculation(self, name: str, inner: str, label: str, note: str) -> dict[str, Figure]:
        """Speculative against plain decoding over the pairs of that name: speed-up, and tokens per
        forward pass.
        """
        pairs = self._found.get(name, [])
        if not pairs:
            return {}
        drafted, accepted = (sum(getattr(s, k) for _, s in pairs) for k in ("drafted", "accepted"))
        return {
            name: Figure(
                label,
                "×",
                tuple(again.tok_s / once.tok_s for once, again in pairs),
                f"{note}; {accepted:,} of {drafted:,} drafted tokens accepted",
            ),
            inner: Figure(
                "tokens per forward there",
                "",
                tuple((s.emitted - 1) / max(1, s.emitted - 1 - s.accepted) for _, s in pairs),
            ),
        }

    def memory(self, kv_per_token: int) -> dict[str, Figure]:
        """Memory in use, in GiB; pages mapped from a file count as weights, not as the process's
        memory.
        """
        self._mark.look()
        figures = {"weights": memory("weights", self._subject.backend.weight_bytes)}
        kilo = kv_per_token * 1024
        figures["kv"] = memory("KV cache of 1,024 tokens", kilo)
        figures["own_peak"] = memory("own memory at most", self._mark.bytes, "RssAnon")
        device = torch.device(self._subject.backend.environment.device or "cpu")
        if device.type == "cuda":
            most = torch.cuda.max_memory_allocated(device)
            figures["device_peak"] = memory("GPU memory at most", most)
        return figures
