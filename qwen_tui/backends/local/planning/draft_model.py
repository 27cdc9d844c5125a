"""The draft model: found, compared with the model, and planned into the memory that it leaves free.

Law: what does not fit or does not match is refused before any weights are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from qwen_tui import hub
from qwen_tui.backends.local.planning import plan as planning
from qwen_tui.backends.local.planning.machine import Machine, gib
from qwen_tui.backends.local.planning.plan import KEPT_FREE, Plan
from qwen_tui.hub.memory_needs import RUNTIME_BYTES
from qwen_tui.settings import Settings
from qwen_tui.types import TEMPORARY, USAGE, Trouble
from qwen_tui.vocab import Vocab

CURE = 'a smaller Qwen2 model of the same vocabulary, or --draft "" for none'


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A draft model that fits the model, and how it will be run."""

    name: str
    folder: Path
    shape: hub.Shape
    plan: Plan

    @property
    def why(self) -> str:
        """One sentence for the plan's reasons."""
        plan = self.plan
        how = plan.dtype if plan.quant == "none" else plan.quant
        return f"drafts by {self.name} in {how} ({gib(_share(plan))} more), each of them verified"


def plan_draft(
    settings: Settings,
    draft: hub.Card,
    snapshot: hub.Snapshot,
    vocab: Vocab,
    plan: Plan,
    machine: Machine,
) -> DraftModel:
    """The draft model for the model in `snapshot`, planned as `plan` on `machine`; raises Trouble 2
    if their vocabularies differ, 75 if both do not fit into memory.
    """
    if draft.path.resolve() == snapshot.path.resolve():
        raise Trouble("the draft is the model itself, and no quicker", hint=CURE, code=USAGE)
    if draft.shape is None:
        raise Trouble(
            f"{draft.name} cannot be a draft: it is no plain Qwen2 model", hint=CURE, code=USAGE
        )
    _compare(draft, vocab)
    return DraftModel(draft.name, draft.path, draft.shape, _planned(draft, settings, plan, machine))


def leave_room(plan: Plan, card: hub.Card, draft: hub.Card, settings: Settings) -> Plan:
    """The model's plan with a context that leaves room for the draft model's weights and cache,
    unless the settings ask for a context size.
    """
    if settings.context:
        return plan
    beside = hub.needs(draft, "bf16" if draft.parameters * 4 > planning.SMALL_BYTES else "fp32")
    cache = hub.needs(draft, "fp32").kv_per_token
    needs = planning.needs(card, plan.dtype, plan.quant, plan.packing)
    room = int(plan.free_bytes * KEPT_FREE) - needs.total(0) - beside.weights
    context = room // (needs.kv_per_token + cache) // 256 * 256
    least = min(plan.context, planning.LEAST_CONTEXT)
    if context >= plan.context or context < least:
        return plan
    why = f"context {context:,}: so that {draft.name} fits in beside it"
    return replace(plan, context=context, need_bytes=needs.total(context), why=(*plan.why, why))


def find_card(settings: Settings) -> hub.Card:
    """The card of the draft model that the settings name; Trouble 66 if it is not on disk."""
    try:
        snapshot = hub.find(settings.draft)
        return hub.card(snapshot.path, snapshot.name)
    except Trouble as trouble:
        raise Trouble(
            f"the draft: {trouble.message}", hint=trouble.hint, code=trouble.code
        ) from None


def _compare(draft: hub.Card, vocab: Vocab) -> None:
    """Trouble if an ordinary id has other bytes in the draft model's vocabulary than in the
    model's.
    """
    file = draft.path / "tokenizer.json"
    if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == vocab.sha256:
        return
    for id, (ours, other) in enumerate(_spellings(vocab, Vocab.load(draft.path))):
        if ours != other:
            raise Trouble(
                f"{draft.name} cannot be the draft: its token {id:,} is not the model's",
                hint=CURE,
                code=USAGE,
            )


def _spellings(one: Vocab, other: Vocab) -> Iterator[tuple[bytes, bytes]]:
    """The bytes of each id in both vocabularies, without added tokens and padding."""
    for id in range(max(one.rows_known, other.rows_known)):
        ours, theirs = (b"" if each.is_added(id) else each.data(id) for each in (one, other))
        yield ours, theirs


def _planned(card: hub.Card, settings: Settings, plan: Plan, machine: Machine) -> Plan:
    """The draft model's plan on the model's device, in the memory that the model leaves free."""
    card = replace(card, context=min(card.context or plan.context, plan.context))
    left = max(0, machine.free[plan.device] - int(_share(plan) / KEPT_FREE))
    there = replace(machine, devices=(plan.device,), free={"cpu": 0, plan.device: left})
    # Drafts need not be exact, only quick: the draft model is quantised where the model is.
    quant = "auto" if plan.quant == "none" or card.quantised else plan.quant
    wishes = replace(
        settings, device=plan.device, dtype="auto", quant=quant, context=0, threads=plan.threads
    )
    try:
        return planning.plan(card, wishes, there)
    except Trouble as trouble:
        if trouble.code != TEMPORARY:
            raise
    least = "nf4" if quant == "auto" and there.bitsandbytes else quant
    need = hub.needs(card, "bf16", least).weights
    raise Trouble(
        f"{card.name} needs {gib(need)} of memory and a cache beside the {gib(plan.need_bytes)} "
        f"of the model; {gib(machine.free[plan.device])} are free on {plan.device}",
        hint="--ctx-size, --quant nf4, or " + CURE,
        code=TEMPORARY,
    )


def _share(plan: Plan) -> int:
    """Bytes of weights and cache; the runtime's memory is shared by both models."""
    return max(0, plan.need_bytes - RUNTIME_BYTES)
