"""Whether our own Qwen2 forward pass runs a checkpoint, and the numbers it needs.

Law: anything it does not support (scaled RoPE, sliding windows, another activation) is left to
transformers; this is decided only here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from qwen_tui.hub.quantisation import PLAIN
from qwen_tui.hub.safetensors_header import Tensor

FETCH_AGAIN: Final = "fetch the model again; nothing is ever filled in at random"
MOST_NAMED: Final = 3
OFTEN_LEFT: Final = ".rotary_emb.inv_freq"
"""The suffix of a buffer in old checkpoints that no forward pass reads."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of a Qwen2 checkpoint that the forward pass needs: widths, counts, RoPE's
    base.
    """

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
        """Read a config.json; None if our own forward pass does not run it."""
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
    """Whether the configuration needs only what the forward pass supports."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    layers = config.get("layer_types") or ()
    return (
        config.get("model_type") == "qwen2"
        and config.get("hidden_act", "silu") == "silu"
        and isinstance(rope, Mapping)
        and rope.get("rope_type", rope.get("type", "default")) == "default"
        and not config.get("use_sliding_window")
        and all(each == "full_attention" for each in layers)
    )


def wanted(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint by its published name, with its shape."""
    hidden, inner = shape.hidden, shape.intermediate
    queries, kv = shape.heads * shape.head, shape.kv_heads * shape.head
    table = (shape.vocab, hidden)
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": table}
    found["model.norm.weight"] = (hidden,)
    if not shape.tied:
        found["lm_head.weight"] = table
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        for part, rows in (("q", queries), ("k", kv), ("v", kv)):
            found[f"{at}self_attn.{part}_proj.weight"] = (rows, hidden)
            found[f"{at}self_attn.{part}_proj.bias"] = (rows,)
        found[f"{at}self_attn.o_proj.weight"] = (hidden, queries)
        found[f"{at}mlp.gate_proj.weight"] = found[f"{at}mlp.up_proj.weight"] = (inner, hidden)
        found[f"{at}mlp.down_proj.weight"] = (hidden, inner)
        for part in ("input", "post_attention"):
            found[f"{at}{part}_layernorm.weight"] = (hidden,)
    return found


def tensor_fault(shape: Shape, tensors: Iterable[Tensor]) -> str:
    """What is wrong with a checkpoint's tensors: missing, unknown, or of the wrong shape or dtype;
    "" if nothing.
    """
    here = {each.name: each for each in tensors}
    # A count in a configuration may be anything; one layer more than there are tensors is missing.
    expected = wanted(replace(shape, layers=min(shape.layers, len(here) + 1)))
    missing = [name for name in expected if name not in here]
    if missing:
        return f"lacks {_listed(missing)}"
    if shape.tied:
        expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    for name, each in here.items():
        if name not in expected:
            continue
        if each.shape != expected[name]:
            right = list(expected[name])
            return f"has the wrong shape for {name}: {list(each.shape)}, not {right}"
        if each.dtype not in PLAIN:
            return f"holds {name} as {each.dtype}, which is no plain number: it is quantised"
    unknown = [name for name in here if name not in expected and not name.endswith(OFTEN_LEFT)]
    if unknown:
        return f"has tensors that its architecture does not know: {_listed(unknown)}"
    return ""


def _listed(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
