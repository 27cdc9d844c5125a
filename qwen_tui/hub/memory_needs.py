"""Memory that a checkpoint takes while it runs: weights, KV cache and the libraries themselves.

Law: pure arithmetic over a card's numbers; nothing is measured and nothing is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from qwen_tui.hub.card import DTYPE_BYTES, Card
from qwen_tui.hub.catalog import Known

# NF4: 4 bits and one float32 scale per block of 64; int4: 16-bit scale and zero; int8: by the row.
FOUR_BITS: Final = 0.5 + 4 / 64
INT8_BYTES: Final = 1.0
RUNTIME_BYTES: Final = 900 << 20
"""Python, torch and transformers themselves, and room for one prefill chunk: rounded up generously
(the demo model takes 0.2 GiB with its weights)."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Memory in bytes that a checkpoint takes while it runs."""

    weights: int
    kv_per_token: int
    runtime: int = RUNTIME_BYTES

    def total(self, tokens: int) -> int:
        """The total with `tokens` in the KV cache."""
        return self.weights + self.runtime + self.kv_per_token * tokens


def needs(what: Card | Known, dtype: str = "bf16", quant: str = "none") -> Needs:
    """What a checkpoint takes in a dtype (bf16, fp16, fp32) and quantisation (none, int8, int4,
    nf4).

    The linear layers are quantised, the token tables stay in `dtype`; the KV cache is two vectors
    per layer and token in `dtype`.
    """
    width = DTYPE_BYTES.get(dtype, 2)
    if isinstance(what, Known):
        table = what.vocab_rows * what.hidden * (1 if what.tied else 2)
    else:
        table = what.table_parameters
    per = {"nf4": FOUR_BITS, "int4": FOUR_BITS, "int8": INT8_BYTES}.get(quant, float(width))
    weights = max(0, int((what.parameters - table) * per)) + table * width
    if isinstance(what, Card) and what.quantised:
        weights = what.bytes
    return Needs(weights, 2 * what.layers * what.kv_heads * what.head_dim * width)
