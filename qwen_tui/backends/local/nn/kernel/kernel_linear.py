"""The linear layer of our own kernel, for int8, int4 and NF4 weights.

Law: float32 in, float32 out; the bits of a result row do not depend on the rows beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, cast

import torch
from torch import Tensor

from qwen_tui.backends.local.nn.kernel import library as kernel
from qwen_tui.backends.local.nn.kernel.library import GROUP, PANEL, CLayer, KernelKind, Library
from qwen_tui.backends.local.nn.linear import with_bias

LAYOUT: Final = "panels1"
"""Version of the weight layout, the same on every CPU; part of a packed file's key."""
TERMS: Final[dict[str, int]] = {"int4": 1, "nf4": 1, "int8": 2}
"""8-bit terms that an activation is written as: one, or two, the second 254 times finer. The error
of one is lost beside that of weights in 4 bits; beside that of 8 bits it shows."""


@dataclass(slots=True)
class KernelLinear:
    """`weight` uint8 [N/16, K/64, 8 or 16, 64]: a line of 64 bytes is 16 output rows by 8 columns
    in 4 bits (byte 4·row + j: column j low, j + 4 high) or by 4 columns in 8 bits. `scale` and, for
    int4, `zero` are fp16 [N/16, K/64, 16] in units of `size`[2]: w = (q − 8)·scale + zero, a level
    of NF4 times scale, or (q − 128)·scale. `size` float32: N, K and the unit. N and K are rounded
    up in the tensors. `bias` [N] float32.
    """

    kind: KernelKind
    weight: Tensor
    scale: Tensor
    zero: Tensor | None
    size: Tensor
    bias: Tensor | None
    library: Library
    terms: int
    _layer: CLayer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the tensors that are handed to C; ValueError if their shapes or dtypes do not fit
        together.
        """
        rows, columns, unit = (float(each) for each in self.size.tolist())
        panels, groups = math.ceil(rows / PANEL), math.ceil(columns / GROUP)
        lines = 16 if self.kind == "int8" else 8
        kernel.checked(self.weight, (panels, groups, lines, 64), torch.uint8)
        for part in (self.scale, self.zero) if self.kind == "int4" else (self.scale,):
            if part is None or not part.is_contiguous():
                raise ValueError("scales are missing, or do not lie together")
            kernel.checked(part, (panels, groups, PANEL), torch.float16)
        if not self.weight.is_contiguous() or self.weight.data_ptr() % kernel.ALIGN:
            raise ValueError(f"weights must start at a multiple of {kernel.ALIGN} bytes")
        if not 0 < unit < math.inf or self.terms not in (1, 2):
            raise ValueError("the unit is no size")
        if self.bias is not None:
            self.bias = kernel.checked(self.bias.float(), (int(rows),))
        parts = {"weight": self.weight, "scale": self.scale, "zero": self.zero, "bias": self.bias}
        self._layer = CLayer(
            **{name: None if at is None else at.data_ptr() for name, at in parts.items()},
            **self.library.numbered(self.kind, self.terms),
            rows=int(rows),
            columns=int(columns),
            unit=unit,
        )

    @classmethod
    def of(
        cls,
        kind: KernelKind,
        weight: Tensor,
        bias: Tensor | None,
        library: Library,
        terms: int = 0,
    ) -> KernelLinear:
        """Quantise `weight` [N, K]; ValueError if it is not finite. `terms` 0: the default for the
        kind.
        """
        low, high = (float(each) for each in weight.aminmax())
        largest = max(-low, high)
        if not math.isfinite(largest):
            raise ValueError("a weight is not finite")
        # A power of two divides exactly; scales are then far from both ends of fp16.
        unit = 2.0 ** (math.frexp(max(largest, 1e-30))[1] - 7)
        rows, columns = weight.shape
        panels, groups = math.ceil(rows / PANEL), math.ceil(columns / GROUP)
        lines = 16 if kind == "int8" else 8
        scale = torch.empty(panels, groups, PANEL, dtype=torch.float16)
        layer = cls(
            kind,
            torch.empty(panels, groups, lines, 64, dtype=torch.uint8),
            scale,
            torch.empty_like(scale) if kind == "int4" else None,
            torch.tensor([rows, columns, unit], dtype=torch.float32),
            bias,
            library,
            terms or TERMS[kind],
        )
        library.pack(layer._layer, weight if weight.dtype in kernel.TYPES else weight.float())
        return layer

    @property
    def rows(self) -> int:
        """N."""
        return int(self._layer.rows)

    @property
    def nbytes(self) -> int:
        """Bytes read per decoded token."""
        parts = (self.weight, self.scale, self.zero)
        return sum(part.nbytes for part in parts if part is not None)

    @property
    def row_cost(self) -> float:
        """Small: for a few rows the product is bound by memory."""
        return 0.1

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""
        return self._product(x, "plain")

    def normed(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """The product of x after RMSNorm with `weight` [K]."""
        return self._product(x, "normed", weight.float(), eps)

    def added_to(self, sums: Tensor, x: Tensor) -> Tensor:
        """`sums` plus the product of x."""
        return self._product(x, "plain", onto=sums)

    def gated_added_to(self, sums: Tensor, gate_up: Tensor) -> Tensor:
        """`sums` plus the product of silu of the first half of `gate_up` [M, 2·K] times the
        second.
        """
        return self._product(gate_up, "gated", onto=sums)

    def _product(
        self,
        x: Tensor,
        mode: Literal["plain", "normed", "gated"],
        norm: Tensor | None = None,
        eps: float = 0.0,
        onto: Tensor | None = None,
    ) -> Tensor:
        if x.dtype == torch.float32:
            return self.library.multiply(self._layer, x, mode, norm, eps, onto)
        onto = None if onto is None else onto.float()
        return self.library.multiply(self._layer, x.float(), mode, norm, eps, onto).to(x.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Its parts by name."""
        parts = {f"{self.kind}_panels": self.weight, "scale": self.scale, "size": self.size}
        if self.zero is not None:
            parts["zero"] = self.zero
        return with_bias(parts, self.bias)


def rebuilt(parts: Mapping[str, Tensor], library: Library | None) -> KernelLinear | None:
    """The layer whose `tensors()` these are; None if they are another class's. ValueError if they
    do not fit together, or if there is no kernel here.
    """
    kind = next((kind for kind in kernel.KINDS if f"{kind}_panels" in parts), "")
    if not kind:
        return None
    if library is None:
        raise ValueError("there is no kernel here")
    return KernelLinear(
        cast(KernelKind, kind),
        parts[f"{kind}_panels"],
        parts["scale"],
        parts.get("zero"),
        parts["size"],
        parts.get("bias"),
        library,
        TERMS[kind],
    )
