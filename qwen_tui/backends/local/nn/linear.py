"""The interface of a linear layer, and the formats dense and int8 per channel.

Law: a layer stores its weight once; whatever else a kernel needs is built for each call.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen_tui.backends.local import memory
from qwen_tui.backends.local.nn import bitsandbytes

Kind: TypeAlias = Literal["dense", "int8", "int4", "nf4"]

INT8_DIRECT_ROWS: Final = 16
"""Up to this many rows the weight-only int8 kernel beats converting the matrix for one big product
(it takes rows in fours, the product costs one conversion whatever the rows)."""
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

    def normed(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """The product of x after RMSNorm with `weight` [K]."""
        ...

    def added_to(self, sums: Tensor, x: Tensor) -> Tensor:
        """`sums` [M, N] plus the product of x, as a new tensor."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that `linear_factory.rebuilt` needs, by short name."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes read per decoded token."""
        ...

    @property
    def row_cost(self) -> float:
        """The cost on a CPU of each further row, as a share of the cost of a product of one row."""
        ...


class Unfused:
    """Base of layers without fused kernels: norm, product and sum run one after the other."""

    __slots__ = ()

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""
        raise NotImplementedError

    def normed(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """The product of x after RMSNorm with `weight` [K]."""
        return self(F.rms_norm(x, (x.shape[1],), weight, eps))

    def added_to(self, sums: Tensor, x: Tensor) -> Tensor:
        """`sums` plus the product of x."""
        return sums + self(x)


@dataclass(slots=True)
class Dense(Unfused):
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
        """One matrix product, on a GPU fused with the bias."""
        if x.device.type != "cpu":
            return F.linear(x, self.weight, self.bias)
        out = product(x, self.weight)
        return out if self.bias is None else out.add_(self.bias)

    def added_to(self, sums: Tensor, x: Tensor) -> Tensor:
        """`sums` plus the product of x, on a GPU one kernel."""
        if x.device.type == "cpu" or self.bias is not None:
            return sums + self(x)
        return torch.addmm(sums, x, self.weight.t())

    def tensors(self) -> dict[str, Tensor]:
        """Its parts by name."""
        return with_bias({"weight": self.weight}, self.bias)

    @property
    def row_cost(self) -> float:
        """Little where the CPU has 16-bit products, almost a whole row where it has none; float32
        is in between.
        """
        if self.weight.dtype == torch.float32:
            return 0.3
        return 0.05 if multiplies(self.weight.dtype) else 0.9


@dataclass(slots=True)
class Int8(Unfused):
    """Symmetric int8 per output channel: weight [N, K] int8, scale [N] float32.

    Weight only: activations stay in the compute dtype, so no outlier is clipped.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Int8:
        """Quantise `weight` [N, K], 1024 rows at a time, which avoids a second full copy."""
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

    @property
    def row_cost(self) -> float:
        """The kernel takes rows in fours."""
        return 0.1

    def __call__(self, x: Tensor) -> Tensor:
        """On a GPU with integer products these for few rows; on a CPU in bf16 the weight-only
        kernel for few rows; else one product over the converted weights.
        """
        if len(x) <= INT8_DIRECT_ROWS and x.device.type == "cuda" and integers(x.device):
            try:
                return self.in_integers(x)
            except RuntimeError as error:  # cuBLAS has no algorithm for some shapes on some GPUs
                if memory.ran_out(error):
                    raise
        scale = self.scale.to(x.dtype)
        direct = x.device.type == "cpu" and x.dtype == torch.bfloat16
        if direct and x.shape[0] <= INT8_DIRECT_ROWS:
            out = torch._weight_int8pack_mm(x, self.weight, scale)
        elif x.dtype == torch.float16:
            # Scaled afterwards, the sums of unscaled weights would leave fp16's range.
            out = product(x, self.weight.to(x.dtype).mul_(scale[:, None]))
        else:
            out = product(x, self.weight).mul_(scale)
        return out if self.bias is None else out + self.bias

    def in_integers(self, x: Tensor) -> Tensor:
        """x [M, K] → [M, N]: each row of x as two 8-bit terms, so that the int8 weights are used
        unconverted and their rounding is the only error.
        """
        terms, step = two_terms(x.float(), 127)
        both = torch.ops.bitsandbytes.int8_linear_matmul(terms.round_().to(torch.int8), self.weight)
        out = one_sum(both.float(), 127).mul_(step).mul_(self.scale)
        out = out if self.bias is None else out.add_(self.bias)
        return out.to(x.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Its parts by name."""
        return with_bias({"weight": self.weight, "scale": self.scale}, self.bias)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x·Wᵀ for x [M, K] and weight [N, K] of x's dtype or int8 → [M, N] in x's dtype.

    oneDNN sums a single row in another order than several, and the result for a row must not depend
    on the rows beside it: a single row is run twice, which reads the weights only once.
    """
    if len(x) == 1 and x.device.type == "cpu" and x.dtype != torch.float32 and multiplies(x.dtype):
        return F.linear(torch.cat((x, x)), weight.to(x.dtype))[:1]
    if x.device.type == "cpu" and len(x) >= WIDENED_ROWS and not multiplies(x.dtype):
        return F.linear(x.float(), weight.float()).to(x.dtype)
    return F.linear(x, weight.to(x.dtype))


def two_terms(x: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """x [M, K] float32 as two integer terms of at most `most`: x ≈ step·(h + l/(2·most)).

    Returns [2·M, K], all h (rounded) before all l (not rounded yet), and each row's step [M, 1].
    Rounding leaves half a step, so the second term is twice `most` times finer.
    """
    # Not vector_norm: its largest magnitude takes an element at a time.
    step = x.abs().amax([1], True).clamp_min_(1e-30).div_(most)
    fine = x / step
    coarse = fine.round()
    return torch.cat((coarse, fine.sub_(coarse).mul_(2.0 * most))), step


def one_sum(both: Tensor, most: int) -> Tensor:
    """The products of `two_terms` [2·M, N] → the sum of both terms in steps [M, N]."""
    count = both.shape[0] // 2
    return torch.add(both[:count], both[count:], alpha=1 / (2.0 * most))


@cache
def multiplies(dtype: torch.dtype) -> bool:
    """Whether this CPU has native matrix products in `dtype`. Arm has bf16 from Armv8.6 on; its
    vector units have fp16.
    """
    if dtype == torch.float32:
        return True
    if platform.machine().lower() in ("arm64", "aarch64"):
        return dtype == torch.float16 or _arm_bf16()
    probes = {torch.bfloat16: "_is_avx512_bf16_supported", torch.float16: "_is_amx_fp16_supported"}
    return has(probes.get(dtype, ""))


def has(probe: str) -> bool:
    """Whether torch reports a CPU feature by its probe `torch.cpu.<probe>`; False if torch lacks
    the probe.
    """
    return bool(getattr(torch.cpu, probe, lambda: False)())


def _arm_bf16() -> bool:
    """Whether torch's own bf16 products run natively on an Arm; False without oneDNN."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


@cache
def integers(device: torch.device) -> bool:
    """Whether bitsandbytes multiplies int8 matrices correctly on this device; tried once."""
    dice = torch.Generator().manual_seed(0)
    rows = torch.randint(-127, 128, (2, 64), generator=dice)
    weight = torch.randint(-127, 128, (128, 64), generator=dice)
    try:
        bitsandbytes.load()
        here = [part.to(device=device, dtype=torch.int8) for part in (rows, weight)]
        found = torch.ops.bitsandbytes.int8_linear_matmul(*here).cpu()
    except (AttributeError, ImportError, NotImplementedError, RuntimeError, ValueError):
        return False
    return torch.equal(found.long(), rows @ weight.T)


def with_bias(parts: dict[str, Tensor], bias: Tensor | None) -> dict[str, Tensor]:
    """`parts`, with the bias added if there is one."""
    return parts if bias is None else {**parts, "bias": bias}
