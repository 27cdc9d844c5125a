"""The Qwen2.5 checkpoints as they were published: shapes, licence, citation, size of the download.

For checkpoints not on this disk; a snapshot on disk is described by its own files (`card`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CITATION: Final = """\
@misc{qwen2.5,
    title = {Qwen2.5: A Party of Foundation Models},
    url = {https://qwenlm.github.io/blog/qwen2.5/},
    author = {Qwen Team},
    month = {September},
    year = {2024}
}"""
BASE_KIND: Final = "base: it continues text and does not chat; write the beginning of a document"
INSTRUCT_KIND: Final = "instruct: tuned to answer turns (chat), and it still continues text"
INSTRUCT_CONTEXT: Final = 32_768
TOKENIZER_BYTES: Final = 11_500_000
"""tokenizer.json, vocab.json and merges.txt of Qwen2.5, rounded."""


@dataclass(frozen=True, slots=True)
class Known:
    """One published checkpoint (Qwen2 architecture, head_dim 128 or 64, bf16 on the hub).

    `context` is max_position_embeddings; an Instruct checkpoint may go further with YaRN.
    """

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab_rows: int
    tied: bool
    context: int
    licence: str
    instruct: bool
    citation: str = CITATION

    @property
    def kind(self) -> str:
        """One sentence that says what to expect from it."""
        return INSTRUCT_KIND if self.instruct else BASE_KIND

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def parameters(self) -> int:
        """Counted from the shapes: QKV with bias, two norms a layer, SwiGLU, one table or two."""
        kv = self.kv_heads * self.head_dim
        attention = self.hidden * (2 * self.hidden + 2 * kv) + self.hidden + 2 * kv
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        table = self.vocab_rows * self.hidden * (1 if self.tied else 2)
        return table + self.layers * layer + self.hidden

    @property
    def download_bytes(self) -> int:
        """What `models pull` fetches: bf16 weights exactly, the small files rounded."""
        return 2 * self.parameters + TOKENIZER_BYTES


def _family() -> tuple[Known, ...]:
    # config.json and model cards of Qwen/Qwen2.5-* on the hub; the 3B alone is under the Qwen
    # research licence.
    shapes = (
        ("7B", 3584, 18944, 28, 28, 4, 152_064, False, 131_072, "apache-2.0"),
        ("3B", 2048, 11008, 36, 16, 2, 151_936, True, 32_768, "qwen-research"),
        ("1.5B", 1536, 8960, 28, 12, 2, 151_936, True, 131_072, "apache-2.0"),
        ("0.5B", 896, 4864, 24, 14, 2, 151_936, True, 32_768, "apache-2.0"),
    )
    return tuple(
        Known(
            name=f"Qwen/Qwen2.5-{size}{'-Instruct' if instruct else ''}",
            hidden=hidden,
            intermediate=inner,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            vocab_rows=rows,
            tied=tied,
            context=INSTRUCT_CONTEXT if instruct else context,
            licence=licence,
            instruct=instruct,
        )
        for instruct in (False, True)
        for size, hidden, inner, layers, heads, kv_heads, rows, tied, context, licence in shapes
    )


KNOWN: Final = {each.name: each for each in _family()}
"""Published name → what it is; the base models first, largest first."""
