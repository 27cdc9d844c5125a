"""The kernel that came with the package: found beside its source and tested before it is used.

Law: a fault in it is never an error; torch's kernels are used instead, and `state` says why.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Final

import torch

from qwen_tui.backends.local.nn.kernel import build
from qwen_tui.backends.local.nn.kernel.kernel_linear import KernelLinear
from qwen_tui.backends.local.nn.kernel.library import KernelKind, Library, Unusable

VARIABLE: Final = "QWEN_TUI_KERNEL"
"""Environment: `off`, or the instruction set to use."""


@cache
def available() -> Library | None:
    """The library that came with the package, if it is there and passes its self-test."""
    try:
        return found()
    except Unusable:
        return None


@cache
def state() -> str:
    """One line for `doctor`: which kernel runs, or why there is none."""
    try:
        library = found()
    except Unusable as why:
        return f"not used: {why}"
    return f"{library.level} (this CPU has {', '.join(library.levels)})"


def found() -> Library:
    """The library that came with the package, after its self-test; raises `Unusable`."""
    asked = os.environ.get(VARIABLE, "")
    if asked == "off":
        raise Unusable(f"{VARIABLE}=off")
    file = build.HERE / build.LIBRARY
    if not file.exists():
        try:
            raise Unusable((build.HERE / build.NOTE).read_text("utf-8").strip())
        except OSError:
            raise Unusable("this installation came without it") from None
    library = Library.opened(file, asked)
    if (wrong := _self_test(library)) is not None:
        raise Unusable(f"it failed its self-test ({wrong})")
    return library


def _self_test(library: Library) -> str | None:
    """The first weight format whose product differs from torch's, or None."""
    dice = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 200, generator=dice)
    x = torch.randn(9, 200, generator=dice)
    right = x @ weight.T
    most: tuple[tuple[KernelKind, float], ...] = (("int4", 0.2), ("nf4", 0.2), ("int8", 0.02))
    for kind, error in most:
        try:
            product = KernelLinear.of(kind, weight, None, library)(x)
        except (MemoryError, ValueError):
            return kind
        if not float((product - right).norm() / right.norm()) < error:
            return kind
    return None
