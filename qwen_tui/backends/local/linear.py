"""The linear layer's kinds behind one call: dense, int8 per channel, NF4 by bitsandbytes' own ops.

Law: a kind holds its weight once; what a kernel needs besides is made per call and thrown away.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Kind: TypeAlias = Literal["dense", "int8", "nf4"]

NF4_BLOCK: Final = 64
"""Weights that share one scale in NF4, along a row."""
INT8_DIRECT_ROWS: Final = 16
"""Up to this many rows the weight-only int8 kernel beats converting the matrix for one big product
(it takes rows in fours, the product costs one conversion whatever the rows)."""
NF4_DIRECT_ROWS: Final = 160
"""The same border for bitsandbytes' NF4 kernel."""
WIDENED_ROWS: Final = 24
"""From this many rows on, a CPU without 16-bit arithmetic multiplies faster in float32, the
conversion of the weights included."""


class Linear(Protocol):
    """y = x·Wᵀ + b for x [M, K]; `rows` is N."""

    @property
    def rows(self) -> int:
        """N."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """x: [M, K] in the compute dtype → [M, N], same dtype."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What a packed file must hold to rebuild it, by short name."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes read per decoded token."""
        ...


@dataclass(slots=True)
class Dense:
    """weight [N, K] and bias [N] in the compute dtype."""

    weight: Tensor
    bias: Tensor | None = None

    @property
    def rows(self) -> int:
        """N."""
        return self.weight.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes read per decoded token."""
        return self.weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """One matrix product."""
        out = product(x, self.weight)
        return out if self.bias is None else out.add_(self.bias)

    def tensors(self) -> dict[str, Tensor]:
        """Its parts by name."""
        return _with_bias({"weight": self.weight}, self.bias)


@dataclass(slots=True)
class Int8:
    """Symmetric int8 per output channel: weight [N, K] int8, scale [N] float32.

    Weight only: activations stay in the compute dtype, so no outlier is clipped.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Int8:
        """Quantise `weight` [N, K], a thousand rows at a time: no second full copy is made."""
        quantised = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
        scale = torch.empty(weight.shape[0], dtype=torch.float32, device=weight.device)
        for start in range(0, weight.shape[0], 1024):
            rows = weight[start : start + 1024].float()
            step = (rows.abs().amax(dim=1) / 127).clamp_(min=1e-12)
            quantised[start : start + 1024] = (rows / step[:, None]).round_().to(torch.int8)
            scale[start : start + 1024] = step
        return cls(quantised, scale, bias)

    @property
    def rows(self) -> int:
        """N."""
        return self.weight.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes read per decoded token."""
        return self.weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """The weight-only kernel for few rows on a CPU, else one product over converted weights."""
        scale = self.scale.to(x.dtype)
        direct = x.device.type == "cpu" and x.dtype == torch.bfloat16
        if direct and x.shape[0] <= INT8_DIRECT_ROWS:
            out = torch._weight_int8pack_mm(x, self.weight, scale)
        else:
            out = product(x, self.weight).mul_(scale)
        return out if self.bias is None else out + self.bias

    def tensors(self) -> dict[str, Tensor]:
        """Its parts by name."""
        return _with_bias({"weight": self.weight, "scale": self.scale}, self.bias)


