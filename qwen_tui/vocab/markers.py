"""Tokens that mark a place in a document and are not text: start tokens, and the markers that end a
fill-in-the-middle completion. They are found by name, never by id.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FIM_PARTS: Final = (
    "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",  # Qwen2.5-Coder, CodeGemma
    "<fim_prefix>", "<fim_middle>", "<fim_suffix>",  # StarCoder, Granite
    "<fim-prefix>", "<fim-middle>", "<fim-suffix>",  # SantaCoder
    "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>",  # DeepSeek-Coder
    "▁<PRE>", "▁<MID>", "▁<SUF>",  # Code Llama
    "[PREFIX]", "[MIDDLE]", "[SUFFIX]",  # Codestral
)  # fmt: skip
"""A prompt with one of these asks for a missing middle."""
FIM_ENDS: Final = (
    *FIM_PARTS, "<|fim_pad|>", "<fim_pad>", "<fim-pad>", "▁<EOT>",
    "<|file_sep|>", "<|file_separator|>", "<file_sep>", "<filename>",
    "<|repo_name|>", "<repo_name>", "<reponame>",
    "<|endoftext|>", "<|end_of_text|>",
)  # fmt: skip
"""What ends the middle: its own markers, and separators of files and repositories."""


def known(tokenizer: Tokenizer, names: tuple[str, ...]) -> frozenset[int]:
    """The ids of those names that the tokenizer has as tokens."""
    ids = map(tokenizer.token_to_id, names)
    return frozenset(id for id in ids if id is not None)


def start_ids(tokenizer: Tokenizer, config: Mapping[str, Any], bos: str) -> tuple[int, ...]:
    """The ids that the tokenizer's post-processor puts before every text, unless `config`
    (tokenizer_config.json) overrides that by `add_bos_token`. `bos` is the spelling of the BOS
    token, or "".
    """
    found = tokenizer.encode("a", add_special_tokens=True)
    marks = zip(found.ids, found.special_tokens_mask, strict=True)
    leading = tuple(id for id, _ in takewhile(lambda pair: pair[1], marks))
    wanted = config.get("add_bos_token")
    if wanted is False:
        return ()
    id = tokenizer.token_to_id(bos) if wanted is True and bos else None
    return leading or (() if id is None else (id,))
