"""From settings to a loaded backend: find the checkpoint, plan, load it and its draft model.

Law: what cannot be run is refused by `planned`, before any weights are read.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast

import torch

from qwen_tui import hub, journal, paths
from qwen_tui.backends.local.backend import Local
from qwen_tui.backends.local.kv.disk_cache import Thresholds, for_model
from qwen_tui.backends.local.nn.linear import Kind
from qwen_tui.backends.local.nn.model import Model
from qwen_tui.backends.local.nn.qwen2_model import FastModel
from qwen_tui.backends.local.planning import draft_model, hardware
from qwen_tui.backends.local.planning import plan as planning
from qwen_tui.backends.local.planning.machine import Machine
from qwen_tui.backends.local.planning.plan import Plan
from qwen_tui.backends.local.weights import packed_file, transformers_loader
from qwen_tui.settings import Settings
from qwen_tui.types import Environment, Progress
from qwen_tui.vocab import Vocab

HASHED_BYTES: Final = 256 << 20
"""Weights up to this size are hashed on opening; larger ones on request."""
PACKAGES: Final = (
    "qwen-tui", "torch", "transformers", "accelerate", "bitsandbytes", "tokenizers", "safetensors",
)  # fmt: skip

Forward: TypeAlias = Literal["auto", "reference", "fast"]
Report: TypeAlias = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Planned:
    """A checkpoint that can be run here, and its plan; the draft model's card if the settings name
    one.
    """

    snapshot: hub.Snapshot
    card: hub.Card
    machine: Machine
    plan: Plan
    draft: hub.Card | None = None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A forward pass with its weights; `kernels` names what computes, `why` and `warnings` report
    on the loading.
    """

    model: Model
    kernels: str
    why: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def planned(settings: Settings) -> Planned:
    """Find the checkpoint that the settings name and plan how to run it here; raises Trouble."""
    snapshot = hub.find(settings.model)
    card = hub.card(snapshot.path, snapshot.name)
    machine = hardware.probe()
    plan = planning.plan(card, settings, machine)
    draft = draft_model.find_card(settings) if settings.draft else None
    if draft is not None and card.shape is not None and not plan.spread:
        plan = draft_model.leave_room(plan, card, draft, settings)
    plan = replace(plan, warnings=(*snapshot.notes, *plan.warnings))
    return Planned(snapshot, card, machine, plan, draft)


def opened(
    settings: Settings,
    report: Report,
    cancel: threading.Event,
    *,
    forward: Forward = "auto",
    chunk: int = 0,
    thresholds: Thresholds | None = None,
) -> Local:
    """Find, plan and load; raises Trouble. `forward` picks the forward pass: `auto` is our own if
    it runs the checkpoint, else transformers'. `thresholds` are the disk cache's.
    """
    found = planned(settings)
    snapshot, plan = found.snapshot, found.plan
    if plan.device == "cpu":
        torch.set_num_threads(plan.threads)
    vocab = Vocab.load(snapshot.path)
    shape = None if forward == "reference" or plan.spread else found.card.shape
    if forward == "fast" and shape is None:
        raise ValueError("our own forward does not run this checkpoint")
    chosen, why = _draft_of(settings, found, vocab, own=shape is not None)
    loaded = _load(found, shape, report, cancel)
    draft = None
    if chosen is not None:
        beside = _load_own(chosen.folder, chosen.shape, chosen.plan, report, cancel)
        draft = (cast("FastModel", beside.model), chosen.plan.context)
        why += beside.why[1:]
    kept = for_model(snapshot.path, shape, plan, settings, thresholds) if shape else None
    return Local(
        found.card.name,
        loaded.model,
        vocab,
        replace(plan, warnings=(*plan.warnings, *loaded.warnings)),
        _environment(found, vocab, loaded),
        why=loaded.why + why,
        chunk=chunk,
        max_draft=loaded.model.max_draft if settings.lookup or draft else 0,
        disk_cache=kept,
        lookup=settings.lookup,
        draft=draft,
    )


def _draft_of(
    settings: Settings, found: Planned, vocab: Vocab, *, own: bool
) -> tuple[draft_model.DraftModel | None, tuple[str, ...]]:
    """The planned draft model, if one was asked for, and sentences about it."""
    if found.draft is None:
        return None, ()
    if not own:
        why = f"no drafts by {found.draft.name}: transformers' forward does not verify them"
        return None, (why,)
    chosen = draft_model.plan_draft(
        settings, found.draft, found.snapshot, vocab, found.plan, found.machine
    )
    return chosen, (chosen.why,)


def _load(
    found: Planned, shape: hub.Shape | None, report: Report, cancel: threading.Event
) -> LoadedModel:
    """The model by our own forward pass if there is a `shape`, else by transformers'."""
    if shape is not None:
        return _load_own(found.snapshot.path, shape, found.plan, report, cancel)
    from qwen_tui.backends.local.nn.transformers_model import Reference

    network, warnings = transformers_loader.load(found.card, found.plan, report, cancel)
    model = Reference(network)
    why = ["transformers' own forward"]
    if model.recomputes:
        why.append("no cache: this architecture's state cannot be fed in parts; each step is slow")
    return LoadedModel(model, "transformers", tuple(why), warnings)


def _load_own(
    folder: Path, shape: hub.Shape, plan: Plan, report: Report, cancel: threading.Event
) -> LoadedModel:
    """A checkpoint by our own forward pass."""
    if plan.quant == "nf4" and plan.packing != "kernel":
        transformers_loader.prepare(plan)
    kind = "dense" if plan.quant == "none" else plan.quant
    found = packed_file.load(
        folder,
        shape,
        kind=cast("Kind", kind),
        dtype=transformers_loader.DTYPES[plan.computes],
        packing=plan.packing,
        device=torch.device(plan.device),
        cache=paths.packed_dir(),
        report=report,
        stopped=cancel.is_set,
    )
    model = FastModel(found.network, packed=found.packed, context=plan.context)
    kernels = f"qwen-tui+{plan.packing}" if plan.packing else "qwen-tui"
    why = ("our own Qwen2 forward over fused weights", *filter(None, (found.note,)))
    return LoadedModel(model, kernels, why, found.warnings)


def _environment(found: Planned, vocab: Vocab, loaded: LoadedModel) -> Environment:
    """The environment that a session records: model, device, versions."""
    snapshot, plan = found.snapshot, found.plan
    prints = hub.fingerprint(snapshot.path, hash_weights=found.card.bytes <= HASHED_BYTES)
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
            "vocab_rows": loaded.model.vocab_rows,
            "vocab_tokens": vocab.rows_known,
        },
        dtype=plan.dtype,
        quant=found.card.quantised or plan.quant,
        attn=plan.attn,
        kernels=loaded.kernels,
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
