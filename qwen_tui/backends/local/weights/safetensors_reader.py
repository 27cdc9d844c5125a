"""A published Qwen2 checkpoint, read one tensor at a time and fused one layer at a time.

Law: a tensor that does not match the configuration raises an error that names it; a tensor is read
only when it is requested.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from torch import Tensor

from qwen_tui import hub
from qwen_tui.types import NO_INPUT, Trouble

UNTIED: Final = (
    "config.json ties the lm_head to the token table, but the checkpoint holds another one: "
    "both are used"
)
COMPARED: Final = 4096
"""Rows of two token tables that are compared at once."""


class CheckpointReader:
    """Tensors of a checkpoint by their published names, one at a time.

    `shape` is the one given, with `tied` False if the checkpoint's head differs from its token
    table although the configuration ties them: then both are used, as in transformers
    (`tie_weights`).
    """

    def __init__(self, folder: Path, shape: hub.Shape) -> None:
        weights = _checked(folder, shape)
        self._open = {
            name: safe_open(str(folder / name), framework="pt", device="cpu")
            for name in weights.names
        }
        self._where = {
            tensor: weights.places.get(tensor, name)
            for name, opened in self._open.items()
            for tensor in opened.keys()  # noqa: SIM118  # safe_open is no mapping
        }
        self.total = sum((folder / name).stat().st_size for name in weights.names)
        both = shape.tied and "lm_head.weight" in self._where
        self.shape = replace(shape, tied=False) if both and self._heads_differ() else shape

    def _heads_differ(self) -> bool:
        """Whether the head differs from the token table; compared a piece at a time."""
        table, head = (
            self._open[self._where[name]].get_slice(name)
            for name in ("model.embed_tokens.weight", "lm_head.weight")
        )
        rows = range(0, table.get_shape()[0], COMPARED)
        pieces = (slice(at, at + COMPARED) for at in rows)
        return not all(torch.equal(table[piece], head[piece]) for piece in pieces)

    def take(self, name: str) -> Tensor:
        """One tensor, in the dtype it has on disk."""
        tensor: Tensor = self._open[self._where[name]].get_tensor(name)
        return tensor


def _checked(folder: Path, shape: hub.Shape) -> hub.WeightFiles:
    """The files that hold the weights; Trouble 66 if a tensor's shape or dtype is wrong."""
    try:
        weights, tensors = hub.contents(folder)
    except ValueError as error:
        raise Trouble(f"{folder.name}: {error}", code=NO_INPUT) from None
    if wrong := hub.tensor_fault(shape, tensors):
        raise Trouble(f"{folder.name} {wrong}", hint=hub.FETCH_AGAIN, code=NO_INPUT)
    return weights


def fused(reader: CheckpointReader, index: int) -> dict[str, tuple[Tensor, Tensor | None]]:
    """One layer's full-precision weights, fused: name → (weight [N, K], bias [N] or None)."""
    at = f"model.layers.{index}."
    qkv = [f"{at}self_attn.{part}_proj" for part in "qkv"]
    return {
        "qkv": (
            torch.cat([reader.take(f"{name}.weight") for name in qkv]),
            torch.cat([reader.take(f"{name}.bias") for name in qkv]),
        ),
        "out": (reader.take(f"{at}self_attn.o_proj.weight"), None),
        "gate_up": (
            torch.cat([reader.take(f"{at}mlp.{part}_proj.weight") for part in ("gate", "up")]),
            None,
        ),
        "down": (reader.take(f"{at}mlp.down_proj.weight"), None),
    }


def norms(reader: CheckpointReader, index: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    at = f"model.layers.{index}."
    return (
        reader.take(f"{at}input_layernorm.weight").to(dtype),
        reader.take(f"{at}post_attention_layernorm.weight").to(dtype),
    )
