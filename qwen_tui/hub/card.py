"""What a checkpoint is, read from its own files: shape, size, licence, base or instruct, memory
needs.

Law: counted from the safetensors headers, never guessed from a name; nothing heavy is imported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qwen_tui.hub import safetensors_header
from qwen_tui.hub.catalog import BASE_KIND, INSTRUCT_KIND, KNOWN, Known
from qwen_tui.types import NO_INPUT, Trouble

MAX_README: Final = 1 << 20
_DTYPE_NAMES: Final = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp64"}
DTYPE_BYTES: Final[Mapping[str, int]] = {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}
_TURN_ENDS: Final = (
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|eot|>",
    "<|endofturn|>",
)
_INSTRUCT_NAME: Final = re.compile(
    r"(^|[-_.])(instruct|chat|it|dpo|sft|rlhf|assistant)([-_.]|$)", re.I
)
# One config, many spellings: what older architectures of transformers call the same number.
_SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads", "n_head_kv", "num_kv_heads"),
    "head_dim": ("head_dim",),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim", "d_ff"),
    "context": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"),
    "vocab_rows": ("vocab_size", "n_vocab"),
}
MAX_COUNT: Final = 2**40


@dataclass(frozen=True, slots=True)
class Card:
    """A checkpoint in numbers and words. Unknown numbers are 0, unknown texts "".

    `bytes` are the weights' bytes on disk in `dtype` (bf16, fp16, fp32, or `mixed`); `context` is
    in tokens; `window` is the sliding window's width (0: none); `template` names the chat template;
    `instruct`: it was tuned to answer turns; `infill`: its tokenizer has the fill-in-the-middle
    tokens; `quantised`: the method the checkpoint itself is packed with ("" for plain weights).
    """

    name: str
    path: Path
    model_type: str
    architectures: tuple[str, ...]
    parameters: int
    bytes: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    context: int
    vocab_rows: int
    tied: bool
    dtype: str
    table_parameters: int = 0
    window: int = 0
    rope: str = ""
    licence: str = ""
    citation: str = ""
    instruct: bool = False
    template: str = ""
    infill: bool = False
    quantised: str = ""

    @property
    def kind(self) -> str:
        """One sentence that says what to expect from it."""
        return INSTRUCT_KIND if self.instruct else BASE_KIND


def card(folder: Path, name: str = "") -> Card:
    """Describe a checkpoint's folder; Trouble 66 when its config or weights cannot be read."""
    name = name or folder.name
    try:
        config = safetensors_header.read_json(folder / "config.json")
    except safetensors_header.Broken as error:
        raise Trouble(f"{name}: config.json {error}", code=NO_INPUT) from None
    tensors: list[safetensors_header.Tensor] = []
    try:
        for shard in safetensors_header.shards(folder):
            try:
                tensors += safetensors_header.header(folder / shard)
            except safetensors_header.Broken as error:
                raise Trouble(f"{name}: {shard} {error}", code=NO_INPUT) from None
    except safetensors_header.Broken as error:
        raise Trouble(f"{name}: {error}", code=NO_INPUT) from None
    inner = config.get("text_config")
    shape = _shape({**config, **inner} if isinstance(inner, dict) else config)
    readme = _text(folder / "README.md")
    architectures = config.get("architectures")
    sliding = config.get("use_sliding_window") is True and _number(config, ("sliding_window",))
    return Card(
        name=name,
        path=folder,
        model_type=_word(config.get("model_type")),
        architectures=tuple(
            _word(each) for each in (architectures if isinstance(architectures, list) else [])
        ),
        parameters=sum(each.elements for each in tensors),
        bytes=sum(each.bytes for each in tensors),
        **shape,
        tied=config.get("tie_word_embeddings") is True or not _has_output(tensors),
        dtype=_dtype(tensors),
        table_parameters=_table_parameters(tensors),
        window=int(sliding or 0),
        rope=_rope(config)[0],
        licence=licence(folder, name, readme),
        citation=citation(name, readme),
        instruct=is_instruct(folder, name),
        template=chat_template(folder),
        infill=has_infill(folder),
        quantised=_quantised(config),
    )


def _number(config: Mapping[str, Any], spellings: tuple[str, ...]) -> int:
    for spelling in spellings:
        value = config.get(spelling)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_COUNT:
            return value
    return 0


def _word(value: object) -> str:
    return value[:200] if isinstance(value, str) else ""


