"""Functions of many small operators without Python between them.

Law: what runs is the function as it is written, operator by operator; nothing is fused, no number
changes. Where torch can no longer script it, Python runs it.

A product streams megabytes through the caches and leaves them cold; Python's way from one operator
to the next then costs more than a small operator does. TorchScript's interpreter takes a third of
that time. torch has announced its end; nothing but speed hangs on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def scripted(function: Function) -> Function:
    """`function` for tensors on a CPU, scripted if this torch can. On a GPU TorchScript would fuse
    operators: give it none of those.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cast(Function, torch.jit.script(function))
    except (AttributeError, OSError, RuntimeError, TypeError):
        return function
