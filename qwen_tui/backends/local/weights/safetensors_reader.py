"""A published Qwen2 checkpoint, read one tensor at a time and fused a layer at a time.

Law: a tensor that is missing is an error that names it; nothing is read before it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from qwen_tui.hub import Shape
from qwen_tui.types import NO_INPUT, Trouble


class Reader:
    """Tensors of a checkpoint by their published names, one at a time."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self._where: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        for file in sorted(folder.glob("*.safetensors")):
            self._open[file] = safe_open(str(file), framework="pt", device="cpu")
            self._where.update(dict.fromkeys(self._open[file].keys(), file))
        missing = [name for name in _names(shape) if name not in self._where]
        if missing:
            shown = ", ".join(missing[:3]) + (
                f" and {len(missing) - 3} more" if missing[3:] else ""
            )
            raise Trouble(
                f"the checkpoint in {folder} lacks {shown}",
                hint="fetch the model again; nothing is ever filled in at random",
                code=NO_INPUT,
            )
        self.total = sum(file.stat().st_size for file in self._open)

    def take(self, name: str) -> Tensor:
        """One tensor, in the dtype it has on disk."""
        tensor: Tensor = self._open[self._where[name]].get_tensor(name)
        return tensor


def _names(shape: Shape) -> Iterator[str]:
    yield "model.embed_tokens.weight"
    yield "model.norm.weight"
    if not shape.tied:
        yield "lm_head.weight"
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        for part in "qkv":
            yield f"{at}self_attn.{part}_proj.weight"
            yield f"{at}self_attn.{part}_proj.bias"
        for part in ("self_attn.o", "mlp.gate", "mlp.up", "mlp.down"):
            yield f"{at}{part}_proj.weight"
        for part in ("input", "post_attention"):
            yield f"{at}{part}_layernorm.weight"


def fused(reader: Reader, index: int) -> dict[str, tuple[Tensor, Tensor | None]]:
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


def norms(reader: Reader, index: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    at = f"model.layers.{index}."
    return (
        reader.take(f"{at}input_layernorm.weight").to(dtype),
        reader.take(f"{at}post_attention_layernorm.weight").to(dtype),
    )
