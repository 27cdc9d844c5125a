"""The local backend: finds a checkpoint, plans, loads it, and runs requests through the loop.

Law: what was chosen and why, and all that an exact replay needs, is known before the first token.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import torch

from qwen_tui import hub, journal, paths
from qwen_tui.backends.local.decoding.draft_model import Drafter
from qwen_tui.backends.local.decoding.engine import Engine
from qwen_tui.backends.local.decoding.loop import DecodingLoop
from qwen_tui.backends.local.decoding.prefix_constraint import Spellings
from qwen_tui.backends.local.kv.disk_cache import DiskCache, Thresholds, for_model
from qwen_tui.backends.local.kv.prefix_cache import PrefixCache
from qwen_tui.backends.local.nn.model import Model
from qwen_tui.backends.local.nn.qwen2_model import FastModel
from qwen_tui.backends.local.planning import draft_model, hardware
from qwen_tui.backends.local.planning import plan as planning
from qwen_tui.backends.local.planning.plan import Plan
from qwen_tui.backends.local.weights import transformers_loader
from qwen_tui.settings import Settings
from qwen_tui.types import Abilities, Environment, Event, Progress, Request, Token
from qwen_tui.vocab import Vocab

MOST_CHOICES: Final = 100
HASHED_BYTES: Final = 256 << 20
"""Weights up to this size are hashed when they are opened; larger ones when somebody asks."""
REFERENCE: Final = "transformers"
"""What computes on the reference path."""
PACKAGES: Final = (
    "qwen-tui", "torch", "transformers", "accelerate", "bitsandbytes", "tokenizers", "safetensors",
)  # fmt: skip

Path_: TypeAlias = Literal["auto", "reference", "fast"]
Report: TypeAlias = Callable[[Progress], None]


class Local:
    """A `Backend` over one loaded checkpoint."""

    abilities = Abilities(choices=MOST_CHOICES, score=True, branches=True, token_ids=True)

    def __init__(
        self,
        name: str,
        model: Model,
        vocab: Vocab,
        plan: Plan,
        environment: Environment,
        *,
        why: tuple[str, ...] = (),
        chunk: int = 0,
        max_draft: int = 0,
        disk_cache: DiskCache | None = None,
        lookup: bool = True,
        draft: tuple[FastModel, int] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`chunk` 0 takes the model's own; `max_draft` is how many ids may be drafted in a step,
        by prompt `lookup` or by a `draft` model with its context.
        """
        self.name = name
        self.environment = environment
        self.context = plan.context
        self.why = plan.why + why
        self.warnings = plan.warnings
        self._model = model
        self._vocab = vocab
        self._closed = False
        known = min(vocab.rows_known, model.vocab_rows)
        self._engine = Engine(
            cache=PrefixCache(model),
            vocab=vocab,
            spellings=cache(lambda: Spellings(known, vocab.data, vocab.is_added)),
            known=known,
            context=plan.context,
            chunk=chunk or model.chunk,
            threads=plan.threads,
            dtype=plan.dtype,
            clock=clock,
            max_draft=max_draft,
            disk_cache=disk_cache,
            lookup=lookup,
            drafter=_drafter(draft, model, known) if draft else None,
        )

    def stream(self, request: Request, cancel: threading.Event) -> Iterator[Event]:
        """Run one generation; an empty prompt is seeded with `<|endoftext|>`."""
        end = self._vocab.end_of_text
        if not request.prompt and end is not None:
            request = replace(request, prompt=(Token(end, self._vocab.data(end)),))
        return DecodingLoop(self._engine, request, cancel).stream()

    @property
    def speculates(self) -> bool:
        """Whether it decodes speculatively, by prompt lookup or by a draft model."""
        return self._engine.max_draft > 0

    @property
    def drafts(self) -> bool:
        """Whether a draft model is loaded."""
        return self._engine.drafter is not None

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, wherever they lie."""
        return self._model.weight_bytes

    @property
    def step_bytes(self) -> int:
        """Weight bytes that one decoding step reads."""
        return self._model.step_bytes

    @property
    def kv_bytes(self) -> int:
        """Bytes that one token adds to the KV cache; 0 where it cannot be told."""
        return self._model.kv_bytes

    @contextmanager
    def speculating(self, *, lookup: bool, draft: bool) -> Iterator[None]:
        """Meanwhile ids are guessed by prompt lookup and by the draft model only where it is True;
        by neither, each forward gives one token.
        """
        engine = self._engine
        self._engine = replace(
            engine,
            max_draft=engine.max_draft if lookup or draft else 0,
            lookup=engine.lookup and lookup,
            drafter=engine.drafter if draft else None,
        )
        try:
            yield
        finally:
            self._engine = engine

    def finish(self, seconds: float, stopped: Callable[[], bool]) -> None:
        """Wait until the last prompt is kept on disk, at most for so long; call it last."""
        if self._engine.disk_cache is not None:
            self._engine.disk_cache.finish(self._engine.cache, seconds, stopped)

    def close(self) -> None:
        """Free weights and cache; calling it twice is fine."""
        if not self._closed:
            self._closed = True
            try:
                if self._engine.disk_cache is not None:
                    self._engine.disk_cache.close(self._engine.cache)
            finally:
                self._model.close()
                if self._engine.drafter is not None:
                    self._engine.drafter.close()


def _drafter(draft: tuple[FastModel, int], model: Model, known: int) -> Drafter:
    """The draft model at work."""
    guesses, context = draft
    cost = min(1.0, guesses.step_cost(model)) if isinstance(model, FastModel) else 1.0
    return Drafter(guesses, known=known, context=context, cost=cost)


def opened(
    settings: Settings,
    report: Report,
    cancel: threading.Event,
    *,
    path: Path_ = "auto",
    chunk: int = 0,
    thresholds: Thresholds | None = None,
) -> Local:
    """Find, plan and load; raises Trouble. `path` picks the forward pass: `auto` is our own where
    the architecture is Qwen2, else transformers'. `thresholds` are the disk cache's.
    """
    snapshot = hub.find(settings.model)
    card = hub.card(snapshot.path, snapshot.name)
    machine = hardware.look()
    plan = planning.plan(card, settings, machine)
    if plan.device == "cpu":
        torch.set_num_threads(plan.threads)
    vocab = Vocab.load(snapshot.path)
    shape = None if path == "reference" or plan.spread else card.shape
    other = draft_model.located(settings) if settings.draft else None
    beside: draft_model.DraftModel | None = None
    more: tuple[str, ...] = ()
    if other is not None and shape is not None:
        plan = draft_model.narrowed(plan, card, other, settings)
        beside = draft_model.chosen(settings, other, snapshot, vocab, plan, machine)
        more = (beside.why,)
    elif other is not None:
        more = (f"no guesses by {other.name}: transformers' forward does not verify them",)
    model, kernels, why = _loaded(snapshot.path, shape, plan, report, cancel, path)
    draft = None
    if beside is not None:
        guesses, notes = _own(beside.folder, beside.shape, beside.plan, report, cancel)
        draft, more = (guesses, beside.plan.context), (*more, *notes)
    environment = _environment(snapshot, card, plan, vocab, model, kernels)
    kept = for_model(snapshot.path, shape, plan, settings, thresholds) if shape else None
    return Local(
        card.name,
        model,
        vocab,
        plan,
        environment,
        why=why + more,
        chunk=chunk,
        max_draft=model.max_draft if settings.lookup or draft else 0,
        disk_cache=kept,
        lookup=settings.lookup,
        draft=draft,
    )


def _own(
    folder: Path, shape: hub.Shape, plan: Plan, report: Report, cancel: threading.Event
) -> tuple[FastModel, tuple[str, ...]]:
    """Our own forward over a checkpoint, and what was odd in loading it."""
    from qwen_tui.backends.local.weights import packed_file

    if plan.quant == "nf4":
        transformers_loader.prepare(plan)
    kinds: dict[str, Any] = {"none": "dense"}
    found = packed_file.load(
        folder,
        shape,
        kind=kinds.get(plan.quant, plan.quant),
        dtype=transformers_loader.DTYPES[plan.computes],
        packing=plan.packing,
        device=torch.device(plan.device),
        cache=paths.packed_dir(),
        report=report,
        stopped=cancel.is_set,
    )
    model = FastModel(found.network, packed=found.packed, context=plan.context)
    return model, (found.note,) if found.note else ()


def _loaded(
    folder: Path,
    shape: hub.Shape | None,
    plan: Plan,
    report: Report,
    cancel: threading.Event,
    path: Path_,
) -> tuple[Model, str, tuple[str, ...]]:
    """The model, the name of what computes, and more reasons."""
    if path == "fast" and shape is None:
        raise ValueError("this architecture has no fast path")
    if shape is not None:
        model, notes = _own(folder, shape, plan, report, cancel)
        kernels = f"qwen-tui+{plan.packing}" if plan.packing else "qwen-tui"
        return model, kernels, ("our own Qwen2 forward over fused weights", *notes)
    from qwen_tui.backends.local.nn.transformers_model import Reference

    reference = Reference(transformers_loader.load(folder, plan, report, cancel))
    why = ["transformers' own forward"]
    if reference.recomputes:
        why.append(
            "no cache: this architecture's state cannot be fed in parts, so each step is slow"
        )
    return reference, REFERENCE, tuple(why)


def _environment(
    snapshot: hub.Snapshot, card: hub.Card, plan: Plan, vocab: Vocab, model: Model, kernels: str
) -> Environment:
    prints = hub.fingerprint(snapshot.path, hash_weights=card.bytes <= HASHED_BYTES)
    named = {"path": str(snapshot.path)} if snapshot.place == "folder" else {"repo": snapshot.name}
    environment = Environment(
        id="",
        engine="qwen-tui/local",
        model={
            **named,
            "commit": snapshot.commit,
            "files": dict(prints.files),
            "config_sha256": prints.config_sha256,
            "tokenizer_sha256": prints.tokenizer_sha256,
            "vocab_rows": model.vocab_rows,
            "vocab_tokens": vocab.rows_known,
        },
        dtype=plan.dtype,
        quant=plan.quant,
        attn=plan.attn,
        kernels=kernels,
        threads=plan.threads,
        device=plan.device,
        vers=_versions(),
    )
    return replace(environment, id=journal.environment_id(environment))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