def _shape(config: Mapping[str, Any]) -> dict[str, int]:
    shape = {name: _number(config, spellings) for name, spellings in _SPELLINGS.items()}
    shape["kv_heads"] = shape["kv_heads"] or shape["heads"]
    if not shape["head_dim"] and shape["heads"]:
        shape["head_dim"] = shape["hidden"] // shape["heads"]
    shape["context"] = max(shape["context"], _rope(config)[1])
    return shape


def _rope(config: Mapping[str, Any]) -> tuple[str, int]:
    """The rope scaling's name and the context that YaRN stretches to (0: none).

    A YaRN checkpoint of Qwen keeps max_position_embeddings at the unstretched length and carries
    `factor` and `original_max_position_embeddings` (its model card).
    """
    for key in ("rope_scaling", "rope_parameters"):
        scaling = config.get(key)
        if isinstance(scaling, dict):
            kind = _word(scaling.get("rope_type") or scaling.get("type"))
            if kind in ("", "default"):
                continue
            factor = scaling.get("factor")
            original = _number(scaling, ("original_max_position_embeddings",))
            if not isinstance(factor, int | float) or not 1 <= factor <= 1024:
                return kind, 0
            return f"{kind} ×{factor:g}", int(original * factor) if kind == "yarn" else 0
    return "", 0


def _has_output(tensors: list[safetensors_header.Tensor]) -> bool:
    return any(each.name.startswith(("lm_head.", "embed_out.", "output.")) for each in tensors)


def _table_parameters(tensors: list[safetensors_header.Tensor]) -> int:
    """Parameters of the token tables (embedding and output), which 4-bit and int8 loading leave
    alone.
    """
    tables = (
        "embed_tokens.weight",
        "wte.weight",
        "embed_in.weight",
        "lm_head.weight",
        "embed_out.weight",
    )
    return sum(each.elements for each in tensors if each.name.endswith(tables))


def _dtype(tensors: list[safetensors_header.Tensor]) -> str:
    sizes: Counter[str] = Counter()
    for each in tensors:
        sizes[each.dtype] += each.bytes
    if not sizes:
        return ""
    names = {_DTYPE_NAMES.get(dtype, dtype.lower()) for dtype in sizes}
    if len(names) == 1:
        return names.pop()
    dtype, most = sizes.most_common(1)[0]
    return _DTYPE_NAMES.get(dtype, dtype.lower()) if most > 0.99 * sum(sizes.values()) else "mixed"


def _quantised(config: Mapping[str, Any]) -> str:
    packed = config.get("quantization_config")
    if not isinstance(packed, dict):
        return ""
    return _word(packed.get("quant_method")) or "unknown method"


# -- words -----------------------------------------------------------------------------------------


def _text(file: Path, most: int = MAX_README) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(most).decode("utf-8", "replace")
    except OSError:
        return ""


def _front_matter(readme: str) -> dict[str, str]:
    """The plain `key: value` lines of a model card's YAML front matter."""
    if not readme.startswith("---"):
        return {}
    block, _, _ = readme[3:].partition("\n---")
    found = {}
    for line in block.splitlines():
        match = re.match(r"([\w-]+):[ \t]*([^\s#][^#]*)$", line)
        if match:
            found[match[1]] = match[2].strip().strip("\"'")
    return found


def _published(name: str) -> Known | None:
    return KNOWN.get(name.partition("@")[0])


def licence(folder: Path, name: str, readme: str | None = None) -> str:
    """The licence's name: from the model card, else as published, else a LICENSE's first line."""
    matter = _front_matter(_text(folder / "README.md") if readme is None else readme)
    stated = matter.get("license_name") or matter.get("license", "")
    if stated and stated != "other":
        return stated[:100]
    known = _published(name)
    if known is not None:
        return known.licence
    for file in ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE"):
        for line in _text(folder / file, 4096).splitlines():
            if line.strip():
                return f"{file}: {line.strip()[:80]}"
    return stated


def citation(name: str, readme: str) -> str:
    """The first BibTeX entry of the model card, else as published."""
    start = re.search(r"@[A-Za-z]+\s*\{", readme)
    if start:
        depth = 0
        for place in range(start.end() - 1, min(len(readme), start.start() + 8000)):
            depth += {"{": 1, "}": -1}.get(readme[place], 0)
            if depth == 0:
                return readme[start.start() : place + 1]
    known = _published(name)
    return known.citation if known else ""


