"""An edited text keeps the tokens it can, and encodes the rest as the whole would be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fixtures.tokenizers import ADDED, SPECIAL, build_tokenizer
from qwen_tui.types import Choice, Token, joined, text_of
from qwen_tui.vocab import Vocab, to_bytes
from qwen_tui.vocab.alignment import TokenText

SNIPPETS = (
    "the", " house", "Hello", " ", "  ", "\n", "\n\n", "\r\n", "\t", "7", ".", "...", "'s", " '",
    "é", "e\u0301", "中文", "👍🏽", *SPECIAL, ADDED[2], "<|", "|>", "<|endo", "ftext|>",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(SNIPPETS), max_size=10).map("".join)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Vocab:
    return Vocab.load(build_tokenizer(tmp_path_factory.mktemp("vocab")))


def _again(vocab: Vocab, tokens: tuple[Token, ...], text: str) -> tuple[int, tuple[Token, ...]]:
    kept, rest = vocab.recommit(tokens, text)
    return kept, (*tokens[:kept], *rest)


@settings(max_examples=300, deadline=None)
@given(before=TEXTS, gone=TEXTS, new=TEXTS, after=TEXTS, special=st.booleans())
@example(before="the", gone="", new=" house", after="", special=True)
@example(before="<|endo", gone="", new="ftext|>", after="", special=True)
@example(before="a ", gone="", new="b", after="", special=True)
@example(before=" \t", gone="", new="?!7", after="", special=False)
@example(before=" '", gone=" '", new="", after="\n\n", special=False)
@example(before="a  ", gone="", new="<|endoftext|>", after="b", special=True)
def test_an_edit_gives_the_tokens_of_the_whole_new_text(
    vocab: Vocab, before: str, gone: str, new: str, after: str, special: bool
) -> None:
    old, text = before + gone + after, before + new + after
    tokens = vocab.encode(old, special=special)
    kept, rest = vocab.recommit(tokens, text, special=special)
    assert (*tokens[:kept], *rest) == vocab.encode(text, special=special)


@settings(max_examples=150, deadline=None)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=6), max_size=8),
    new=st.text(st.characters(exclude_categories=()), max_size=10),
)
def test_whatever_the_tokens_were_the_text_comes_out(
    vocab: Vocab, pieces: list[bytes], new: str
) -> None:
    tokens = tuple(Token(-1, data) for data in pieces)
    _kept, after = _again(vocab, tokens, new)
    assert joined(after).decode("utf-8", "replace") == to_bytes(new).decode("utf-8", "replace")
    shown = text_of(tokens) + new
    _, after = _again(vocab, tokens, shown)
    assert text_of(after) == to_bytes(shown).decode("utf-8", "replace")


def test_unchanged_text_keeps_every_token_even_unusual_ones(vocab: Vocab) -> None:
    odd = tuple(vocab.encode(letter)[0] for letter in "Hello")
    assert vocab.recommit(odd, "Hello") == (5, ())


def test_the_word_being_edited_is_encoded_anew(vocab: Vocab) -> None:
    tokens = (*vocab.encode("Hello"), *vocab.encode(" wo"), *vocab.encode("r"))
    kept, rest = vocab.recommit(tokens, "Hello world")
    assert kept == 1
    assert rest == vocab.encode(" world")


def test_what_a_model_said_about_kept_tokens_stays(vocab: Vocab) -> None:
    weighed = tuple(
        Token(token.id, token.data, -0.5, (Choice(1, b"x", -0.7),))
        for token in vocab.encode("Hello, world")
    )
    kept, after = _again(vocab, weighed, "Hello, world again")
    assert kept == len(weighed)
    assert all(token.logprob == -0.5 for token in after[:kept])


def test_what_a_model_said_about_the_text_behind_an_edit_is_no_longer_of_the_tokens(
    vocab: Vocab,
) -> None:
    weighed = tuple(
        Token(token.id, token.data, -0.5, (Choice(1, b"x", -0.7),))
        for token in vocab.encode("Hello, world and house")
    )
    kept, rest = vocab.recommit(weighed, "Jello, world and house")
    assert all(token.logprob is None and not token.choices for token in rest)
    assert (*weighed[:kept], *rest)[-1] == vocab.encode("Hello, world and house")[-1]


def test_half_an_emoji_stays_so_that_the_model_can_finish_it(vocab: Vocab) -> None:
    half = (*vocab.encode("So "), *vocab.encode_bytes("🦊".encode()[:2]))
    shown = text_of(half)
    assert vocab.recommit(half, shown) == (len(half), ())
    kept, after = _again(vocab, half, shown + " and")
    assert kept == len(half)
    assert joined(after) == b"So \xf0\x9f and"


def test_a_special_token_that_stays_is_not_spelled_out(vocab: Vocab) -> None:
    end = vocab.token(vocab.id_of("<|endoftext|>") or 0)
    tokens = (*vocab.encode("Hello"), end)
    kept, rest = vocab.recommit(tokens, "Hello<|endoftext|>... and", special=False)
    assert kept == 2
    assert rest == vocab.encode("... and", special=False)


def test_a_long_document_is_not_encoded_again(
    vocab: Vocab, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 4_000
    tokens = vocab.encode(text)
    seen: list[int] = []
    encode = Vocab.encode

    def counted(self: Vocab, text: str, *, special: bool = True) -> tuple[Token, ...]:
        seen.append(len(text))
        return encode(self, text, special=special)

    monkeypatch.setattr(Vocab, "encode", counted)
    kept, after = _again(vocab, tokens, text + "hello")
    assert joined(after).endswith(b"dog. hello")
    assert sum(seen) < 100
    assert kept >= len(tokens) - 2


@settings(max_examples=100, deadline=None)
@given(before=TEXTS, gone=TEXTS, new=TEXTS, after=TEXTS)
def test_an_edit_at_the_head_of_a_long_text_encodes_the_edit_alone(
    vocab: Vocab, before: str, gone: str, new: str, after: str
) -> None:
    rest = after + "The quick brown fox jumps over <|im_end|>  the lazy dog.\n\n" * 60
    old, text = before + gone + rest, before + new + rest
    tokens = vocab.encode(old)
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        encode = Vocab.encode

        def counted(self: Vocab, text: str, *, special: bool = True) -> tuple[Token, ...]:
            seen.append(len(text))
            return encode(self, text, special=special)

        patch.setattr(Vocab, "encode", counted)
        kept, again = vocab.recommit(tokens, text)
    assert (*tokens[:kept], *again) == vocab.encode(text)
    assert sum(vocab.measure(TokenText(tokens), text)) == len(vocab.encode(text))
    assert sum(seen) < 1_000


def test_a_word_longer_than_the_window_is_backed_off_whole(vocab: Vocab) -> None:
    old = "so " + "x" * 5_000
    kept, after = _again(vocab, vocab.encode(old), old + "yz")
    assert after == vocab.encode(old + "yz")
    assert text_of(after[:kept]).startswith("so")


def test_a_folder_of_its_own(tmp_path: Path) -> None:
    """Two vocabularies do not share state."""
    first = Vocab.load(build_tokenizer(tmp_path / "a", vocab_size=300))
    second = Vocab.load(build_tokenizer(tmp_path / "b"))
    assert first.sha256 != second.sha256
    assert first.encode("Hello") != second.encode("Hello")
