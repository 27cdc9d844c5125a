"""Linear layers in FBGEMM's own layout, for x86 CPUs: 16-bit or 8-bit weights, float32 activations.

Law: the 8-bit product is integer arithmetic on activations of 14 bits: its only error is the
rounding of the weights, and the result for a row does not depend on the rows beside it.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import torch
from torch import Tensor

from qwen_tui.backends.local.nn.attention import attended, gated
from qwen_tui.backends.local.nn.linear import Dense, Int8, Linear, Unfused, one_sum, two_terms
from qwen_tui.backends.local.nn.torchscript import scripted

if TYPE_CHECKING:
    Prepacked: TypeAlias = Any
else:
    try:
        Prepacked = torch.classes.quantized.LinearPackedParamsBase
    except (AttributeError, RuntimeError):
        Prepacked = Any
"""A matrix in FBGEMM's layout, opaque to Python."""

BLOCK_ROWS: Final = 16_384
"""Output rows packed at once: bounds the float32 copy that packing 16-bit weights needs."""
STEPS: Final = 63
"""Integer steps on either side of zero: 7 bits. With 8, pairs of products overflow the 16-bit sums
of CPUs without VNNI."""
ZERO: Final = STEPS + 1
"""The unsigned byte that represents zero."""


@dataclass(slots=True)
class Packed16(Unfused):
    """fp16 weights under float32 activations; `parts` are FBGEMM's objects for blocks of rows."""

    parts: list[Any]
    rows: int
    columns: int
    bias: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Packed16:
        """Pack `weight` [N, K]; values beyond fp16's range are clamped to it."""
        parts = [
            torch.ops.quantized.linear_prepack_fp16(part.float().contiguous(), None)
            for part in weight.split(BLOCK_ROWS)
        ]
        rows, columns = weight.shape
        return cls(parts, rows, columns, None if bias is None else bias.float())

    @property
    def nbytes(self) -> int:
        """Bytes read per decoded token."""
        return 2 * self.rows * self.columns

    @property
    def row_cost(self) -> float:
        """Small: for a few rows the product is bound by memory."""
        return 0.05

    def __call__(self, x: Tensor) -> Tensor:
        """x [M, K] float32 → [M, N] float32."""
        return _product16(x, self.parts, self.bias)

    def tensors(self) -> dict[str, Tensor]:
        """Raises TypeError: the layout is not public, so it cannot be stored."""
        raise TypeError("FBGEMM's layout cannot be written down")


@dataclass(slots=True)
class Packed8:
    """int8 weights, one scale per output row, under float32 activations.

    Each row of x is scaled to its largest magnitude and written as two 7-bit terms, the second 126
    times finer than the first: x ≈ a·(h + l/126)/63. Both terms go through the integer product as
    rows of their own, which costs little because the product is bound by memory. A single term (the
    usual W8A8) would lose all small activations of a row with an outlier, and Qwen2.5 has such
    rows.
    """

    packed: Any
    rows: int
    columns: int
    bias: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Packed8:
        """Pack int8 `weight` [N, K] with float32 `scale` [N]."""
        rows, columns = weight.shape
        zeros = torch.zeros(rows, dtype=torch.int64)
        whole = torch._empty_per_channel_affine_quantized(
            list(weight.shape), scales=scale.double(), zero_points=zeros, axis=0, dtype=torch.qint8
        )
        weight = weight.contiguous()
        whole.set_(weight.untyped_storage(), weight.storage_offset(), weight.shape, weight.stride())
        packed = torch.ops.quantized.linear_prepack(whole, None)
        return cls(packed, rows, columns, None if bias is None else bias.float())

    @property
    def nbytes(self) -> int:
        """Bytes read per decoded token."""
        return self.rows * self.columns

    @property
    def row_cost(self) -> float:
        """Bound by memory up to about four rows, which are eight in the integer product."""
        return 0.15

    def __call__(self, x: Tensor) -> Tensor:
        """x [M, K] float32 → [M, N] float32."""
        return _product(x, self.packed, self.bias)

    def normed(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """The product of x after RMSNorm with `weight` [K]."""
        return _normed(x, weight, eps, self.packed, self.bias)

    def added_to(self, sums: Tensor, x: Tensor) -> Tensor:
        """`sums` plus the product of x, plus the bias if there is one."""
        return _product(x, self.packed, sums if self.bias is None else sums + self.bias)

    def tensors(self) -> dict[str, Tensor]:
        """Raises TypeError: the layout is not public, so it cannot be stored."""
        raise TypeError("FBGEMM's layout cannot be written down")


@scripted
def _in_steps(
    x: Tensor, packed: Prepacked, most: int = STEPS, zero: int = ZERO
) -> tuple[Tensor, Tensor]:
    """x [M, K] → its product in integer steps [M, N], and the size of a step in each row [M, 1]."""
    terms, step = two_terms(x, most)
    both = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        terms, 1.0, zero, packed
    )
    return one_sum(both, most), step


