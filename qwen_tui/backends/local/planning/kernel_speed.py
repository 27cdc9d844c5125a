"""Which of several right kernels this CPU runs fastest: measured once, then remembered.

Law: a remembered measurement belongs to one CPU and one torch; anything else is measured anew, and
what cannot be written down is measured again next time. What else the machine does must not count:
so it is one thread's own processor time.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from qwen_tui import paths
from qwen_tui.backends.local.nn import fbgemm
from qwen_tui.backends.local.nn.linear import Dense, Int8
from qwen_tui.backends.local.planning.machine import Speeds

SHAPE: Final = (16_384, 4096)
"""Rows and columns of the matrix that is tried: beyond any cache in 8 bits."""
ROWS: Final = (1, 64)
"""Positions it is multiplied with: a decoding step and a piece of a prompt."""
TRIES: Final = 3
FILE: Final = "kernels.json"


def speeds(file: Path | None = None, *, clock: Callable[[], float] = time.thread_time) -> Speeds:
    """What was measured on this machine; measures now (some seconds) if nothing was."""
    file = file or paths.cache_dir() / FILE
    key = _machine()
    known = _read(file)
    try:
        return Speeds(**{name: float(value) for name, value in known[key].items()})
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    found = measured(clock=clock)
    known[key] = asdict(found)
    try:
        paths.ensure_folder(file.parent)
        with paths.replacing(file, mode=0o600) as stream:
            stream.write(json.dumps(known, indent=1).encode())
    except OSError:
        pass
    return found


@torch.inference_mode()
def measured(
    shape: tuple[int, int] = SHAPE, *, clock: Callable[[], float] = time.thread_time
) -> Speeds:
    """Time every kernel on a matrix of `shape`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _timed(shape, clock)
    finally:
        torch.set_num_threads(threads)


def _timed(shape: tuple[int, int], clock: Callable[[], float]) -> Speeds:
    rows, columns = shape
    tile = torch.randn(64, columns, generator=torch.Generator().manual_seed(0)) / 50
    whole = tile.repeat(rows // 64, 1)

    def tried(layer: Callable[[Tensor], Tensor], dtype: torch.dtype) -> float:
        total = 0.0
        for count in ROWS:
            x = tile[:count].to(dtype)
            times = []
            for _ in range(TRIES):
                began = clock()
                layer(x)
                times.append(clock() - began)
            total += 1000 * min(times) / count
        return total

    found = {"fp32": tried(Dense(whole), torch.float32)}
    found["bf16"] = tried(Dense(whole.bfloat16()), torch.bfloat16)
    layer = Int8.of(whole, None)
    found["int8"] = tried(layer, torch.bfloat16)
    found |= {"fbgemm16": 0.0, "fbgemm8": 0.0}
    if fbgemm.available():
        with fbgemm.packing():
            found["fbgemm8"] = tried(
                fbgemm.Packed8.of(layer.weight, layer.scale, None), torch.float32
            )
            del layer
            found["fbgemm16"] = tried(fbgemm.Packed16.of(whole, None), torch.float32)
    return Speeds(**found)


def _machine() -> str:
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith(("model name", "cpu family", "model\t", "stepping")):
                name += " " + line.partition(":")[2].strip()
            if not line:
                break
    except OSError:
        pass
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name} · {capability} · torch {torch.__version__}"


def _read(file: Path) -> dict[str, dict[str, float]]:
    try:
        known = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
