"""Builds a linear layer of any format, from a full weight or from its stored parts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch
from torch import Tensor

from qwen_tui.backends.local.nn import int4, nf4
from qwen_tui.backends.local.nn.int4 import Int4
from qwen_tui.backends.local.nn.kernel import installed, kernel_linear
from qwen_tui.backends.local.nn.kernel.kernel_linear import KernelLinear
from qwen_tui.backends.local.nn.linear import Dense, Int8, Kind, Linear
from qwen_tui.backends.local.nn.nf4 import Nf4


def quantised(
    kind: Kind, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, *, own: bool = False
) -> Linear:
    """A layer of format `kind` from a full weight [N, K]. `own` selects our own kernel, if the
    weight is finite and `kind` not "dense". Otherwise a weight whose shape does not divide into
    4-bit groups becomes int8.
    """
    if own and kind != "dense":
        library = installed.available()
        with contextlib.suppress(ValueError):
            if library is not None:
                return KernelLinear.of(kind, weight, bias, library)
    bias = None if bias is None else bias.to(dtype)
    if kind == "nf4" and weight.shape[1] % nf4.NF4_BLOCK == 0:
        return Nf4.of(weight.to(dtype), bias, dtype)
    if kind == "int4" and int4.fits(weight):
        return Int4.of(weight, bias)
    if kind != "dense":
        return Int8.of(weight, bias)
    return Dense(weight.to(dtype), bias)


def rebuilt(parts: Mapping[str, Tensor]) -> Linear:
    """The layer whose `tensors()` these are."""
    if (layer := kernel_linear.rebuilt(parts, installed.available())) is not None:
        return layer
    bias = parts.get("bias")
    if "interleaved" in parts or "canonical" in parts:
        return nf4.rebuilt(parts)
    if "groups" in parts:
        return Int4(parts["weight"], parts["groups"], bias)
    if "scale" in parts:
        return Int8(parts["weight"], parts["scale"], bias)
    return Dense(parts["weight"], bias)


def layout(kind: Kind, *, own: bool = False) -> str:
    """The memory layout of weights of this format on this machine's CPU; part of a packed file's
    key.
    """
    if own and kind != "dense":
        return kernel_linear.LAYOUT
    if kind == "nf4":
        return nf4.layout()
    return f"blocks{int4.block_rows()}" if kind == "int4" else "rows"
