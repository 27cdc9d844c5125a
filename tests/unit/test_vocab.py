"""Text and tokens: bytes are kept exactly, added tokens obey `special`, damage is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.tokenizers import ADDED, SPECIAL, build_tokenizer
from qwen_tui.types import BAD_DATA, NO_INPUT, Token, Trouble, joined, text_of
from qwen_tui.vocab import Decoder, Vocab, is_nfc, to_bytes, to_nfc

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("QWEN_TUI_TEST_TOKENIZER", ROOT.parent / "shared" / "qwen2.5-tokenizer"))

SNIPPETS = (
    "the", " house", "Hello", " ", "  ", "\n", "\r\n", "\t", "12", ".", ",", "'s", "é", "e\u0301",
    "中文", "👨‍👩‍👧", "🇩🇪", "\u200b", "مرحبا", "def f():\n", *SPECIAL, *ADDED, "<|", "|>", "<|fim_",
)  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(SNIPPETS), st.text(max_size=4)), max_size=12).map(
    "".join
)
WILD = st.text(st.characters(exclude_categories=()), max_size=12)
"""Lone surrogates too."""

PROPERTY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", params=["small", "real"])
def vocab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vocab:
    if request.param == "small":
        return Vocab.load(build_tokenizer(tmp_path_factory.mktemp("small")))
    if not (REAL / "tokenizer.json").is_file():
        pytest.skip("no Qwen2.5 tokenizer here: name its folder in QWEN_TUI_TEST_TOKENIZER")
    return Vocab.load(REAL)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Vocab:
    return Vocab.load(build_tokenizer(tmp_path_factory.mktemp("small")))


@PROPERTY
@given(text=st.one_of(TEXTS, WILD), special=st.booleans())
def test_tokens_joined_are_the_text(vocab: Vocab, text: str, special: bool) -> None:
    assert joined(vocab.encode(text, special=special)) == to_bytes(text)


@PROPERTY
@given(data=st.binary(max_size=24))
def test_any_bytes_have_tokens(vocab: Vocab, data: bytes) -> None:
    assert joined(vocab.encode_bytes(data)) == data


@PROPERTY
@given(text=TEXTS)
def test_without_special_no_added_token_comes_out(vocab: Vocab, text: str) -> None:
    assert not any(vocab.is_added(token.id) for token in vocab.encode(text, special=False))


@pytest.mark.parametrize("spelling", [*SPECIAL, *ADDED])
def test_with_special_a_spelling_is_that_token(vocab: Vocab, spelling: str) -> None:
    found = vocab.encode(f"a{spelling}b")
    assert [text_of([token]) for token in found] == ["a", spelling, "b"]
    assert found[1].id == vocab.id_of(spelling)
    assert vocab.is_special(found[1].id) == (spelling in SPECIAL)


def test_text_that_is_not_nfc_stays_so(vocab: Vocab) -> None:
    text = "cafe\u0301 \u212b"
    assert text_of(vocab.encode(text)) == text
    assert vocab.normalises
    assert not is_nfc(text)
    assert is_nfc(to_nfc(text))


def test_every_byte_has_a_token_and_every_token_its_bytes(vocab: Vocab) -> None:
    every = [vocab.data(id) for id in range(vocab.rows_known)]
    assert len(every) == vocab.rows_known
    assert {bytes([byte]) for byte in range(256)} <= set(every)
    assert all(every)
    assert vocab.data(vocab.rows_known) == b""
    assert vocab.token(-1) == Token(-1, b"")


def test_the_real_vocabulary_is_known(vocab: Vocab) -> None:
    if vocab.rows_known < 100_000:
        pytest.skip("counts of the real one")
    assert vocab.rows_known == 151_665
    assert vocab.end_of_text == 151_643
    assert vocab.id_of("<|fim_prefix|>") == 151_659
    assert vocab.data(215) == b"\x1b"
    every = [vocab.data(id) for id in range(151_643)]
    lone = sum(1 for data in every if "\ufffd" in data.decode("utf-8", "replace"))
    assert lone >= 1_448


def test_an_emoji_cut_in_two_is_held_back_until_it_is_whole() -> None:
    decoder = Decoder()
    data = "a🙂b".encode()
    assert [decoder.feed(data[at : at + 1]) for at in range(6)] == ["a", "", "", "", "🙂", "b"]
    assert decoder.feed(data[1:3]) == ""
    assert decoder.pending == data[1:3]
    assert decoder.flush() == "\ufffd"
    assert decoder.feed(b"\xffok") == "\ufffdok"
    assert decoder.flush() == ""


@PROPERTY
@given(data=st.binary(max_size=40), cut=st.integers(0, 40))
def test_the_decoder_says_what_decoding_at_once_says(data: bytes, cut: int) -> None:
    decoder = Decoder()
    said = decoder.feed(data[:cut]) + decoder.feed(data[cut:]) + decoder.flush()
    assert said == data.decode("utf-8", "replace")


def _write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_eos_comes_from_all_three_files(tmp_path: Path) -> None:
    folder = build_tokenizer(tmp_path, chat=True)
    plain = Vocab.load(folder)
    end = plain.id_of("<|im_end|>")
    text_end = plain.id_of("<|endoftext|>")
    assert plain.eos_ids == {end}
    assert plain.end_of_text == text_end
    _write(folder, "generation_config.json", {"eos_token_id": [end, text_end, 10**9, "x", None]})
    _write(folder, "config.json", {"eos_token_id": 7, "vocab_size": 600})
    vocab = Vocab.load(folder)
    assert vocab.eos_ids == {end, text_end, 7}
    assert (vocab.rows_known, vocab.size) == (512, 600)
    assert vocab.data(599) == b""


@pytest.mark.parametrize("shape", ["string", "list", "file"])
def test_the_chat_template_is_found(tmp_path: Path, shape: str) -> None:
    folder = build_tokenizer(tmp_path)
    assert Vocab.load(folder).chat_template is None
    if shape == "file":
        (folder / "chat_template.jinja").write_text("{{ 1 }}", encoding="utf-8")
    else:
        listed = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ 1 }}"}]
        content = {"chat_template": "{{ 1 }}" if shape == "string" else listed}
        _write(folder, "tokenizer_config.json", content)
    assert Vocab.load(folder).chat_template == "{{ 1 }}"


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(Trouble, match=r"tokenizer\.json") as missing:
        Vocab.load(tmp_path)
    assert missing.value.code == NO_INPUT
    for raw in (b"", b"<html>", b"{}", b"version https://git-lfs.github.com/spec/v1\n"):
        (tmp_path / "tokenizer.json").write_bytes(raw)
        with pytest.raises(Trouble, match="cannot be read") as broken:
            Vocab.load(tmp_path)
        assert broken.value.code == BAD_DATA
    build_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_bytes(b"[" * 100_000)
    with pytest.raises(Trouble, match=r"generation_config\.json"):
        Vocab.load(tmp_path)


def test_truncation_and_padding_in_the_file_are_ignored(tmp_path: Path) -> None:
    path = build_tokenizer(tmp_path) / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["truncation"] = {
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    path.write_text(json.dumps(content), encoding="utf-8")
    assert text_of(Vocab.load(tmp_path).encode("one two three four five six")).endswith("six")


def test_importing_it_does_not_import_tokenizers() -> None:
    program = "import sys, qwen_tui.vocab, qwen_tui.chat; print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "'tokenizers'" not in done.stdout
    assert "'jinja2'" not in done.stdout


def test_healing_backs_up_to_the_start_of_the_last_word(small: Vocab) -> None:
    def healed(text: str) -> tuple[str, bytes]:
        kept, prefix = small.heal(small.encode(text))
        return text_of(kept), prefix

    assert healed("Hello, wor") == ("Hello,", b" wor")
    assert healed("Hello ") == ("Hello", b" ")
    assert healed("Hel") == ("", b"Hel")
    assert healed("") == ("", b"")
    assert healed("x<|endoftext|>") == ("x<|endoftext|>", b"")
    assert healed("x<|endoftext|>Hel") == ("x<|endoftext|>", b"Hel")
    kept, prefix = small.heal(small.encode("好" * 50))
    assert text_of(kept) + prefix.decode("utf-8", "replace") != ""
    assert 1 <= len(small.encode("好" * 50)) - len(kept) <= 8


@PROPERTY
@given(text=TEXTS)
def test_healing_loses_nothing(small: Vocab, text: str) -> None:
    tokens = small.encode(text)
    kept, prefix = small.heal(tokens)
    assert joined(kept) + prefix == joined(tokens)
    assert tokens[: len(kept)] == kept
