"""Four bits in groups of 64, each with its own scale and zero, by torch's own CPU kernel: for CPUs
that bitsandbytes has no NF4 kernel for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor

from qwen_tui.backends.local.nn.linear import Unfused, product, with_bias

GROUP: Final = 64
"""Weights that share one scale and zero, along a row: as many bits a weight as NF4 takes."""
ROWS: Final = 16
"""The kernel wants a multiple of this many output rows."""
DIRECT_ROWS: Final = 96
"""Up to this many rows the kernel beats unpacking the matrix for one big product."""
AT_ONCE: Final = 1024
"""Output rows quantised at a time: bounds the copies that takes."""


@dataclass(slots=True)
class Int4(Unfused):
    """weight [N, K/2] bytes in the layout of torch's kernel; groups [K/64, N, 2] bf16 holds scale
    and zero: w = (q − 8)·scale + zero.
    """

    weight: Tensor
    groups: Tensor
    bias: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Int4:
        """Quantise `weight` [N, K] from each group's smallest to its largest value."""
        rows, columns = weight.shape
        whole = torch.empty(rows, columns, dtype=torch.int32)
        groups = torch.empty(columns // GROUP, rows, 2, dtype=torch.bfloat16)
        for start in range(0, rows, AT_ONCE):
            part = weight[start : start + AT_ONCE].float().view(-1, columns // GROUP, GROUP)
            low, high = part.aminmax(dim=-1)
            scale = ((high - low) / 15).clamp_(min=1e-9).bfloat16()
            zero = (low + 8 * scale.float()).bfloat16()
            steps = (part - zero.float()[..., None]) / scale.float()[..., None] + 8
            whole[start : start + AT_ONCE] = steps.round_().clamp_(0, 15).flatten(1).to(torch.int32)
            groups[:, start : start + AT_ONCE] = torch.stack((scale, zero), dim=-1).transpose(0, 1)
        return cls(torch._convert_weight_to_int4pack_for_cpu(whole, 1), groups, bias)

    @property
    def rows(self) -> int:
        """N."""
        return self.weight.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes read per decoded token."""
        return self.weight.nbytes + self.groups.nbytes

    @property
    def row_cost(self) -> float:
        """The kernel takes rows in fours."""
        return 0.1

    def __call__(self, x: Tensor) -> Tensor:
        """The kernel for few rows, else one product over weights unpacked to scratch."""
        if len(x) <= DIRECT_ROWS or not self._known:
            groups = self.groups.to(x.dtype)
            out = torch._weight_int4pack_mm_for_cpu(x, self.weight, GROUP, groups)
        else:
            out = product(x, self.unpacked(x.dtype))
        return out if self.bias is None else out.add_(self.bias)

    @property
    def _known(self) -> bool:
        block = block_rows()
        return block > 0 and self.rows % block == 0

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """Dequantised weights, [N, K] in `dtype`; N must be a multiple of the layout's block."""
        steps = _steps(self.weight, *_layout()).view(self.rows, -1, GROUP)
        scale, zero = self.groups.to(dtype).transpose(0, 1).unbind(-1)
        return ((steps.to(dtype) - 8) * scale[..., None] + zero[..., None]).view(self.rows, -1)

    def tensors(self) -> dict[str, Tensor]:
        """Its parts by name."""
        return with_bias({"weight": self.weight, "groups": self.groups}, self.bias)


def fits(weight: Tensor) -> bool:
    """Whether the kernel takes a weight [N, K] of this shape."""
    rows, columns = weight.shape
    return columns % GROUP == 0 and rows % ROWS == 0 and weight.device.type == "cpu"


def _steps(packed: Tensor, block: int, halves: bool) -> Tensor:
    """Packed bytes [N, K/2] → 0 … 15 as [N, K] uint8.

    Rows are packed in blocks of `block`. With `halves` (x86) a byte of a column has a row of the
    block's first half in its low nibble and one of the second half in its high nibble; else (Arm) a
    byte has two neighbouring columns of one row. See `weight_to_int4pack_kernel` in torch's
    int4mm_kernel.cpp.
    """
    rows, half = packed.shape
    bytes_ = packed.view(rows // block, 2 * half, block // 2)
    low, high = bytes_ & 0x0F, bytes_ >> 4
    both = torch.cat((low, high), dim=-1) if halves else torch.stack((low, high), -1).flatten(-2)
    return both.transpose(1, 2).reshape(rows, 2 * half)


@cache
def _layout() -> tuple[int, bool]:
    """Rows that this CPU's layout packs together (64 with AVX-512, 32 with AVX2, 16 on an Arm), and
    whether in halves (see `_steps`); (0, …) for a layout that cannot be unpacked here.
    """
    steps = torch.randint(0, 16, (64, GROUP), generator=torch.Generator().manual_seed(0))
    packed = torch._convert_weight_to_int4pack_for_cpu(steps.to(torch.int32), 1)
    for block in (64, 32, 16):
        for halves in (True, False):
            if torch.equal(_steps(packed, block, halves), steps.to(torch.uint8)):
                return block, halves
    return 0, False


def block_rows() -> int:
    """Rows packed together in a weight's layout; 0 if it cannot be unpacked here."""
    return _layout()[0]
