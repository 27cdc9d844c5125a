"""NF4 by bitsandbytes' operators: the layer, the layout of its CPU kernel, and a faster quantiser.

bitsandbytes 0.50 has no CPU kernel for `quantize_4bit` and searches the code book for every weight.
Its C++ kernel for 8-bit codes gives the same result several times faster from a code book in which
each of the 16 NF4 values is repeated 16 times; it is registered in that place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor

from qwen_tui.backends.local.nn import bitsandbytes
from qwen_tui.backends.local.nn.linear import Unfused, product, with_bias

NF4_BLOCK: Final = 64
"""Weights that share one scale in NF4, along a row."""
NF4_DIRECT_ROWS: Final = 160
"""Up to this many rows bitsandbytes' kernel beats unpacking the matrix for one big product."""


@dataclass(slots=True)
class Nf4(Unfused):
    """NF4 (QLoRA, arXiv 2305.14314) in blocks of 64 along a row, without double quantisation.

    On a CPU with AVX512-BF16 `weight` [N, K/2] and `scale` [K/64, N] bf16 are in the interleaved
    layout of bitsandbytes' kernel; on other devices in the canonical layout, `scale` float32
    [N·K/64].
    """

    weight: Tensor
    scale: Tensor
    columns: int
    interleaved: bool
    bias: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Nf4:
        """Quantise `weight` [N, K]; K must be a multiple of 64."""
        ops = _bitsandbytes()
        rows, columns = weight.shape
        packed, scale = torch.ops.bitsandbytes.quantize_4bit(
            weight.contiguous(), NF4_BLOCK, "nf4", torch.uint8
        )
        bias = None if bias is None else bias.to(dtype)
        if weight.device.type != "cpu" or not ops or rows % 32:
            return cls(packed.view(rows, columns // 2), scale.float(), columns, False, bias)
        scale = scale.view(rows, columns // NF4_BLOCK).T.to(torch.bfloat16).contiguous()
        return cls(interleaved(packed.view(rows, columns // 2)), scale, columns, True, bias)

    @property
    def rows(self) -> int:
        """N."""
        return self.weight.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes read per decoded token."""
        return self.weight.nbytes + self.scale.nbytes

    @property
    def row_cost(self) -> float:
        """The kernel takes rows in fours, and the cost of unpacking does not depend on their
        number.
        """
        return 0.1

    def __call__(self, x: Tensor) -> Tensor:
        """bitsandbytes' kernel for few rows, else one product over weights unpacked to scratch; on
        a GPU bitsandbytes chooses.
        """
        if x.device.type != "cpu" and _chooses():
            return self.by_its_choice(x)
        if self.interleaved and x.shape[0] <= NF4_DIRECT_ROWS:
            out = torch.ops.bitsandbytes.gemv_4bit(
                x, self.weight, self._shape, self.scale, _nf4_code(x.device), NF4_BLOCK
            )
        elif x.device.type != "cpu" and x.shape[0] == 1:
            out = torch.ops.bitsandbytes.gemv_4bit(
                x, self.weight.view(-1, 1), self._shape, self.scale, _nf4_code(x.device), NF4_BLOCK
            )
        else:
            out = product(x, self.unpacked(x.dtype))
        return out if self.bias is None else out.add_(self.bias)

    def by_its_choice(self, x: Tensor) -> Tensor:
        """x [M, K] → [M, N] by the operator that knows each GPU's best kernel for every M."""
        out: Tensor = torch.ops.bitsandbytes.gemm_4bit(
            x, self.weight.view(-1, 1), self._shape, self.scale, NF4_BLOCK, "nf4", self.bias
        )
        return out

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The dequantised weights, [N, K] in `dtype`."""
        weight, scale = self.weight, self.scale
        if self.interleaved:
            weight, scale = _canonical(weight), scale.T.float().contiguous().view(-1)
        return torch.ops.bitsandbytes.dequantize_4bit(
            weight.view(-1, 1), scale, NF4_BLOCK, "nf4", self._shape, dtype
        )

    @property
    def _shape(self) -> list[int]:
        return [self.rows, self.columns]

    def tensors(self) -> dict[str, Tensor]:
        """Its parts by name."""
        name = "interleaved" if self.interleaved else "canonical"
        return with_bias({name: self.weight, "scale": self.scale}, self.bias)


def layout() -> str:
    """The memory layout of NF4 weights on this machine's CPU; part of a packed file's key."""
    return "interleaved32" if _bitsandbytes() else "canonical"


def _bitsandbytes() -> bool:
    """Import bitsandbytes; whether its CPU kernel runs here."""
    bitsandbytes.load()
    from bitsandbytes.functional import has_avx512bf16

    return bool(has_avx512bf16())


@cache
def _chooses() -> bool:
    """Whether this bitsandbytes has one 4-bit product for any number of rows (0.50 has)."""
    return hasattr(torch.ops.bitsandbytes, "gemm_4bit")


@cache
def _nf4_code(device: torch.device) -> Tensor:
    from bitsandbytes.functional import get_4bit_type

    code: Tensor = get_4bit_type("nf4", device=device)
    return code


def interleaved(packed: Tensor) -> Tensor:
    """Canonical NF4 bytes [N, K/2] → the layout of bitsandbytes' AVX512-BF16 kernel.

    Rows are packed in blocks of 32: for each pair of columns 32 bytes have rows 0–15 in their low
    nibbles and rows 16–31 in their high ones (`_convert_weight_packed_for_cpu`, done here without
    its int32 copies).
    """
    rows, half = packed.shape
    block = packed.view(rows // 32, 2, 16, half)
    low, high = block[:, 0], block[:, 1]
    out = torch.empty(rows // 32, half, 16, 2, dtype=torch.uint8)
    out[..., 0] = ((low >> 4) | (high & 0xF0)).transpose(1, 2)
    out[..., 1] = ((low & 0x0F) | (high << 4)).transpose(1, 2)
    return out.view(rows, half)


def _canonical(weight: Tensor) -> Tensor:
    """The inverse of `interleaved`."""
    rows, half = weight.shape
    pairs = weight.view(torch.int16).view(rows // 32, half, 16)
    out = torch.empty(rows // 32, 2, 16, half, dtype=torch.uint8)
    out[:, 0] = (((pairs & 0x0F) << 4) | ((pairs >> 8) & 0x0F)).to(torch.uint8).transpose(1, 2)
    out[:, 1] = ((pairs & 0xF0) | ((pairs >> 12) & 0x0F)).to(torch.uint8).transpose(1, 2)
    return out.view(rows, half)


def rebuilt(parts: Mapping[str, Tensor]) -> Nf4:
    """The layer whose `tensors()` these are."""
    packed = "interleaved" in parts
    weight = parts["interleaved" if packed else "canonical"]
    _bitsandbytes()
    return Nf4(weight, parts["scale"], weight.shape[1] * 2, packed, parts.get("bias"))


@cache
def install() -> None:
    """Register the quantiser once per process; bitsandbytes must be importable.

    An operator that already has a CPU kernel (in a later bitsandbytes) keeps it.
    """
    bitsandbytes.load()
    from bitsandbytes.functional import get_4bit_type

    name = "bitsandbytes::quantize_4bit"
    if torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU"):
        return
    theirs = torch.library.get_kernel(name, "CPU")
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    values: Tensor = get_4bit_type("nf4", device="cpu")
    book = values.repeat_interleave(16).contiguous()

    def quantise(
        weight: Tensor, blocksize: int, quant_type: str, quant_storage: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Canonical NF4 bytes [ceil(n/2), 1] and absmax [n/blocksize] float32. What is not an even
        number of weights to NF4 in bytes goes to bitsandbytes' own kernel.
        """
        if quant_type != "nf4" or quant_storage != torch.uint8 or weight.numel() % 2:
            packed, absmax = theirs.call_boxed(keys, weight, blocksize, quant_type, quant_storage)
            return packed, absmax
        index, scale = torch.ops.bitsandbytes.quantize_blockwise(
            weight.contiguous().view(-1), book, blocksize
        )
        high, low = index[0::2] & 0xF0, index[1::2] >> 4
        return (high | low).unsqueeze(1), scale

    torch.library.register_kernel(name, "cpu", quantise)
