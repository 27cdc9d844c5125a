"""The facts about a machine that planning needs: devices, free memory, dtypes, kernel speeds.

Law: values only; `hardware` and `kernel_speed` find them, so planning needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Packing: TypeAlias = Literal["", "fbgemm", "kernel"]
"""The layout of linear layers: "" torch's row-major, "fbgemm" FBGEMM's, "kernel" our own
kernel's."""

GIB: Final = 1 << 30
FBGEMM_GAIN: Final = 1.3
"""How many times faster FBGEMM must be to be chosen: its layout is rebuilt at every start."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Milliseconds of one thread per decoded and per prompt token, by kernel, over one matrix; 0 if
    the kernel is not available. `own8`, `own4` and `own_nf4` are our kernel's.
    """

    bf16: float
    fp32: float
    int8: float
    fbgemm16: float
    fbgemm8: float
    int4: float = 0.0
    nf4: float = 0.0
    own8: float = 0.0
    own4: float = 0.0
    own_nf4: float = 0.0

    def dense(self) -> tuple[str, Packing]:
        """The dtype of unquantised weights, and their packing. bf16, in which checkpoints are
        published, is kept if it is about as fast.
        """
        if self.fbgemm16 and self.fbgemm16 * FBGEMM_GAIN < min(self.bf16, self.fp32):
            return "fp16", "fbgemm"
        return ("bf16", "") if self.bf16 <= self.fp32 else ("fp32", "")

    def packing8(self) -> Packing:
        """The packing of 8-bit weights. Our kernel's are mapped from a file, so they cost nothing
        at start.
        """
        rest = min(self.int8, self.fbgemm8 * FBGEMM_GAIN or self.int8)
        if self.own8 and self.own8 < rest:
            return "kernel"
        return "fbgemm" if rest < self.int8 else ""

    def packing(self, quant: str) -> Packing:
        """The packing of weights quantised to `quant`."""
        if quant == "int8":
            return self.packing8()
        own, torchs = (self.own4, self.int4) if quant == "int4" else (self.own_nf4, self.nf4)
        return "kernel" if own and not 0 < torchs <= own else ""

    def words(self) -> str:
        """The figures in one sentence."""
        shown = {"bf16": self.bf16, "fp32": self.fp32, "int8": self.int8}
        shown |= {"FBGEMM fp16": self.fbgemm16, "FBGEMM int8": self.fbgemm8}
        shown |= {"int4": self.int4, "nf4": self.nf4}
        shown |= {"our int8": self.own8, "our int4": self.own4, "our nf4": self.own_nf4}
        return ", ".join(f"{name} {value:.1f}" for name, value in shown.items() if value)


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found on this machine.

    `devices` are torch device names, `free` bytes by device ("cpu" always), `native` the dtypes
    that run natively; `libraries` are the installed modules that run quantised checkpoints.
    `speeds` measures the CPU's kernels on first use; None if there is only one. `nf4_kernel`: the
    CPU multiplies NF4 weights without unpacking them for every token.
    """

    devices: tuple[str, ...]
    free: dict[str, int]
    native: dict[str, tuple[str, ...]]
    bitsandbytes: bool
    threads: int
    names: dict[str, str]
    speeds: Callable[[], Speeds] | None = None
    nf4_kernel: bool = True
    libraries: frozenset[str] = frozenset()


def gib(count: int) -> str:
    """Bytes as GiB with one decimal."""
    return f"{count / GIB:.1f} GiB"
