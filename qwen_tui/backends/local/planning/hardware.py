"""What is there to compute with: devices, free memory, dtypes, threads. Nothing is decided here."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch

from qwen_tui.backends.local.nn import fbgemm
from qwen_tui.backends.local.nn.linear import has, multiplies
from qwen_tui.backends.local.planning import kernel_speed
from qwen_tui.backends.local.planning.machine import GIB, Machine


def look() -> Machine:
    """Ask torch and the system what is there."""
    devices, free, native, names = [], {"cpu": host_free()}, {"cpu": _cpu_native()}, {"cpu": "CPU"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            room = _cuda_free(index)
            if room is None:
                continue
            name = f"cuda:{index}"
            devices.append(name)
            free[name] = room
            native[name] = _cuda_native(index)
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
        speeds=kernel_speed.speeds if fbgemm.available() else None,
        nf4_kernel=has("_is_avx512_bf16_supported"),
    )


def _cuda_free(index: int) -> int | None:
    """Free bytes of a GPU; None if nothing can run there: it is full, another process has it alone,
    or this torch has no kernels for it.
    """
    try:
        free = torch.cuda.mem_get_info(index)[0]
        torch.ones(2, device=f"cuda:{index}").sum().item()
    except RuntimeError:
        return None
    return int(free)


def _cuda_native(index: int) -> tuple[str, ...]:
    """bf16 from Ampere on, and on whatever ROCm drives."""
    newer = torch.version.hip is not None or torch.cuda.get_device_capability(index)[0] >= 8
    return ("bf16", "fp16", "fp32") if newer else ("fp16", "fp32")


def _cpu_native() -> tuple[str, ...]:
    """bf16 where the CPU multiplies it (AVX512-BF16, AMX, Armv8.6), else fp32."""
    return ("bf16", "fp32") if multiplies(torch.bfloat16) else ("fp32",)


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