@scripted
def _scaled(steps: Tensor, step: Tensor, onto: Tensor | None) -> Tensor:
    """Steps [M, N] of the size `step` [M, 1], plus `onto` [N] or [M, N]."""
    return steps.mul_(step) if onto is None else torch.addcmul(onto, steps, step)


@scripted
def _product(x: Tensor, packed: Prepacked, onto: Tensor | None) -> Tensor:
    """The product of x [M, K], plus `onto` [N] or [M, N]."""
    steps, step = _in_steps(x, packed)
    return _scaled(steps, step, onto)


@scripted
def _normed(
    x: Tensor, weight: Tensor, eps: float, packed: Prepacked, onto: Tensor | None
) -> Tensor:
    """The product of RMSNorm(x)·`weight` [K], plus `onto`; the norm's division is applied to each
    row's step.
    """
    steps, step = _in_steps(x * weight, packed)
    size = torch.linalg.vector_norm(x, 2, [1], True)
    step.mul_((size.square() / x.shape[1]).add_(eps).rsqrt_())
    return _scaled(steps, step, onto)


@scripted
def _product16(x: Tensor, parts: list[Prepacked], bias: Tensor | None) -> Tensor:
    """x [M, K] by fp16 weights in blocks of rows, plus `bias` [N]."""
    found = [torch.ops.quantized.linear_dynamic_fp16(x, part) for part in parts]
    whole = found[0] if len(found) == 1 else torch.cat(found, dim=1)
    return whole if bias is None else whole.add_(bias)


@scripted
def _layer(
    qkv: Prepacked,
    bias: Tensor | None,
    out: Prepacked,
    gate_up: Prepacked,
    down: Prepacked,
    x: Tensor,
    norm1: Tensor,
    norm2: Tensor,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    start: int,
    mask: Tensor | None,
) -> Tensor:
    """A decoder layer, hidden states [B·T, hidden] → the same; see `attended` for its arguments."""
    fused = _normed(x, norm1, eps, qkv, bias)
    x = _product(attended(fused, cos, sin, keys, values, start, mask), out, x)
    return _product(gated(_normed(x, norm2, eps, gate_up, None)), down, x)


def whole(qkv: Linear, out: Linear, gate_up: Linear, down: Linear) -> Callable[..., Tensor] | None:
    """A whole Qwen2 layer as one scripted function, called with `_layer`'s arguments from `x` on;
    None unless all four are 8-bit layers and only `qkv` has a bias.
    """
    found = [part for part in (qkv, out, gate_up, down) if isinstance(part, Packed8)]
    if len(found) < 4 or any(part.bias is not None for part in found[1:]):
        return None
    first, *rest = found
    weights = (first.packed, first.bias, *(part.packed for part in rest))
    return partial(cast(Callable[..., Tensor], _layer), *weights)


def laid_out(layer: Linear) -> Linear:
    """The same layer in FBGEMM's layout, unchanged if FBGEMM has none for it; call it within
    `packing()`.
    """
    if isinstance(layer, Int8):
        return Packed8.of(layer.weight, layer.scale, layer.bias)
    if isinstance(layer, Dense):
        return Packed16.of(layer.weight, layer.bias)
    return layer


@contextmanager
def packing() -> Iterator[None]:
    """A context in which torch packs for FBGEMM, whatever engine was set, and does not warn that
    its quantised tensors are deprecated.
    """
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        torch.backends.quantized.engine = engine


@cache
def available() -> bool:
    """Whether this torch has both products and they compute correctly on this machine.

    torch has deprecated its quantised tensors; once they are removed this returns False and other
    kernels are used.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    weight = torch.arange(-48.0, 48.0).view(3, 32) / 16
    x = torch.linspace(-3, 1000, 64).view(2, 32)
    try:
        with packing():
            whole = (weight * 16).to(torch.int8)
            found = [
                Packed16.of(weight, None)(x),
                Packed8.of(whole, torch.full((3,), 1 / 16), None)(x),
            ]
    except (AttributeError, RuntimeError, TypeError):
        return False
    right = x @ weight.T
    return all(bool(((each - right).abs() <= 2e-3 * right.abs().max()).all()) for each in found)
