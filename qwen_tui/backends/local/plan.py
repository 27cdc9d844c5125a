"""What this machine can do with a checkpoint, decided before a byte of it is read.

Law: every choice has its reason in `why`; what cannot fit is refused here, with numbers and offers.
Nothing is loaded, so `doctor` can print it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from qwen_tui import hub
from qwen_tui.hub import Card
from qwen_tui.types import TEMPORARY, USAGE, Trouble

GIB: Final = 1 << 30
SMALL_BYTES: Final = 256 << 20
"""Weights that take no more than this in float32 run in float32 on a CPU: it costs little, and the
ids are exact."""
CACHED_BYTES: Final = 64 << 20
"""Weights no larger than this in float32 run on one thread: waiting for each other costs threads
more than the arithmetic, and many times as much when another program wants the cores."""
LEAST_CONTEXT: Final = 2048
"""A plan must have room for this many tokens (or the checkpoint's own context, when smaller)."""
KEPT_FREE: Final = 0.95
"""Share of the free memory a plan may count on."""


class Wishes(Protocol):
    """What a plan needs of the settings; `qwen_tui.settings.Settings` has them."""

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
        """auto, none, nf4, int8."""
        ...

    @property
    def context(self) -> int:
        """Most tokens, 0: the checkpoint's."""
        ...

    @property
    def threads(self) -> int:
        """CPU threads, 0: as the machine allows."""
        ...


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found: torch device names, free bytes by device ("cpu" always), which dtypes run
    natively, whether bitsandbytes is installed.
    """

    devices: tuple[str, ...]
    free: dict[str, int]
    native: dict[str, tuple[str, ...]]
    bitsandbytes: bool
    threads: int
    names: dict[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a checkpoint will be run.

    `device` is a torch device ("cpu", "cuda:0", "mps"); `dtype` bf16, fp16 or fp32 (what NF4
    computes in); `quant` none, nf4 or int8; `attn` the attention implementation; `spread` says that
    accelerate lays the layers over several devices. Bytes are what weights, KV cache and runtime
    need at `context` tokens, and what is free. `why` are sentences, one per choice.
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


def plan(card: Card, wishes: Wishes, machine: Machine | None = None) -> Plan:
    """Decide; raises `Trouble` 75 with GiB and offers when it cannot fit, 2 for a wish that this
    machine or checkpoint cannot grant.
    """
    machine = machine or look()
    _check_context(card, wishes)
    why: list[str] = []
    device = _device(wishes, machine, why)
    dtype = _dtype(card, wishes, machine, device, why)
    quant, spread = _quant(card, wishes, machine, device, dtype, why)
    if quant != "none" and dtype == "fp32" and wishes.dtype == "auto":
        dtype = "bf16"
        why.append(f"bf16: what {quant} computes in")
    free = _free(machine, device, spread)
    needs = hub.needs(card, dtype, quant)
    context = _context(card, wishes, needs, free, why)
    need = needs.total(context)
    if need > free * KEPT_FREE:
        raise _refusal(card, wishes, machine, device, dtype, quant, need, free)
    threads = _worth(card, wishes, machine, device, why)
    return Plan(device, dtype, quant, context, "sdpa", threads, spread, need, free, tuple(why))


def lines(found: Plan) -> Iterator[str]:
    """The plan as a person reads it, one line each."""
    quant = "" if found.quant == "none" else f" · {found.quant}"
    yield f"{found.device} · {found.dtype}{quant} · {found.attn} · context {found.context:,}"
    yield f"memory: {gib(found.need_bytes)} needed, {gib(found.free_bytes)} free"
    yield from found.why


def gib(count: int) -> str:
    """Bytes as GiB with one decimal."""
    return f"{count / GIB:.1f} GiB"


# -- what there is ---------------------------------------------------------------------------------


def look() -> Machine:
    """Ask torch and the system what is there; imports torch."""
    import torch

    devices, free, native, names = [], {"cpu": host_free()}, {"cpu": _cpu_native()}, {"cpu": "CPU"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            name = f"cuda:{index}"
            devices.append(name)
            free[name] = torch.cuda.mem_get_info(index)[0]
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            native[name] = ("bf16", "fp16", "fp32") if bf16 else ("fp16", "fp32")
            names[name] = torch.cuda.get_device_name(index)
    if torch.backends.mps.is_available():
        devices.append("mps")
        free["mps"] = min(int(torch.mps.recommended_max_memory()), free["cpu"])
        newer = torch.backends.mps.is_macos_or_newer(14, 0)
        native["mps"] = ("bf16", "fp16", "fp32") if newer else ("fp16", "fp32")
        names["mps"] = "Apple GPU"
    return Machine(
        devices=(*devices, "cpu"),
        free=free,
        native=native,
        bitsandbytes=importlib.util.find_spec("bitsandbytes") is not None,
        threads=_threads(torch.get_num_threads()),
        names=names,
    )


def _cpu_native() -> tuple[str, ...]:
    """bf16 where the CPU multiplies it (AVX512-BF16, AMX, or any Arm of ours), else fp32."""
    import platform

    import torch

    asked: Callable[[], bool] = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    arm = platform.machine().lower() in ("arm64", "aarch64")
    return ("bf16", "fp32") if asked() or arm else ("fp32",)


def _threads(default: int) -> int:
    """torch's own choice, cut to the processors this process may use and to a container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else default
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            allowed = min(allowed, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return max(1, min(default, allowed))


def host_free() -> int:
    """Bytes of main memory a process can still get: MemAvailable, within the container's limit."""
    try:
        meminfo = Path("/proc/meminfo").read_text()
        free = next(
            int(line.split()[1]) * 1024
            for line in meminfo.splitlines()
            if line.startswith("MemAvailable:")
        )
    except (OSError, StopIteration):
        free = _pages_free()
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            free = min(free, max(0, int(Path(limit).read_text()) - int(Path(used).read_text())))
        except (OSError, ValueError):
            continue
    return free


def _pages_free() -> int:
    """Where there is no /proc: three quarters of all memory, a guess that is better than none."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    except (ValueError, OSError, AttributeError):
        return 8 * GIB


# -- choices ---------------------------------------------------------------------------------------


def _check_context(card: Card, wishes: Wishes) -> None:
    if card.context and wishes.context > card.context:
        raise Trouble(
            f"{card.name} has a context of {card.context:,} tokens, "
            f"not the {wishes.context:,} that were asked for",
            hint=f"--ctx-size {card.context} at most",
            code=USAGE,
        )


def _device(wishes: Wishes, machine: Machine, why: list[str]) -> str:
    if wishes.device == "auto":
        device = machine.devices[0]
        reason = "no GPU was found" if device == "cpu" else "the fastest device found"
        why.append(f"{machine.names[device]} ({device}): {reason}")
        return device
    wanted = "cuda:0" if wishes.device == "cuda" else wishes.device
    if wanted not in machine.devices:
        raise Trouble(
            f"there is no device {wishes.device}",
            hint=f"--device auto, or one of: {', '.join(machine.devices)}",
            code=USAGE,
        )
    why.append(f"{machine.names[wanted]} ({wanted}): asked for")
    return wanted


def _dtype(card: Card, wishes: Wishes, machine: Machine, device: str, why: list[str]) -> str:
    if wishes.dtype != "auto":
        why.append(f"{wishes.dtype}: asked for")
        return wishes.dtype
    small = card.parameters * 4 <= SMALL_BYTES
    if device == "cpu" and small and wishes.quant in ("auto", "none"):
        why.append("fp32: a model this small is fast enough, and its ids are exact")
        return "fp32"
    dtype = machine.native[device][0]
    if dtype == "fp32" and hub.needs(card, "fp32").total(0) > machine.free[device] * KEPT_FREE:
        why.append("bf16: this CPU converts it on the fly, but float32 would not fit")
        return "bf16"
    native = "native here" if dtype != "fp32" else "this CPU has no bf16 arithmetic"
    why.append(f"{dtype}: {native}")
    return dtype


def _quant(
    card: Card, wishes: Wishes, machine: Machine, device: str, dtype: str, why: list[str]
) -> tuple[str, bool]:
    """The quantisation, and whether the layers are spread over devices."""
    if card.quantised:
        if wishes.quant in ("nf4", "int8"):
            raise Trouble(
                f"{card.name} is already quantised ({card.quantised})",
                hint="leave --quant out, or load the unquantised checkpoint",
                code=USAGE,
            )
        why.append(f"as packed: the checkpoint is quantised with {card.quantised}")
        return "none", False
    if wishes.quant in ("nf4", "int8") and not machine.bitsandbytes:
        raise Trouble(
            f"--quant {wishes.quant} needs bitsandbytes, which is not installed",
            hint="pip install bitsandbytes, or leave --quant out",
            code=USAGE,
        )
    if wishes.quant != "auto":
        if wishes.quant != "none":
            why.append(f"{wishes.quant}: asked for")
        return wishes.quant, wishes.quant == "none" and _must_spread(card, machine, device, dtype)
    if _fits(card, dtype, "none", machine.free[device]):
        return "none", False
    need = gib(hub.needs(card, dtype).total(_least(card)))
    if _must_spread(card, machine, device, dtype, gpus_only=True):
        why.append(f"spread over the GPUs: one alone has no room for {need}")
        return "none", True
    if machine.bitsandbytes and _fits(card, "bf16", "nf4", machine.free[device]):
        why.append(f"nf4: {dtype} would need {need} of the {gib(machine.free[device])} free")
        return "nf4", False
    return "none", _must_spread(card, machine, device, dtype)


def _worth(card: Card, wishes: Wishes, machine: Machine, device: str, why: list[str]) -> int:
    """How many threads to compute with."""
    if wishes.threads:
        reason = "asked for"
    elif device == "cpu" and card.parameters * 4 <= CACHED_BYTES and machine.threads > 1:
        why.append("1 thread: weights that stay in a core's cache gain nothing from a second one")
        return 1
    else:
        reason = "as the machine has"
    threads = wishes.threads or machine.threads
    if device == "cpu":
        why.append(f"{threads} threads: {reason}")
    return threads


def _must_spread(
    card: Card, machine: Machine, device: str, dtype: str, *, gpus_only: bool = False
) -> bool:
    """Whether one GPU is too small and all devices together are large enough."""
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


def _free(machine: Machine, device: str, spread: bool) -> int:
    return sum(machine.free.values()) if spread else machine.free[device]


def _context(card: Card, wishes: Wishes, needs: hub.Needs, free: int, why: list[str]) -> int:
    """As many tokens as asked for or as the checkpoint knows, cut to what memory can hold."""
    full = card.context or LEAST_CONTEXT
    if wishes.context:
        return wishes.context
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
    wishes: Wishes,
    machine: Machine,
    device: str,
    dtype: str,
    quant: str,
    need: int,
    free: int,
) -> Trouble:
    offers = []
    room = machine.free[device]
    for other in ("int8", "nf4"):
        if (
            other != quant
            and machine.bitsandbytes
            and not card.quantised
            and _fits(card, dtype, other, room)
        ):
            size = gib(hub.needs(card, dtype, other).total(_least(card)))
            offers.append(f"--quant {other} needs {size}")
    if wishes.context > LEAST_CONTEXT and _fits(card, dtype, quant, room):
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
