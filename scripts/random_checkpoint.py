"""Write a random-normal checkpoint of a published Qwen2.5 shape, for measuring speed and memory.

The numbers mean nothing; shapes, dtypes, file layout and tokenizer are the real ones, so loading
and decoding cost what they cost with the real weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

KEYS = ("h", "i", "n", "q", "kv", "v", "tied", "p")
"""hidden, intermediate, layers, query heads, key-value heads, vocabulary rows, tied, positions"""
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "0.5B": (896, 4864, 24, 14, 2, 151_936, True, 32_768),
    "1.5B": (1536, 8960, 28, 12, 2, 151_936, True, 131_072),
    "3B": (2048, 11_008, 36, 16, 2, 151_936, True, 32_768),
    "7B": (3584, 18_944, 28, 28, 4, 152_064, False, 131_072),
}
SHAPES = {name: dict(zip(KEYS, row, strict=True)) for name, row in PUBLISHED.items()}
END_OF_TEXT = 151_643
LAYERS_PER_SHARD = 7
SPREAD = 0.02
"""Standard deviation of every matrix, as Qwen2 initialises them."""


def config_of(shape: dict[str, Any]) -> dict[str, Any]:
    """The published config.json of this shape."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": shape["h"],
        "intermediate_size": shape["i"],
        "num_hidden_layers": shape["n"],
        "num_attention_heads": shape["q"],
        "num_key_value_heads": shape["kv"],
        "vocab_size": shape["v"],
        "tie_word_embeddings": shape["tied"],
        "max_position_embeddings": shape["p"],
        "max_window_layers": shape["n"],
        "sliding_window": shape["p"],
        "use_sliding_window": False,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "initializer_range": SPREAD,
        "attention_dropout": 0.0,
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": END_OF_TEXT,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def layer_tensors(shape: dict[str, Any], index: int, dice: torch.Generator) -> dict[str, Tensor]:
    """One decoder layer by its published names."""
    at, hidden, inner = f"model.layers.{index}.", shape["h"], shape["i"]
    head = hidden // shape["q"]
    out = {}
    for part, heads in (("q", shape["q"]), ("k", shape["kv"]), ("v", shape["kv"])):
        out[f"{at}self_attn.{part}_proj.weight"] = normal(dice, heads * head, hidden)
        out[f"{at}self_attn.{part}_proj.bias"] = normal(dice, heads * head)
    out[f"{at}self_attn.o_proj.weight"] = normal(dice, hidden, shape["q"] * head)
    out[f"{at}mlp.gate_proj.weight"] = normal(dice, inner, hidden)
    out[f"{at}mlp.up_proj.weight"] = normal(dice, inner, hidden)
    out[f"{at}mlp.down_proj.weight"] = normal(dice, hidden, inner)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        out[f"{at}{norm}.weight"] = torch.ones(hidden, dtype=torch.bfloat16)
    return out


def normal(dice: torch.Generator, *size: int) -> Tensor:
    """bfloat16 normal deviates."""
    return torch.empty(size, dtype=torch.bfloat16).normal_(0.0, SPREAD, generator=dice)


def write(folder: Path, name: str, tokenizer: Path, seed: int) -> None:
    """The whole checkpoint: shards, index, configuration and tokenizer."""
    shape = SHAPES[name]
    dice = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ends = {
        "model.embed_tokens.weight": normal(dice, shape["v"], shape["h"]),
        "model.norm.weight": torch.ones(shape["h"], dtype=torch.bfloat16),
    }
    if not shape["tied"]:
        ends["lm_head.weight"] = normal(dice, shape["v"], shape["h"])
    layers = range(shape["n"])
    groups = [layers[at : at + LAYERS_PER_SHARD] for at in layers[::LAYERS_PER_SHARD]]
    shards, where, total = len(groups) + 1, {}, 0
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        if number == 0:
            tensors = ends
        else:
            tensors = {}
            for index in groups[number - 1]:
                tensors |= layer_tensors(shape, index, dice)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
        print(f"{file}: {total / 1e9:.1f} GB so far", flush=True)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    (folder / "config.json").write_text(json.dumps(config_of(shape), indent=2), "utf-8")
    generation = {"eos_token_id": END_OF_TEXT, "max_new_tokens": 2048, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation), "utf-8")
    for file in tokenizer.glob("tokenizer*.json"):
        shutil.copyfile(file, folder / file.name)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    write(chosen.folder, chosen.shape, chosen.tokenizer, chosen.seed)


if __name__ == "__main__":
    main()
