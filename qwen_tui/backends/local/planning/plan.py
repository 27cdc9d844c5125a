"""Decides how a checkpoint runs on this machine, before any of its weights are read.

Law: every choice has its reason in `why`; what cannot fit is refused here, with the sizes and what
to try instead. Nothing is loaded, so `doctor` can print it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol

from qwen_tui import hub
from qwen_tui.backends.local.planning.machine import Machine, Packing, gib
from qwen_tui.hub import Card, quantisation
from qwen_tui.types import NO_INPUT, TEMPORARY, USAGE, Trouble

SMALL_BYTES: Final = 256 << 20
"""Weights that take no more than this in float32 run in float32 on a CPU: it costs little, and the
ids are exact."""
CACHED_BYTES: Final = 64 << 20
"""Weights no larger than this in float32 run on one thread: with more, threads spend longer waiting
for each other than computing, and far longer when other programs use the cores."""
LEAST_CONTEXT: Final = 2048
"""A plan must have room for this many tokens (or the checkpoint's own context, when smaller)."""
HEAVY_BYTES: Final = 2 << 30
"""16-bit weights beyond this are read so slowly by a CPU that int8 is the better default."""
UNPACKED_ON_CPU: Final = {"fp8": 2, "compressed-tensors": 2, "mxfp4": 4}
"""The growth of weights that transformers unpacks to bf16 when there is no GPU for their format
(transformers/quantizers/quantizer_finegrained_fp8.py, quantizer_mxfp4.py)."""
QUANTISED: Final = ("int8", "int4", "nf4")
SLOW_NF4: Final = (
    "nf4 is slow on this CPU: there is no kernel for it, and every token unpacks all weights; "
    "--quant int8 and --quant int4 are many times faster"
)
KEPT_FREE: Final = 0.95
"""Share of the free memory a plan may count on."""


class PlanSettings(Protocol):
    """The settings that a plan depends on; `qwen_tui.settings.Settings` has them."""

    @property
    def device(self) -> str:
        """auto, cpu, cuda, cuda:N, mps, xpu."""
        ...

    @property
    def dtype(self) -> str:
        """auto, bf16, fp16, fp32."""
        ...

    @property
    def quant(self) -> str:
        """auto, none, int8, int4, nf4."""
        ...

    @property
    def context(self) -> int:
        """Most tokens; 0: the checkpoint's context length."""
        ...

    @property
    def threads(self) -> int:
        """CPU threads; 0: chosen by the plan."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How a checkpoint will be run.

    `device` is a torch device ("cpu", "cuda:0", "mps"); `dtype` bf16, fp16 or fp32: the weights',
    or what quantised ones compute in; `quant` none, int8, int4 or nf4; `attn` the attention
    implementation; `spread`: accelerate distributes the layers over several devices. Byte counts
    are for weights, KV cache and runtime at `context` tokens, and what is free. `packing` "fbgemm":
    linear layers in FBGEMM's layout, activations and KV cache in float32. `warnings` are shown to
    everyone; `why`, one sentence per choice, on request.
    """

    device: str
    dtype: str
    quant: str
    context: int
    attn: str
    threads: int
    spread: bool
    need_bytes: int
    free_bytes: int
    why: tuple[str, ...]
    packing: Packing = ""
    warnings: tuple[str, ...] = ()

    @property
    def computes(self) -> str:
        """The dtype of activations and KV cache."""
        return "fp32" if self.packing else self.dtype


def plan(card: Card, settings: PlanSettings, machine: Machine) -> Plan:
    """Raises `Trouble` 75, with sizes and alternatives, if it cannot fit, 2 for a bad setting."""
    if card.refused:
        raise Trouble(f"{card.name} {card.refused}", hint=card.cure, code=NO_INPUT)
    _check_context(card, settings)
    why: list[str] = []
    device = _device(settings, machine, why)
    card = _runnable(card, machine, device)
    dtype, packing = _dtype(card, settings, machine, device, why)
    quant, spread = _quant(card, settings, machine, device, dtype, why)
    if quant != "none":
        dtype, packing = _computing(card, settings, machine, device, quant, dtype, why)
    free = sum(machine.free.values()) if spread else machine.free[device]
    memory = needs(card, dtype, quant, packing)
    context = _context(card, settings, memory, free, why)
    need = memory.total(context)
    if need > free * KEPT_FREE:
        raise _refusal(card, settings, machine, device, dtype, quant, need, free)
    threads = _threads(card, settings, machine, device, why)
    slow = quant == "nf4" and device == "cpu" and not (machine.nf4_kernel or packing)
    return Plan(
        device, dtype, quant, context, "sdpa", threads, spread, need, free, tuple(why), packing,
        (*card.notes, *((SLOW_NF4,) if slow else ())),
    )  # fmt: skip


def lines(found: Plan) -> Iterator[str]:
    """The plan as a person reads it, one line each."""
    quant = "" if found.quant == "none" else f" · {found.quant}"
    yield f"{found.device} · {found.dtype}{quant} · {found.attn} · context {found.context:,}"
    yield f"memory: {gib(found.need_bytes)} needed, {gib(found.free_bytes)} free"
    yield from found.why
    yield from (f"warning: {each}" for each in found.warnings)


# -- choices ---------------------------------------------------------------------------------------


def _runnable(card: Card, machine: Machine, device: str) -> Card:
    """The card with the sizes that transformers needs on this device; Trouble 66 for a quantised
    checkpoint whose library is not installed.
    """
    if not card.quantised:
        return card
    why, cure = quantisation.refusal(card.quantised, machine.libraries, device)
    if why:
        raise Trouble(f"{card.name} {why}", hint=cure, code=NO_INPUT)
    times = UNPACKED_ON_CPU.get(card.quantised, 1) if device == "cpu" else 1
    return replace(card, bytes=times * card.bytes)


def _check_context(card: Card, settings: PlanSettings) -> None:
    if card.context and settings.context > card.context:
        raise Trouble(
            f"{card.name} has a context of {card.context:,} tokens, "
            f"not the {settings.context:,} that were asked for",
            hint=f"--ctx-size {card.context} at most",
            code=USAGE,
        )


def _device(settings: PlanSettings, machine: Machine, why: list[str]) -> str:
    if settings.device == "auto":
        device = machine.devices[0]
        reason = "no GPU was found" if device == "cpu" else "the fastest device found"
        why.append(f"{machine.names[device]} ({device}): {reason}")
        return device
    wanted = "cuda:0" if settings.device == "cuda" else settings.device
    if wanted not in machine.devices:
        raise Trouble(
            f"there is no device {settings.device}",
            hint=f"--device auto, or one of: {', '.join(machine.devices)}",
            code=USAGE,
        )
    why.append(f"{machine.names[wanted]} ({wanted}): asked for")
    return wanted


def _chooses(card: Card, machine: Machine, device: str) -> bool:
    """Whether there is a choice of kernels: for our own forward pass on an x86 CPU."""
    return device == "cpu" and machine.speeds is not None and card.shape is not None


def _small(card: Card) -> bool:
    return card.parameters * 4 <= SMALL_BYTES


def _dtype(
    card: Card, settings: PlanSettings, machine: Machine, device: str, why: list[str]
) -> tuple[str, Packing]:
    """The dtype of unquantised weights, and their packing."""
    if settings.dtype != "auto":
        why.append(f"{settings.dtype}: asked for")
        packs = settings.dtype == "fp16" and _chooses(card, machine, device)
        return settings.dtype, "fbgemm" if packs else ""
    if device == "cpu" and _small(card) and settings.quant in ("auto", "none"):
        why.append("fp32: a model this small is fast enough, and its ids are exact")
        return "fp32", ""
    if machine.speeds is not None and _chooses(card, machine, device) and not _small(card):
        speeds = machine.speeds()
        dtype, packing = speeds.dense()
        if dtype != "fp32" or _fits(card, "fp32", "none", machine.free[device]):
            why.append(f"{dtype}: measured here, ms for a matrix: {speeds.words()}")
            return dtype, packing
    return _native(card, machine, device, why), ""


def _native(card: Card, machine: Machine, device: str, why: list[str]) -> str:
    dtype = machine.native[device][0]
    if dtype == "fp32" and hub.needs(card, "fp32").total(0) > machine.free[device] * KEPT_FREE:
        why.append("bf16: this CPU converts it on the fly, but float32 would not fit")
        return "bf16"
    native = "native here" if dtype != "fp32" else "this CPU has no bf16 arithmetic"
    why.append(f"{dtype}: {native}")
    return dtype


def _computing(
    card: Card,
    settings: PlanSettings,
    machine: Machine,
    device: str,
    quant: str,
    dtype: str,
    why: list[str],
) -> tuple[str, Packing]:
    """The compute dtype of quantised weights, and their packing."""
    packs = quant in QUANTISED and settings.dtype in ("auto", "fp32")
    if packs and machine.speeds is not None and _chooses(card, machine, device):
        small: Packing = "fbgemm" if quant == "int8" else ""
        packing = small if _small(card) else machine.speeds().packing(quant)
        if packing == "kernel":
            why.append(f"fp32: what our own kernel computes in, the fastest here for {quant}")
        if packing == "fbgemm":
            why.append("fp32: what FBGEMM's int8 product computes in, on 14-bit activations")
        if packing:
            return "fp32", packing
    if settings.dtype == "auto" and (device == "cpu" or dtype == "fp32") and dtype != "bf16":
        why.append(f"bf16: what {quant} computes in")
        return "bf16", ""
    return dtype, ""


def needs(card: Card, dtype: str, quant: str, packing: Packing) -> hub.Needs:
    """Memory needs; with a packing the KV cache has 32 bits and unquantised weights 16."""
    if not packing:
        return hub.needs(card, dtype, quant)
    found = hub.needs(card, "fp16", quant)
    return replace(found, kv_per_token=2 * found.kv_per_token)


def _quant(
    card: Card, settings: PlanSettings, machine: Machine, device: str, dtype: str, why: list[str]
) -> tuple[str, bool]:
    """The quantisation, and whether the layers are spread over several devices."""
    if card.quantised:
        if settings.quant in QUANTISED:
            raise Trouble(
                f"{card.name} is already quantised ({quantisation.title(card.quantised)})",
                hint="leave --quant out, or load the unquantised checkpoint",
                code=USAGE,
            )
        title = quantisation.title(card.quantised)
        why.append(f"as published: the checkpoint is quantised with {title}")
        return "none", False
    _check_quant(card, settings, machine, device)
    if settings.quant != "auto":
        if settings.quant != "none":
            why.append(f"{settings.quant}: asked for")
        spread = settings.quant == "none" and _must_spread(card, machine, device, dtype)
        return settings.quant, spread
    heavy = settings.dtype == "auto" and card.parameters * 2 > HEAVY_BYTES and device == "cpu"
    if heavy and card.shape and _fits(card, "bf16", "int8", machine.free["cpu"]):
        why.append(f"int8: half the bytes of {dtype}, and a CPU's time goes into reading them")
        return "int8", False
    if _fits(card, dtype, "none", machine.free[device]):
        return "none", False
    need = gib(hub.needs(card, dtype).total(_least(card)))
    if _must_spread(card, machine, device, dtype, gpus_only=True):
        why.append(f"spread over the GPUs: one alone has no room for {need}")
        return "none", True
    four = _four_bits(card, machine, device)
    if four and _fits(card, "bf16", four, machine.free[device]):
        why.append(f"{four}: {dtype} would need {need} of the {gib(machine.free[device])} free")
        return four, False
    return "none", _must_spread(card, machine, device, dtype)


def _check_quant(card: Card, settings: PlanSettings, machine: Machine, device: str) -> None:
    """Trouble 2 for a quantisation that this machine or checkpoint has no kernel for."""
    if settings.quant == "int4" and not (device == "cpu" and card.shape):
        raise Trouble(
            "--quant int4 is for our own forward of Qwen2 models, on a CPU",
            hint="--quant nf4 is 4 bits on other devices",
            code=USAGE,
        )
    ours = settings.quant == "int8" and card.shape is not None
    if settings.quant in ("nf4", "int8") and not (machine.bitsandbytes or ours):
        raise Trouble(
            f"--quant {settings.quant} needs bitsandbytes, which is not installed",
            hint="pip install bitsandbytes, or leave --quant out",
            code=USAGE,
        )


def _four_bits(card: Card, machine: Machine, device: str) -> str:
    """The 4-bit format that this device multiplies; "" for none."""
    if device == "cpu" and card.shape and not (machine.nf4_kernel and machine.bitsandbytes):
        return "int4"
    return "nf4" if machine.bitsandbytes else ""


def _threads(
    card: Card, settings: PlanSettings, machine: Machine, device: str, why: list[str]
) -> int:
    """How many threads to compute with."""
    if settings.threads:
        reason = "asked for"
    elif device == "cpu" and card.parameters * 4 <= CACHED_BYTES and machine.threads > 1:
        why.append("1 thread: weights that stay in a core's cache gain nothing from a second one")
        return 1
    else:
        reason = "as the machine has"
    threads = settings.threads or machine.threads
    if device == "cpu":
        why.append(f"{threads} threads: {reason}")
    return threads


def _must_spread(
    card: Card, machine: Machine, device: str, dtype: str, *, gpus_only: bool = False
) -> bool:
    """Whether one GPU is too small while all devices together are large enough."""
    if not device.startswith("cuda") or _fits(card, dtype, "none", machine.free[device]):
        return False
    free = sum(
        bytes_free
        for name, bytes_free in machine.free.items()
        if name.startswith("cuda") or not gpus_only
    )
    return _fits(card, dtype, "none", free)


def _least(card: Card) -> int:
    return min(card.context or LEAST_CONTEXT, LEAST_CONTEXT)


def _fits(card: Card, dtype: str, quant: str, free: int) -> bool:
    return hub.needs(card, dtype, quant).total(_least(card)) <= free * KEPT_FREE


def _context(
    card: Card, settings: PlanSettings, needs: hub.Needs, free: int, why: list[str]
) -> int:
    """The context in tokens: as asked for or as the checkpoint has it, reduced to what memory can
    hold.
    """
    full = card.context or LEAST_CONTEXT
    if settings.context:
        return settings.context
    left = int(free * KEPT_FREE) - needs.total(0)
    room = left // needs.kv_per_token if needs.kv_per_token else full
    if room >= full:
        return full
    context = max(_least(card), room // 256 * 256)
    if context < full:
        why.append(
            f"context {context:,} of {full:,}: the whole KV cache would take "
            f"{gib(needs.kv_per_token * full)}"
        )
    return context


def _refusal(
    card: Card,
    settings: PlanSettings,
    machine: Machine,
    device: str,
    dtype: str,
    quant: str,
    need: int,
    free: int,
) -> Trouble:
    offers = []
    room = machine.free[device]
    for other in ("int8", _four_bits(card, machine, device)):
        usable = other and (machine.bitsandbytes or card.shape) and not card.quantised
        if usable and other != quant and _fits(card, dtype, other, room):
            size = gib(hub.needs(card, dtype, other).total(_least(card)))
            offers.append(f"--quant {other} needs {size}")
    if settings.context > LEAST_CONTEXT and _fits(card, dtype, quant, room):
        offers.append(f"--ctx-size {_least(card)}")
    if device != "cpu" and _fits(card, dtype, quant, machine.free["cpu"]):
        offers.append(f"--device cpu has {gib(machine.free['cpu'])}")
    offers.append("a smaller model (qwen-tui models list)")
    how = dtype if quant == "none" else quant
    return Trouble(
        f"{card.name} in {how} needs {gib(need)} of memory; {gib(free)} are free on {device}",
        hint="; ".join(offers),
        code=TEMPORARY,
    )
