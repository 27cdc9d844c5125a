"""Builds a tokenizer from tokenizer.json without anything that rewrites text.

Law: splits, merges and added tokens are kept; normalisers, prefixes and truncation are removed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from qwen_tui.types import BAD_DATA, Token, Trouble
from qwen_tui.vocab.alignment import to_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

State = Mapping[str, Any]
_BYTE_PIECE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def build(raw: bytes) -> Tokenizer:
    """The tokenizer of an unchanged tokenizer.json; Trouble (65) if it is invalid."""
    # One text at a time needs no threads, and threads would make every later fork warn on stderr.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_buffer(raw)
    except Exception as error:  # the package raises nothing narrower
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise Trouble(
            f"tokenizer.json cannot be read: {why}",
            hint="fetch the file again; `doctor --verify-weights` compares its hash",
            code=BAD_DATA,
        ) from error


def take_out_rewrites(tokenizer: Tokenizer) -> bool:
    """Remove whatever changes the text before it is split; returns whether Unicode was normalised.

    Spelling a space as `▁` is kept; adding one before the text is removed.
    """
    from tokenizers import normalizers, pre_tokenizers

    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.post_processor = None
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
    rules = list(_flat(_state(tokenizer.normalizer), "normalizers"))
    kept = [rule for rule in rules if _spells_space(rule)]
    rebuilt = normalizers.Sequence([])
    rebuilt.__setstate__(_packed({"type": "Sequence", "normalizers": kept}))
    tokenizer.normalizer = rebuilt if kept else None
    if (state := _state(tokenizer.pre_tokenizer)) and (bare := _unprefixed(state)) != state:
        splitter = pre_tokenizers.Sequence([])
        splitter.__setstate__(_packed(bare))
        tokenizer.pre_tokenizer = splitter
    return any(not _spells_space(rule) and rule.get("type") != "Prepend" for rule in rules)


def without_added(tokenizer: Tokenizer) -> Tokenizer:
    """The same splits and merges (shared, not copied) without any added tokens."""
    from tokenizers import Tokenizer

    plain = Tokenizer(tokenizer.model)
    if tokenizer.normalizer is not None:
        plain.normalizer = tokenizer.normalizer
    if tokenizer.pre_tokenizer is not None:
        plain.pre_tokenizer = tokenizer.pre_tokenizer
    return plain


def word_splitter(tokenizer: Tokenizer) -> PreTokenizer | None:
    """The pre-tokeniser if it splits words after spaces are spelled its way, else None (Gemma and
    Llama 2 merge over a whole text).
    """
    splitter, normalizer = tokenizer.pre_tokenizer, tokenizer.normalizer
    text = "a b" if normalizer is None else normalizer.normalize_str("a b")
    return splitter if splitter and len(splitter.pre_tokenize_str(text)) > 1 else None


def byte_rule(tokenizer: Tokenizer) -> Callable[[str], bytes]:
    """A function from a piece of the vocabulary to its bytes.

    Byte-level alphabets (GPT-2, Qwen2, Llama 3) and SentencePiece's `▁` and `<0xNN>` are exact; any
    other piece is its own UTF-8.
    """
    decoders = list(_flat(_state(tokenizer.decoder), "decoders"))
    splitters = list(_flat(_state(tokenizer.pre_tokenizer), "pretokenizers"))
    if any(rule.get("type") == "ByteLevel" for rule in (*decoders, *splitters)):
        return _byte_level
    swaps = [swap for rule in decoders if (swap := _swap(rule))]
    fallback = bool(getattr(tokenizer.model, "byte_fallback", False)) or any(
        rule.get("type") == "ByteFallback" for rule in decoders
    )

    def spell(piece: str) -> bytes:
        if fallback and (byte := _BYTE_PIECE.fullmatch(piece)):
            return bytes([int(byte[1], 16)])
        for old, new in swaps:
            piece = piece.replace(old, new)
        return to_bytes(piece)

    return spell


def byte_spellings(byte: int) -> tuple[str, str]:
    """The pieces that may represent a single byte: byte-level, SentencePiece."""
    return _LETTERS[byte], f"<0x{byte:02X}>"


def by_offsets(
    tokens: Sequence[Token], offsets: Sequence[tuple[int, int]], text: str
) -> tuple[Token, ...]:
    """The tokens, each with the bytes of the text it covers: for a vocabulary that
    cannot spell the text (an unknown-token, a swallowed space). Trouble (65) if it has no tokens.
    """
    if not tokens:
        raise Trouble(
            f"the tokenizer has no tokens for {text[:20]!r}",
            hint="use a checkpoint with a byte-level vocabulary",
            code=BAD_DATA,
        )
    raw = text.encode("utf-8")
    ends = [0]
    for character in text:
        ends.append(ends[-1] + len(character.encode("utf-8")))
    at = 0
    exact: list[Token] = []
    for token, (_, end) in zip(tokens, offsets, strict=True):
        own = token.data
        fits = bool(own) and raw.startswith(own, at)
        data = own if fits else raw[at : max(at, ends[end])]
        exact.append(Token(token.id, data))
        at += len(data)
    if at < len(raw):
        exact[-1] = Token(exact[-1].id, exact[-1].data + raw[at:])
    return tuple(exact)


def any_of(spellings: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern that finds any of them, the longest first; None for none."""
    found = sorted(filter(None, spellings), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, found))) if found else None


def _letters() -> list[str]:
    """The byte-level alphabet of GPT-2 (`bytes_to_unicode`): the letter of each byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


_LETTERS: Final = tuple(_letters())
_LETTER_BYTES: Final = {letter: byte for byte, letter in enumerate(_LETTERS)}


def _byte_level(piece: str) -> bytes:
    try:
        return bytes(map(_LETTER_BYTES.__getitem__, piece))
    except KeyError:
        return to_bytes(piece)


def _state(part: Any) -> State:
    """A normaliser, pre-tokeniser or decoder as its JSON; {} for None."""
    return {} if part is None else json.loads(part.__getstate__())


def _packed(state: State) -> bytes:
    return json.dumps(state).encode("utf-8")


def _flat(state: State, inside: str) -> Iterator[State]:
    """The rules of a part one by one, sequences unfolded."""
    if state.get("type") == "Sequence":
        for each in state.get(inside, ()):
            yield from _flat(each, inside)
    elif state:
        yield state


def _spells_space(rule: State) -> bool:
    return (
        rule.get("type") == "Replace"
        and rule.get("pattern") == {"String": " "}
        and len(rule.get("content", "")) == 1
    )


def _unprefixed(state: State) -> dict[str, Any]:
    """The same pre-tokeniser without adding a space before the text."""
    bare = dict(state)
    if "pretokenizers" in bare:
        bare["pretokenizers"] = [_unprefixed(each) for each in bare["pretokenizers"]]
    if "add_prefix_space" in bare:
        bare["add_prefix_space"] = False
    if "prepend_scheme" in bare:
        bare["prepend_scheme"] = "never"
    return bare


def _swap(rule: State) -> tuple[str, str] | None:
    """The text a decoder replaces, and its replacement."""
    kind = rule.get("type")
    if kind == "Replace" and isinstance(old := rule.get("pattern", {}).get("String"), str):
        return old, str(rule.get("content", ""))
    if kind == "Metaspace":
        return str(rule.get("replacement", "▁")), " "
    if kind == "BPEDecoder" and rule.get("suffix"):
        return str(rule["suffix"]), " "
    return None
