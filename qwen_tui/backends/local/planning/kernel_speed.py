"""Measures which of several equivalent kernels is fastest on this CPU, and remembers it.

Law: a stored measurement is used only for the same CPU and torch version; if it cannot be stored it
is repeated at the next start. Times are one thread's processor time, so that other load does not
count.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from qwen_tui import paths
from qwen_tui.backends.local.nn import fbgemm, int4, nf4
from qwen_tui.backends.local.nn.kernel import build, installed
from qwen_tui.backends.local.nn.kernel.kernel_linear import TERMS, KernelLinear
from qwen_tui.backends.local.nn.kernel.library import GROUP, PANEL, KernelKind, Library
from qwen_tui.backends.local.nn.linear import Dense, Int8
from qwen_tui.backends.local.planning.machine import Speeds

SHAPE: Final = (16_384, 4096)
"""Rows and columns of the test matrix: larger than any cache in 8 bits."""
ROWS: Final = (1, 64)
"""Positions it is multiplied with: a decoding step and a piece of a prompt."""
TRIES: Final = 3
FILE: Final = "kernels.json"
OWN: Final[dict[str, KernelKind]] = {"8": "int8", "4": "int4", "_nf4": "nf4"}
"""Our kernel's weight formats, by the suffix of their names in `Speeds`."""


def speeds(file: Path | None = None, *, clock: Callable[[], float] = time.thread_time) -> Speeds:
    """This machine's stored measurement; measures now (some seconds) if there is none."""
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
    if (library := installed.available()) is not None:
        x32 = partial(tried, dtype=torch.float32)
        found |= {f"own{name}": x32(_own(shape, kind, library)) for name, kind in OWN.items()}
        found |= {name: tried(layer, torch.bfloat16) for name, layer in _four_bits(shape)}
    return Speeds(**found)


def _own(shape: tuple[int, int], kind: KernelKind, library: Library) -> KernelLinear:
    """A layer of our kernel with arbitrary contents, which do not affect its speed."""
    rows, columns = shape
    panels, groups = math.ceil(rows / PANEL), math.ceil(columns / GROUP)
    weight = torch.full((panels, groups, 16 if kind == "int8" else 8, 64), 0x78, dtype=torch.uint8)
    scale = torch.ones(panels, groups, PANEL, dtype=torch.float16)
    size = torch.tensor([rows, columns, 1.0])
    zero = scale.clone() if kind == "int4" else None
    return KernelLinear(kind, weight, scale, zero, size, None, library, TERMS[kind])


def _four_bits(shape: tuple[int, int]) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """The other kernels for 4 bits, where this CPU has them."""
    rows, columns = shape
    weight = torch.full((rows, columns // 2), 0x78, dtype=torch.uint8)
    if rows % int4.ROWS == 0:
        groups = torch.ones(columns // int4.GROUP, rows, 2, dtype=torch.bfloat16)
        yield "int4", int4.Int4(weight, groups)
    try:
        interleaved = nf4.layout() != "canonical" and rows % 32 == 0
    except ImportError:
        return
    if interleaved:
        scale = torch.ones(columns // nf4.NF4_BLOCK, rows, dtype=torch.bfloat16)
        yield "nf4", nf4.Nf4(weight, scale, columns, True)


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
    library = installed.available()
    own = f" · kernel {build.digest()} {library.level}" if library else ""
    return f"{name} · {capability} · torch {torch.__version__}{own}"


def _read(file: Path) -> dict[str, dict[str, float]]:
    try:
        known = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
