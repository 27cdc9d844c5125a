"""Vocabularies that are not byte-level: `▁`, `<0xNN>`, prefixes, tokens of unknown text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from qwen_tui.types import Trouble, joined, text_of
from qwen_tui.vocab import Vocab

PIECES = ("▁", "▁▁", "H", "i", "Hi", "▁H", "▁Hi", "t", "o", "to", "▁to", "\n", "é")
MERGES = (("▁", "▁"), ("H", "i"), ("▁", "Hi"), ("t", "o"), ("▁", "to"), ("▁", "H"))


def _model(*, byte_fallback: bool) -> models.BPE:
    spelled = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    vocab = {piece: id for id, piece in enumerate(("<unk>", "<s>", "</s>", *spelled, *PIECES))}
    return models.BPE(
        vocab=vocab,
        merges=list(MERGES),
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=byte_fallback,
    )


def _built(tokenizer: Tokenizer, folder: Path) -> Vocab:
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": {"content": "<s>"}, "eos_token": {"content": "</s>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return Vocab.load(folder)


def _llama(folder: Path) -> Vocab:
    """As Llama 2's: a space is put before the text, `▁` stands for spaces, no pre-tokeniser."""
    tokenizer = Tokenizer(_model(byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _built(tokenizer, folder)


def _metaspace(folder: Path) -> Vocab:
    """As Mistral's newer ones: the pre-tokeniser spells the spaces and prefixes one."""
    tokenizer = Tokenizer(_model(byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")]
    )
    return _built(tokenizer, folder)


def _gpt2_prefixing(folder: Path) -> Vocab:
    """Byte-level with a space put before the text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: id for id, letter in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return _built(tokenizer, folder)


def _unknowing(folder: Path) -> Vocab:
    """No byte fallback, blanks thrown away: what cannot be spelled is the unknown token."""
    tokenizer = Tokenizer(_model(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _built(tokenizer, folder)


BUILDERS = {
    "llama": _llama,
    "metaspace": _metaspace,
    "gpt2": _gpt2_prefixing,
    "unknowing": _unknowing,
}


@pytest.fixture(scope="module", params=BUILDERS)
def vocab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return BUILDERS[request.param](tmp_path_factory.mktemp("sentencepiece"))


TEXTS = st.lists(
    st.sampled_from(["Hi", " ", "  ", "to", "\n", "é", "🙂", "漢", "<s>", " Hi", "e\u0301"]),
    max_size=8,
).map("".join)


@settings(max_examples=80, deadline=None)
@given(text=TEXTS, new=TEXTS)
@example(text="🙂", new=" ")
def test_tokens_joined_are_the_text(vocab: Vocab, text: str, new: str) -> None:
    text = "Hi" + text  # blanks alone have no tokens where the pre-tokeniser throws them away
    tokens = vocab.encode(text)
    kept, rest = vocab.recommit(tokens, text + new)
    assert text_of(tokens) == text
    assert joined((*tokens[:kept], *rest)) == (text + new).encode()


def test_pieces_are_spelled_as_bytes(tmp_path: Path) -> None:
    llama = _llama(tmp_path)
    assert [token.data for token in llama.encode("Hi Hi  to")] == [b"Hi", b" Hi", b"  ", b"to"]
    assert [token.data for token in llama.encode("🙂")] == [b"\xf0", b"\x9f", b"\x99", b"\x82"]
    assert joined(llama.encode("\udcf0Hi")) == b"\xf0Hi"
    assert llama.eos_ids == {2}
    assert llama.end_of_text == 1
    assert not llama.normalises


def test_an_unknown_token_keeps_the_text_it_stands_for(tmp_path: Path) -> None:
    found = _unknowing(tmp_path).encode("Hi 漢字 to")
    assert [token.data for token in found] == [b"Hi", " 漢字".encode(), b" to"]
    with pytest.raises(Trouble, match="no tokens"):
        _unknowing(tmp_path).encode("   ")


def test_added_tokens_that_swallow_blanks_lose_none(tmp_path: Path) -> None:
    tokenizer = Tokenizer(_model(byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.add_special_tokens([AddedToken("<|go|>", lstrip=True, rstrip=True)])
    found = _built(tokenizer, tmp_path).encode("Hi  <|go|>  Hi")
    assert text_of(found) == "Hi  <|go|>  Hi"


def test_a_bos_that_the_tokenizer_would_add_is_told_and_not_added(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer(_model(byte_fallback=True))
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    vocab = _built(tokenizer, tmp_path)
    assert vocab.start_ids == (1,)
    assert text_of(vocab.encode("Hi")) == "Hi"
