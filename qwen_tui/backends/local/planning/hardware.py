"""Probes devices, memory and libraries for planning. Nothing is decided here."""

from __future__ import annotations

import importlib.util

import torch

from qwen_tui.backends.local.nn import fbgemm
from qwen_tui.backends.local.nn.kernel import installed
from qwen_tui.backends.local.nn.linear import has, multiplies
from qwen_tui.backends.local.planning import host_limits, kernel_speed
from qwen_tui.backends.local.planning.machine import Machine
from qwen_tui.hub import quantisation


def probe() -> Machine:
    """Ask torch and the system for devices, free memory, dtypes, threads and libraries."""
    devices, free, native, names = (
        [],
        {"cpu": host_limits.free_bytes()},
        {"cpu": _cpu_native()},
        {"cpu": "CPU"},
    )
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
        bitsandbytes=_installed("bitsandbytes"),
        threads=host_limits.processors(torch.get_num_threads()),
        names=names,
        speeds=kernel_speed.speeds if fbgemm.available() or installed.available() else None,
        nf4_kernel=has("_is_avx512_bf16_supported"),
        libraries=frozenset(filter(_installed, quantisation.modules())),
    )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # the package around it is not there
        return False


def _cuda_free(index: int) -> int | None:
    """Free bytes of a GPU; None if nothing can run on it: it is full, another process has exclusive
    use of it, or this torch has no kernels for it.
    """
    try:
        free = torch.cuda.mem_get_info(index)[0]
        torch.ones(2, device=f"cuda:{index}").sum().item()
    except RuntimeError:
        return None
    return int(free)


def _cuda_native(index: int) -> tuple[str, ...]:
    """Dtypes that a GPU runs natively: bf16 from Ampere on, and with ROCm."""
    newer = torch.version.hip is not None or torch.cuda.get_device_capability(index)[0] >= 8
    return ("bf16", "fp16", "fp32") if newer else ("fp16", "fp32")


def _cpu_native() -> tuple[str, ...]:
    """Dtypes that this CPU runs natively: bf16 with AVX512-BF16, AMX or Armv8.6, else fp32."""
    return ("bf16", "fp32") if multiplies(torch.bfloat16) else ("fp32",)
