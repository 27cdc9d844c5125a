"""Memory use as the system reports it, and recognising out-of-memory errors."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import torch


def anonymous_bytes() -> int:
    """Bytes of this process's main memory that no file backs (RssAnon); where the system does not
    report it, the peak resident size.
    """
    try:
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def used_bytes(device: torch.device) -> int:
    """Bytes in use on the device that computes: a GPU's allocations, or main memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.current_allocated_memory())
    return anonymous_bytes()


def ran_out(error: BaseException) -> bool:
    """Whether an error means out of memory: torch raises plain RuntimeErrors on a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed")
    return isinstance(error, RuntimeError) and any(each in str(error).lower() for each in words)


def release() -> None:
    """Return freed memory to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
