"""Text ⇄ tokens with `tokenizers` alone; a token's exact bytes; token healing; byte fallback.

Law: joined(encode(text)) == to_bytes(text) for every text. Whatever in a tokenizer rewrites the
text (Unicode normalisation, a space put before it) is removed; its splits and merges are kept.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from qwen_tui.types import BAD_DATA, NO_INPUT, Token, Trouble, joined
from qwen_tui.vocab import markers
from qwen_tui.vocab import tokenizer as rules
from qwen_tui.vocab.alignment import SURROGATE, TokenText, shared_length, to_bytes
from qwen_tui.vocab.decoder import Decoder
from qwen_tui.vocab.edit import Edit

__all__ = ["Decoder", "Vocab", "is_nfc", "to_bytes", "to_nfc"]

END_OF_TEXT: Final = "<|endoftext|>"
HEAL_TOKENS: Final = 8
"""Most tokens that healing backs up: in a script without spaces a "word" may be a whole
sentence."""

_LONG: Final = 1 << 12
"""Texts longer than this many characters are encoded as batches, which release the GIL."""

_WORDS: Final = re.compile(r"\s*\S+|\s+")
_SPELLED: Final = ("bos_token", "eos_token", "pad_token", "unk_token")


def is_nfc(text: str) -> bool:
    """Whether normalising to NFC, as Qwen was trained on, would leave the text as it is."""
    return text.isascii() or unicodedata.is_normalized("NFC", text)


def to_nfc(text: str) -> str:
    """The text in Unicode normalisation form C."""
    return unicodedata.normalize("NFC", text)


class Vocab:
    """A tokenizer with exact bytes. Made by `load`; immutable, and safe to use from two threads.

    size: rows of the model's vocabulary (config.json `vocab_size`, padding included), never less
        than `rows_known`.
    rows_known: ids 0 … rows_known-1 are the tokenizer's; those from there to `size` are padding.
    sha256: of tokenizer.json, hex.
    eos_ids: what ends a generation, from generation_config.json, config.json and
        tokenizer_config.json together.
    end_of_text: the token between documents: `<|endoftext|>`, else bos, else an eos; None if none.
    start_ids: what the tokenizer puts before every text by itself (bos of Llama; () for Qwen);
        `encode` never does, `opening` says where it belongs.
    chat_template: the Jinja source, or None.
    spellings: the special tokens by role ("bos_token", "eos_token", …), for templates.
    normalises: whether the tokenizer would have normalised the text (NFC for Qwen).
    """

    size: int
    rows_known: int
    sha256: str
    eos_ids: frozenset[int]
    end_of_text: int | None
    start_ids: tuple[int, ...]
    chat_template: str | None
    spellings: Mapping[str, str]
    normalises: bool

    def __init__(self, raw: bytes, configs: Mapping[str, Mapping[str, Any]]) -> None:
        """`raw` is tokenizer.json; `configs` maps "config", "generation_config" and
        "tokenizer_config" to their contents. Trouble if the tokenizer cannot be built.
        """
        self._tokenizer = rules.build(raw)
        self.sha256 = hashlib.sha256(raw).hexdigest()
        chosen = configs.get("tokenizer_config", {})
        self.spellings = MappingProxyType(_spellings(chosen))
        bos = self.spellings.get("bos_token", "")
        self.start_ids = markers.start_ids(self._tokenizer, chosen, bos)
        self.normalises = rules.take_out_rewrites(self._tokenizer)
        self._plain = rules.without_added(self._tokenizer)
        self._spell = rules.byte_rule(self._tokenizer)
        self._splitter = rules.word_splitter(self._tokenizer)
        added = self._tokenizer.get_added_tokens_decoder()
        self._added = {id: token.content for id, token in added.items()}
        self._special = frozenset(id for id, token in added.items() if token.special)
        self._spellings = rules.any_of(self._added.values())
        self.rows_known = self._count_rows()
        self._tokens: list[Token | None] = [None] * self.rows_known
        self._byte_ids: tuple[int, ...] | None = None
        self.size = max(self.rows_known, _integer(configs.get("config", {}).get("vocab_size")))
        self._fim_parts = markers.known(self._tokenizer, markers.FIM_PARTS)
        self._fim_ends = markers.known(self._tokenizer, markers.FIM_ENDS)
        self.eos_ids = self._find_eos(configs)
        self.end_of_text = self._find_end_of_text()
        self.chat_template = _template(chosen)

    @classmethod
    def load(cls, folder: Path) -> Vocab:
        """The vocabulary of a checkpoint's folder. Trouble when tokenizer.json is missing (66) or
        unusable (65).
        """
        path = folder / "tokenizer.json"
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise Trouble(
                f"no tokenizer.json in {folder}: {error.strerror}",
                hint="a checkpoint needs its tokenizer.json beside its weights",
                code=NO_INPUT,
            ) from error
        names = ("config", "generation_config", "tokenizer_config")
        configs = {name: _json(folder / f"{name}.json") for name in names}
        template = folder / "chat_template.jinja"
        if template.is_file():
            source = template.read_text(encoding="utf-8", errors="replace")
            configs["tokenizer_config"] = {**configs["tokenizer_config"], "chat_template": source}
        return cls(raw, configs)

    # -- single tokens ---------------------------------------------------------------------------

    def token(self, id: int) -> Token:
        """The token of an id; `data` is b"" for padding and unknown ids."""
        if not 0 <= id < self.rows_known:
            return Token(id, b"")
        token = self._tokens[id]
        if token is None:
            token = self._tokens[id] = Token(id, self._bytes_of(id))
        return token

    def data(self, id: int) -> bytes:
        """The exact bytes of an id; an added token's are its spelling, b"" for padding."""
        return self.token(id).data

    def opening(self, tokens: Sequence[Token]) -> tuple[Token, ...]:
        """The start tokens to send before a document of these tokens; () if it begins with them."""
        first = tuple(token.id for token in tokens[: len(self.start_ids)])
        return () if first == self.start_ids else tuple(map(self.token, self.start_ids))

    def ends(self, prompt: Iterable[Token]) -> frozenset[int]:
        """The ids that end a completion of this prompt: `eos_ids`, and for a fill-in-the-middle
        prompt its markers too.
        """
        if any(token.id in self._fim_parts for token in prompt):
            return self.eos_ids | self._fim_ends
        return self.eos_ids

    def is_special(self, id: int) -> bool:
        """Whether the tokenizer declares it special (`<|endoftext|>`): a marker, not text."""
        return id in self._special

    def is_added(self, id: int) -> bool:
        """Whether it is an added token, special or not (`<tool_call>`, `<|fim_prefix|>`): its
        spelling in a text is parsed to it unless `special=False`.
        """
        return id in self._added

    def id_of(self, spelling: str) -> int | None:
        """The id of an added token by its spelling."""
        return next((i for i, text in self._added.items() if text == spelling), None)

    # -- text to tokens --------------------------------------------------------------------------

    def encode(self, text: str, *, special: bool = True) -> tuple[Token, ...]:
        """The tokens of a text; nothing is added, stripped or normalised.

        With `special` the spellings of added tokens are parsed; without it they are ordinary text,
        FIM and tool tokens too. Bytes escaped by `surrogateescape` become byte tokens.
        """
        if not SURROGATE.search(text):
            return self._encode(text, special)
        tokens: list[Token] = []
        at = 0
        for run in SURROGATE.finditer(text):
            tokens += self._encode(text[at : run.start()], special)
            tokens += self._bytewise(to_bytes(run[0]))
            at = run.end()
        tokens += self._encode(text[at:], special)
        return tuple(tokens)

    def encode_bytes(self, data: bytes, *, special: bool = True) -> tuple[Token, ...]:
        """The tokens of bytes that need not be UTF-8; joined they are the same bytes."""
        return self.encode(data.decode("utf-8", "surrogateescape"), special=special)

    def recommit(
        self, tokens: Sequence[Token], text: str, *, special: bool = True
    ) -> tuple[int, tuple[Token, ...]]:
        """How many of `tokens` stay when the text becomes `text`, and the tokens of the rest.

        Kept is the longest run whose bytes begin the new text, backed off to where both texts have
        a word's start, so that the rest encodes as it would within the whole; then tokens that
        come out the same again are kept too. Where the texts end alike, the rest ends with the old
        tokens, without their records. joined(kept + rest) == to_bytes(text), except where old bytes
        are not UTF-8: they stay as long as the new text shows U+FFFD in their place. Costs an
        encoding of what was edited.
        """
        kept, middle, after = self._edited(TokenText(tokens), text, special)
        rest = (*middle, *map(_without_record, tokens[after:]))
        again = 0
        for before, now in zip(tokens[kept:], rest, strict=False):
            if before.id != now.id or before.data != now.data:
                break
            again += 1
        return kept + again, rest[again:]

    def measure(self, old: TokenText, text: str) -> tuple[int, int]:
        """As `recommit`, but only how many tokens stay before the edit, and how many follow."""
        kept, middle, after = self._edited(old, text, True)
        return kept, len(middle) + len(old.tokens) - after

    def _edited(
        self, old: TokenText, text: str, special: bool
    ) -> tuple[int, tuple[Token, ...], int]:
        """(tokens before the edit, the new tokens, the first token behind it)."""
        shared = shared_length(old.text, text)
        if shared == len(old.text) == len(text):
            return len(old.tokens), (), len(old.tokens)
        edit = Edit(old, text, shared, lambda piece: self._starts(piece, special))
        cut, kept = edit.begin(self._stands_alone)
        end, after = edit.end(cut) if self._splitter else (len(text), len(old.tokens))
        return kept, self.encode(text[cut:end], special=special), after

    def heal(self, tokens: Sequence[Token]) -> tuple[tuple[Token, ...], bytes]:
        """The prompt without its last word, and that word's bytes as a constraint on the first
        tokens.

        "The quick bro" gives "The quick" and b" bro", so that " brown" can be one token. At most
        `HEAL_TOKENS` are backed up, never past an added token. The prompt may become empty.
        """
        first = max(0, len(tokens) - 4 * HEAL_TOKENS)
        added = [at for at in range(first, len(tokens)) if self._stands_alone(tokens[at])]
        first = added[-1] + 1 if added else first
        tail = tokens[first:]
        old = TokenText(tail)
        starts = (at for at in self._starts(old.text, False) if at < len(old.text))
        whole = [kept for at in starts if (kept := old.token_at(at)) is not None]
        kept = max(0, len(tail) - HEAL_TOKENS, *whole)
        return tuple(tokens[: first + kept]), joined(tail[kept:])

    # -- how -------------------------------------------------------------------------------------

    def _bytes_of(self, id: int) -> bytes:
        if (added := self._added.get(id)) is not None:
            return added.encode("utf-8")
        piece = self._tokenizer.id_to_token(id)
        return b"" if piece is None else self._spell(piece)

    def _stands_alone(self, token: Token) -> bool:
        """Whether it is an added token spelled as itself (an unknown-token may represent other
        text).
        """
        return token.id in self._added and token.data == self.data(token.id)

    def _encode(self, text: str, special: bool) -> tuple[Token, ...]:
        if not text:
            return ()
        tokenizer = self._tokenizer if special else self._plain
        if len(text) > _LONG:
            found = tokenizer.encode_batch_fast([text], add_special_tokens=False)[0]
        else:
            found = tokenizer.encode(text, add_special_tokens=False)
        tokens = tuple(map(self.token, found.ids))
        if joined(tokens) == text.encode("utf-8"):
            return tokens
        found = tokenizer.encode(text, add_special_tokens=False)
        return rules.by_offsets(tokens, found.offsets, text)

    def _bytewise(self, data: bytes) -> list[Token]:
        if self._byte_ids is None:
            self._byte_ids = tuple(map(self._byte_id, range(256)))
        ids = [self._byte_ids[byte] for byte in data]
        if -1 in ids:
            raise Trouble(
                "the text is not valid UTF-8, and this tokenizer has no tokens for single bytes",
                hint="name the text's encoding with --encoding",
                code=BAD_DATA,
            )
        return list(map(self.token, ids))

    def _byte_id(self, byte: int) -> int:
        ids = map(self._tokenizer.token_to_id, rules.byte_spellings(byte))
        return next((id for id in ids if id is not None and self.data(id) == bytes([byte])), -1)

    def _count_rows(self) -> int:
        """One more than the highest id; ids may have gaps, so counting them would not do."""
        count = self._tokenizer.get_vocab_size(with_added_tokens=True)
        if count and self._tokenizer.id_to_token(count - 1) is not None:
            return count
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def _find_eos(self, configs: Mapping[str, Mapping[str, Any]]) -> frozenset[int]:
        found: set[int] = set()
        for name in ("generation_config", "config"):
            value = configs.get(name, {}).get("eos_token_id")
            found.update(map(_integer, value if isinstance(value, list) else [value]))
        named = self._tokenizer.token_to_id(self.spellings.get("eos_token", ""))
        found.add(-1 if named is None else named)
        return frozenset(id for id in found if 0 <= id < self.rows_known)

    def _find_end_of_text(self) -> int | None:
        names = (END_OF_TEXT, self.spellings.get("bos_token", ""))
        found = (self._tokenizer.token_to_id(name) for name in names if name)
        known = [id for id in found if id is not None]
        return known[0] if known else min(self.eos_ids, default=None)

    def _starts(self, text: str, special: bool) -> set[int]:
        """The offsets where encoding begins a word, both ends of the text included: at added
        tokens, and where the tokenizer's pre-tokeniser splits.
        """
        found = {0, len(text)}
        at = 0
        for match in self._spellings.finditer(text) if special and self._spellings else ():
            found |= {at + start for start in self._split(text[at : match.start()])}
            found |= {match.start(), match.end()}
            at = match.end()
        return found | {at + start for start in self._split(text[at:])}

    def _split(self, text: str) -> list[int]:
        """Where the pre-tokeniser begins a word in text without added tokens; if it does not split
        the text, words begin at blanks.
        """
        if self._splitter is not None:
            normalizer = self._tokenizer.normalizer
            written = text if normalizer is None else normalizer.normalize_str(text)
            if len(written) == len(text):
                return [start for _, (start, _) in self._splitter.pre_tokenize_str(written)]
        return [word.start() for word in _WORDS.finditer(text)]


def _without_record(token: Token) -> Token:
    """The same token, of which no model thought anything."""
    if token.logprob is None and not (token.choices or token.drafted or token.stale):
        return token
    return Token(token.id, token.data)


def _integer(value: object) -> int:
    """A JSON value as an id or a count; -1 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, {} if it is missing; Trouble (65) if it is broken."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise Trouble(
            f"{path.name} in {path.parent} cannot be read: {error}",
            hint="fetch the checkpoint's small files again",
            code=BAD_DATA,
        ) from error
    return found if isinstance(found, dict) else {}


def _spellings(config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens a tokenizer_config.json names, each a string or an object."""
    found: dict[str, str] = {}
    for name in _SPELLED:
        value = config.get(name)
        spelling = value.get("content") if isinstance(value, dict) else value
        if isinstance(spelling, str):
            found[name] = spelling
    return found


def _template(config: Mapping[str, Any]) -> str | None:
    """The chat template; of several named ones the default, else the first."""
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {
            each["name"]: each.get("template")
            for each in found
            if isinstance(each, dict) and isinstance(each.get("name"), str)
        }
        found = named.get("default", next(iter(named.values()), None))
    return found if isinstance(found, str) and found else None
