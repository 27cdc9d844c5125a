"""Runs functions of many small tensor operators by TorchScript's interpreter instead of Python's.

Law: operators run one by one as written; nothing is fused and no number changes. If torch cannot
script a function, Python runs it.

A large product evicts everything else from the CPU's caches, and Python's overhead per operator
then exceeds the operator itself; TorchScript's is about a third of it. torch has deprecated
TorchScript; only speed depends on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def scripted(function: Function) -> Function:
    """`function` scripted, if this torch can. Only for tensors on a CPU: on a GPU TorchScript would
    fuse operators.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cast(Function, torch.jit.script(function))
    except (AttributeError, OSError, RuntimeError, TypeError):
        return function