def chat_template(folder: Path) -> str:
    """Where the chat template stands and what family it is: `ChatML (tokenizer_config.json)`; ""
    for none.
    """
    text, where = _text(folder / "chat_template.jinja"), "chat_template.jinja"
    if not text:
        where = "tokenizer_config.json"
        try:
            stated = safetensors_header.read_json(folder / where).get("chat_template")
        except safetensors_header.Broken:
            return ""
        if isinstance(stated, list):
            entries = [each for each in stated if isinstance(each, dict)]
            named = {str(each.get("name")): each.get("template") for each in entries}
            stated = named.get("default") or next(iter(named.values()), "")
        text = stated if isinstance(stated, str) else ""
    if not text:
        return ""
    families = {
        "<|im_start|>": "ChatML", "[INST]": "Mistral", "<|start_header_id|>": "Llama 3",
        "<start_of_turn>": "Gemma", "<|assistant|>": "Zephyr",
    }  # fmt: skip
    family = next((name for mark, name in families.items() if mark in text), "own")
    return f"{family} ({where})"


def is_instruct(folder: Path, name: str) -> bool:
    """Whether a checkpoint was tuned to answer turns.

    The published Qwen2.5 base checkpoints carry a chat template too, so its presence alone says
    nothing: what counts is the name, and whether the tokenizer's or the generation's end of text
    ends a turn.
    """
    known = _published(name)
    if known is not None:
        return known.instruct
    if _INSTRUCT_NAME.search(name.rpartition("/")[2]):
        return True
    if not chat_template(folder):
        return False
    try:
        tokenizer = safetensors_header.read_json(folder / "tokenizer_config.json")
    except safetensors_header.Broken:
        return False
    end = tokenizer.get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end
    return end in _TURN_ENDS or bool(_turn_end_ids(tokenizer) & _generation_ends(folder))


def _turn_end_ids(tokenizer: Mapping[str, Any]) -> set[int]:
    added = tokenizer.get("added_tokens_decoder")
    if not isinstance(added, dict):
        return set()
    return {
        int(number)
        for number, token in added.items()
        if number.isdigit() and isinstance(token, dict) and token.get("content") in _TURN_ENDS
    }


def _generation_ends(folder: Path) -> set[int]:
    try:
        ends = safetensors_header.read_json(folder / "generation_config.json").get("eos_token_id")
    except safetensors_header.Broken:
        return set()
    ends = ends if isinstance(ends, list) else [ends]
    return {each for each in ends if isinstance(each, int)}


def has_infill(folder: Path) -> bool:
    """Whether the tokenizer knows the fill-in-the-middle tokens."""
    try:
        file = folder / "tokenizer.json"
        if file.stat().st_size > safetensors_header.MAX_JSON:
            return False
        raw = file.read_bytes()
    except OSError:
        return False
    return all(f"<|fim_{part}|>".encode() in raw for part in ("prefix", "middle", "suffix"))


# -- memory ----------------------------------------------------------------------------------------

# NF4: 4 bits and one float32 scale per block of 64; int4: 16-bit scale and zero; int8: by the row.
FOUR_BITS: Final = 0.5 + 4 / 64
INT8_BYTES: Final = 1.0
RUNTIME_BYTES: Final = 900 << 20
"""Python, torch and transformers themselves, and room for one prefill chunk: a generous round
number (the small model that ships was seen to need 0.2 GiB with its weights).
"""


@dataclass(frozen=True, slots=True)
class Needs:
    """Memory in bytes that a checkpoint takes while it runs."""

    weights: int
    kv_per_token: int
    runtime: int = RUNTIME_BYTES

    def total(self, tokens: int) -> int:
        """All of it with `tokens` in the KV cache."""
        return self.weights + self.runtime + self.kv_per_token * tokens


def needs(what: Card | Known, dtype: str = "bf16", quant: str = "none") -> Needs:
    """What a checkpoint takes in a dtype (bf16, fp16, fp32) and quantisation (none, int8, int4,
    nf4).

    Pure arithmetic: the linear layers are quantised, the token tables stay in `dtype`; the KV cache
    is two vectors per layer and token in `dtype`.
    """
    width = DTYPE_BYTES.get(dtype, 2)
    if isinstance(what, Known):
        table = what.vocab_rows * what.hidden * (1 if what.tied else 2)
    else:
        table = what.table_parameters
    per = {"nf4": FOUR_BITS, "int4": FOUR_BITS, "int8": INT8_BYTES}.get(quant, float(width))
    held = max(0, int((what.parameters - table) * per)) + table * width
    if isinstance(what, Card) and what.quantised:
        held = what.bytes
    return Needs(held, 2 * what.layers * what.kv_heads * what.head_dim * width)
