"""Word boundaries without a tokenizer: what an edit keeps, where the next word ends, steps of
typing.

Law: no character is cut, and whole tokens are kept whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from qwen_tui.journal import utf8, word_tokens
from qwen_tui.types import Token

_WORD = re.compile(r"\s*(?:[^\W_]+(?:['’_-][^\W_]+)*|[^\w\s]+|_+)?")
LONGEST_WORD: Final = 200
"""Characters after which a word is cut."""
_UNSPACED = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Scripts written without spaces: there one character counts as a word."""


def next_word(text: str) -> int:
    """The length in characters of the first word, with the white space before it.

    In a script written without spaces that is one character.
    """
    found = _WORD.match(text)
    word = found[0] if found else ""
    if unspaced := _UNSPACED.search(word):
        return unspaced.start() or 1
    return max(1, len(word))


def word_ends(before: str, after: str, most: int) -> list[int]:
    """The offsets where words end in the text that was added between `before` and `after`, the last
    word left out; evenly thinned to at most `most`. Empty if `after` does not begin with `before`.
    """
    if not after.startswith(before):
        return []
    ends, at = [], len(before)
    while at < len(after):
        at += next_word(after[at : at + LONGEST_WORD])
        ends.append(at)
    stride = max(1, -(-len(ends) // most))
    return ends[stride - 1 : -1 : stride]


def recommit(tokens: Sequence[Token], text: str) -> tuple[int, tuple[Token, ...]]:
    """`Vocab.recommit` without a vocabulary: whole tokens are kept, the rest is split into words.

    Backs off to the start of the word being edited, and never cuts a character.
    """
    data = utf8(text)
    kept, size = 0, 0
    for token in tokens:
        if not data.startswith(token.data, size):
            break
        kept += 1
        size += len(token.data)
    while kept and size < len(data) and (data[size : size + 1] not in b" \t\r\n"):
        kept -= 1
        size -= len(tokens[kept].data)
        if size == 0 or tokens[kept].data[:1] in b" \t\r\n":
            break
    return kept, word_tokens(data[size:].decode("utf-8", "replace"))
