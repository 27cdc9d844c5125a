"""The compiled kernel, opened by ctypes.

Law: raw pointers are passed only here, after shapes, dtypes, devices, contiguity and alignment were
checked; the library allocates nothing that outlives a call.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

from qwen_tui.backends.local.nn.kernel import build

PANEL: Final = 16
"""Output rows that are interleaved."""
GROUP: Final = 64
"""Columns that share one scale, of weights and of activations."""
ALIGN: Final = 64
"""Bytes: where a weight tensor must start."""
KernelKind: TypeAlias = Literal["int4", "nf4", "int8"]
KINDS: Final = ("int4", "nf4", "int8")
LEVELS: Final = ("scalar", "avx2", "avx-vnni", "avx512-vl", "avx512", "neon")
"""Instruction sets by the library's numbers. Every one computes the same bits."""
FASTEST: Final = ("avx512", "avx-vnni", "avx2", "neon")
"""Those that may be chosen automatically, best first."""
MODES: Final = {"plain": 0, "normed": 1, "gated": 2}
TYPES: Final = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class Unusable(Exception):
    """The kernel cannot be used here; the message says why."""


class CLayer(ctypes.Structure):
    """`Layer` of kernel.h."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("zero", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("unit", ctypes.c_float),
        ("kind", ctypes.c_int32),
        ("terms", ctypes.c_int32),
        ("level", ctypes.c_int32),
    )


@dataclass(frozen=True, slots=True)
class Library:
    """An opened library and the level it runs at."""

    level: str
    levels: tuple[str, ...]
    handle: ctypes.CDLL

    @classmethod
    def opened(cls, file: Path, level: str = "") -> Library:
        """Open `file` to run at `level` ("": the fastest that this CPU has). Raises `Unusable`."""
        try:
            handle = ctypes.CDLL(str(file))
            handle.qwen_tui_digest.restype = ctypes.c_char_p
            if handle.qwen_tui_digest().decode() != build.digest():
                raise Unusable("the compiled kernel is older than its source; install once more")
            handle.qwen_tui_levels.restype = ctypes.c_uint32
            bits = handle.qwen_tui_levels()
            handle.qwen_tui_threads.argtypes = [ctypes.c_void_p]
            handle.qwen_tui_threads.restype = None
            handle.qwen_tui_multiply.argtypes = [
                ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32,
                ctypes.c_void_p, ctypes.c_float, ctypes.c_void_p, ctypes.c_void_p,
            ]  # fmt: skip
            handle.qwen_tui_pack.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32]
        except (AttributeError, OSError) as error:
            raise Unusable(f"the compiled kernel cannot be opened: {error}") from None
        here = tuple(name for number, name in enumerate(LEVELS) if bits >> number & 1)
        best = next((name for name in FASTEST if name in here), "")
        if level and level not in here:
            raise Unusable(f"{level} is not what this CPU has: {', '.join(here)}")
        if not (level or best):
            raise Unusable("this CPU has no instructions that the kernel knows")
        handle.qwen_tui_threads(_parallel_for())
        return cls(level or best, here, handle)

    def multiply(
        self,
        layer: CLayer,
        x: Tensor,
        mode: Literal["plain", "normed", "gated"],
        norm: Tensor | None = None,
        eps: float = 0.0,
        onto: Tensor | None = None,
    ) -> Tensor:
        """x [M, columns] (twice as wide when "gated") → [M, rows], all float32 on the CPU."""
        count, rows = x.shape[0], layer.rows
        width = layer.columns * (2 if mode == "gated" else 1)
        x = checked(x, (count, width))
        norm = None if norm is None else checked(norm, (layer.columns,))
        onto = None if onto is None else checked(onto, (count, rows))
        out = torch.empty(count, rows)
        failed = self.handle.qwen_tui_multiply(
            ctypes.addressof(layer), x.data_ptr(), count, MODES[mode],
            None if norm is None else norm.data_ptr(), eps,
            None if onto is None else onto.data_ptr(), out.data_ptr(),
        )  # fmt: skip
        if failed:
            raise MemoryError if failed == 2 else ValueError("the kernel refused this layer")
        return out

    def pack(self, layer: CLayer, weight: Tensor) -> None:
        """Quantise `weight` [rows, columns] into the tensors that `layer` points to."""
        weight = checked(weight, (layer.rows, layer.columns), weight.dtype)
        kind = TYPES[weight.dtype]
        if self.handle.qwen_tui_pack(ctypes.addressof(layer), weight.data_ptr(), kind):
            raise ValueError("the kernel refused this layer")

    def numbered(self, kind: str, terms: int) -> dict[str, int]:
        """The fields of a `CLayer` that say how it is multiplied."""
        return {"kind": KINDS.index(kind), "terms": terms, "level": LEVELS.index(self.level)}


def checked(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """`tensor`, contiguous; ValueError if it is not what the kernel takes."""
    if tensor.shape != shape or tensor.dtype != dtype or tensor.device.type != "cpu":
        found = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
        raise ValueError(f"{dtype} {list(shape)} on cpu is wanted, not {found}")
    return tensor.contiguous()


def _parallel_for() -> int | None:
    """The address of torch's own `parallel_for`, so that the process has one pool of threads."""
    for file in (Path(torch.__file__).parent / "lib").glob("*torch_cpu.*"):
        try:
            return ctypes.cast(ctypes.CDLL(str(file)).torch_parallel_for, ctypes.c_void_p).value
        except (AttributeError, OSError):
            continue
    return None
