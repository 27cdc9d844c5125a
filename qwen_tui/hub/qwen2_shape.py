"""Whether our own Qwen2 forward runs a checkpoint, and the numbers it needs of the configuration.

Law: anything the forward does not do (scaled RoPE, sliding windows, another activation, quantised
weights) is left to transformers; this is the one place where that is decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

QUANTISED: Final = ("quantization_config", "quantization", "compression_config")
"""Keys of config.json that say the weights are quantised: transformers', MLX's, and an older
compressed-tensors'."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of a Qwen2 checkpoint that the forward needs: widths, counts, RoPE's base."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    vocab: int
    context: int
    eps: float
    theta: float
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape | None:
        """Read a config.json; None where our own forward does not run it."""
        if not _plain(config):
            return None
        rope = config.get("rope_parameters") or {}
        try:
            heads = int(config["num_attention_heads"])
            return cls(
                hidden=int(config["hidden_size"]),
                intermediate=int(config["intermediate_size"]),
                layers=int(config["num_hidden_layers"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads", heads)),
                head=int(config.get("head_dim") or config["hidden_size"] // heads),
                vocab=int(config["vocab_size"]),
                context=int(config.get("max_position_embeddings", 32768)),
                eps=float(config.get("rms_norm_eps", 1e-6)),
                theta=float(config.get("rope_theta") or rope.get("rope_theta", 10000.0)),
                tied=bool(config.get("tie_word_embeddings", False)),
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None


def _plain(config: Mapping[str, Any]) -> bool:
    """Whether the configuration asks for nothing that the forward does not do."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    layers = config.get("layer_types") or ()
    return (
        config.get("model_type") == "qwen2"
        and config.get("hidden_act", "silu") == "silu"
        and isinstance(rope, Mapping)
        and rope.get("rope_type", rope.get("type", "default")) == "default"
        and not config.get("use_sliding_window")
        and all(each == "full_attention" for each in layers)
        and not any(config.get(key) for key in QUANTISED)
    )