@dataclass(slots=True)
class Nf4:
    """NF4 (QLoRA, arXiv 2305.14314) in blocks of 64 along a row, plain absmax.

    On a CPU with AVX512-BF16 `weight` [N, K/2] and `scale` [K/64, N] bf16 lie in the interleaved
    layout of bitsandbytes' kernel; elsewhere in the canonical one, `scale` float32 [N·K/64].
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
        return cls(_interleave(packed.view(rows, columns // 2)), scale, columns, True, bias)

    @property
    def rows(self) -> int:
        """N."""
        return self.weight.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes read per decoded token."""
        return self.weight.nbytes + self.scale.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """bitsandbytes' kernel for few rows, else one product over weights unpacked to scratch."""
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

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The weights it stands for, [N, K] in `dtype`."""
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
        return _with_bias({name: self.weight, "scale": self.scale}, self.bias)


def quantised(kind: Kind, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Linear:
    """A layer of `kind` from a full weight [N, K]; a width that NF4 cannot cut becomes int8."""
    if kind == "nf4" and weight.shape[1] % NF4_BLOCK == 0:
        return Nf4.of(weight.to(dtype), bias, dtype)
    bias = None if bias is None else bias.to(dtype)
    if kind != "dense":
        return Int8.of(weight, bias)
    return Dense(weight.to(dtype), bias)


def rebuilt(parts: Mapping[str, Tensor]) -> Linear:
    """The layer whose `tensors()` these are."""
    bias = parts.get("bias")
    if "interleaved" in parts or "canonical" in parts:
        interleaved = "interleaved" in parts
        weight = parts["interleaved" if interleaved else "canonical"]
        _bitsandbytes()
        return Nf4(weight, parts["scale"], weight.shape[1] * 2, interleaved, bias)
    if "scale" in parts:
        return Int8(parts["weight"], parts["scale"], bias)
    return Dense(parts["weight"], bias)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x·Wᵀ for x [M, K] and weight [N, K] of x's dtype or int8 → [M, N] in x's dtype."""
    if x.device.type == "cpu" and len(x) >= WIDENED_ROWS and not _multiplies(x.dtype):
        return F.linear(x.float(), weight.float()).to(x.dtype)
    return F.linear(x, weight.to(x.dtype))


@cache
def _multiplies(dtype: torch.dtype) -> bool:
    """Whether this CPU has matrix products of its own in a dtype; Arm's has in all of them."""
    if dtype == torch.float32 or platform.machine().lower() in ("arm64", "aarch64"):
        return True
    probes = {torch.bfloat16: "_is_avx512_bf16_supported", torch.float16: "_is_amx_fp16_supported"}
    return bool(getattr(torch.cpu, probes.get(dtype, ""), lambda: False)())


def nf4_layout() -> str:
    """How NF4 weights lie on this machine's CPU; part of the packed file's key."""
    return "interleaved32" if _bitsandbytes() else "canonical"


def _with_bias(parts: dict[str, Tensor], bias: Tensor | None) -> dict[str, Tensor]:
    return parts if bias is None else {**parts, "bias": bias}


def _bitsandbytes() -> bool:
    """Import it quietly (it warns of an optional kernel pack); True where its CPU kernel runs."""
    log = logging.getLogger("bitsandbytes")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        from bitsandbytes.functional import has_avx512bf16
    finally:
        log.setLevel(level)
    return bool(has_avx512bf16())


def _nf4_code(device: torch.device) -> Tensor:
    from bitsandbytes.functional import get_4bit_type

    code: Tensor = get_4bit_type("nf4", device=device)
    return code


def _interleave(packed: Tensor) -> Tensor:
    """Canonical NF4 bytes [N, K/2] → the layout of bitsandbytes' AVX512-BF16 kernel.

    Thirty-two rows stand together; for each pair of columns 32 bytes hold rows 0–15 in their low
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


def _canonical(interleaved: Tensor) -> Tensor:
    """The inverse of `_interleave`."""
    rows, half = interleaved.shape
    pairs = interleaved.view(torch.int16).view(rows // 32, half, 16)
    out = torch.empty(rows // 32, 2, 16, half, dtype=torch.uint8)
    out[:, 0] = (((pairs & 0x0F) << 4) | ((pairs >> 8) & 0x0F)).to(torch.uint8).transpose(1, 2)
    out[:, 1] = ((pairs & 0xF0) | ((pairs >> 12) & 0x0F)).to(torch.uint8).transpose(1, 2)
    return out.view(rows, half)
