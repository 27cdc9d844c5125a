"""The model that ships: small enough, whole, as good as its card says, and pleasant to read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

import qwen_tui

DEMO = Path(qwen_tui.__file__).parent / "demo"
FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
KNOWN = {"the", "a", "of", "to", "is", "in", "and", "if", "return", "returns", "or", "self"}


@pytest.fixture(scope="module")
def config() -> dict[str, object]:
    loaded: dict[str, object] = json.loads((DEMO / "config.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO / "tokenizer.json"))


def test_every_file_is_there_and_all_fit_eight_megabytes() -> None:
    present = {path.name for path in DEMO.iterdir() if path.is_file()}
    assert present >= FILES
    assert sum((DEMO / name).stat().st_size for name in present) <= 8_000_000


def test_it_is_a_qwen2_with_grouped_heads_and_room_for_a_thousand_tokens(
    config: dict[str, object],
) -> None:
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["model_type"] == "qwen2"
    assert int(str(config["max_position_embeddings"])) >= 1024
    assert 1 < int(str(config["num_key_value_heads"])) < int(str(config["num_attention_heads"]))
    assert config.get("bos_token_id") is None


def test_the_weights_are_bfloat16_and_carry_the_biases(config: dict[str, object]) -> None:
    with safe_open(DEMO / "model.safetensors", framework="pt") as weights:
        slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
        assert {piece.get_dtype() for piece in slices.values()} == {"BF16"}
        rows, width = slices["model.embed_tokens.weight"].get_shape()
        assert (rows, width) == (config["vocab_size"], config["hidden_size"])
        for projection in "qkv":
            assert f"model.layers.0.self_attn.{projection}_proj.bias" in slices


@pytest.mark.parametrize(
    "text",
    [
        "def read(path):\n    return 2024\n",
        "    \t\r\n  caf\u00e9 \u4f60\u597d \U0001f40d\n\n\n",
        "it's 100% 'quoted' -- isn't it?",
    ],
)
def test_its_tokens_spell_every_text_exactly(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_the_end_of_text_is_one_token_and_nothing_is_put_in_front(
    tokenizer: Tokenizer, config: dict[str, object]
) -> None:
    assert tokenizer.encode("<|endoftext|>").ids == [config["eos_token_id"]]
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    assert tokenizer.decode(tokenizer.encode("import os").ids) == "import os"


def test_the_card_states_figures_that_meet_the_bar() -> None:
    card = (DEMO / "README.md").read_text(encoding="utf-8")
    figures = {}
    for name in ("This model", "`xz -9e`"):
        found = re.search(rf"^\| {re.escape(name)} \| ([0-9.]+) \|$", card, re.MULTILINE)
        assert found, f"the card gives no bits per byte for {name}"
        figures[name] = float(found[1])
    assert 0.3 < figures["This model"] <= 0.9 * figures["`xz -9e`"]
    assert re.search(r"CPython 3\.\d+\.\d+", card)


def test_what_it_says_next_reads_like_documentation() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)
    inputs = tokenizer("Return a new ", return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=48, do_sample=False)[0]
    text = tokenizer.decode(ids[inputs["input_ids"].shape[1] :])
    assert "\ufffd" not in text
    words = re.findall(r"[a-z]+", text.lower())
    assert len(KNOWN & set(words)) >= 2, text
