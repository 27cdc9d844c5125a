"""What a checkpoint is, read from its own files: shape, size, licence, base or instruct.

Law: counted from the safetensors headers, never guessed from a name; nothing heavy is imported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qwen_tui.hub import card_text, quantisation, safetensors_header
from qwen_tui.hub.catalog import BASE_KIND, INSTRUCT_KIND
from qwen_tui.hub.checkpoint_folder import generator_names
from qwen_tui.hub.qwen2_shape import FETCH_AGAIN, Shape, tensor_fault
from qwen_tui.hub.weight_files import contents
from qwen_tui.types import NO_INPUT, Trouble

_DTYPE_NAMES: Final = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp64"}
DTYPE_BYTES: Final[Mapping[str, int]] = {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}
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
    """What a checkpoint is. Unknown numbers are 0, unknown texts "".

    `bytes` are the weights' bytes on disk in `dtype` (bf16, fp16, fp32, or `mixed`); `context` is
    in tokens; `window` is the sliding window's width (0: none); `template` names the chat template;
    `instruct`: it was tuned to answer turns; `infill`: its tokenizer has the fill-in-the-middle
    tokens; `quantised`: the method the checkpoint itself is quantised with ("" for plain weights);
    `shape`: the numbers of our own forward pass, None if transformers' runs it. `notes` are shown
    to everyone who loads it. `refused` says why its weights cannot be run anywhere, `cure` what to
    do.
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
    shape: Shape | None = None
    notes: tuple[str, ...] = ()
    refused: str = ""
    cure: str = ""

    @property
    def kind(self) -> str:
        """One sentence that says what to expect from it."""
        return INSTRUCT_KIND if self.instruct else BASE_KIND


def card(folder: Path, name: str = "") -> Card:
    """Describe a checkpoint's folder; Trouble 66 if its config or weights cannot be read."""
    name = name or folder.name
    try:
        config = safetensors_header.read_json(folder / "config.json")
    except safetensors_header.Broken as error:
        raise Trouble(f"{name}: config.json {error}", code=NO_INPUT) from None
    try:
        weights, tensors = contents(folder)
    except safetensors_header.Broken as error:
        raise Trouble(f"{name}: {error}", code=NO_INPUT) from None
    inner = config.get("text_config")
    readme = card_text.text_of(folder / "README.md")
    quantised = quantisation.method(config, folder)
    shape = None if quantised else Shape.of(config)
    refused, cure = _refused(config, quantised, shape, tensors)
    sliding = config.get("use_sliding_window") is True and _number(config, ("sliding_window",))
    return Card(
        name=name,
        path=folder,
        model_type=_word(config.get("model_type")),
        architectures=tuple(generator_names(config)),
        parameters=sum(each.elements for each in tensors),
        bytes=sum(each.bytes for each in tensors),
        **_counts({**config, **inner} if isinstance(inner, dict) else config),
        tied=config.get("tie_word_embeddings") is True or not _has_output(tensors),
        dtype=_dtype(tensors),
        table_parameters=_table_parameters(tensors),
        window=int(sliding or 0),
        rope=_rope(config)[0],
        licence=card_text.licence(folder, name, readme),
        citation=card_text.citation(name, readme),
        instruct=card_text.is_instruct(folder, name),
        template=card_text.chat_template(folder),
        infill=card_text.has_infill(folder),
        quantised=quantised,
        shape=shape,
        notes=(weights.note,) if weights.note else (),
        refused=refused,
        cure=cure,
    )


def _number(config: Mapping[str, Any], spellings: tuple[str, ...]) -> int:
    for spelling in spellings:
        value = config.get(spelling)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_COUNT:
            return value
    return 0


def _word(value: object) -> str:
    return value[:200] if isinstance(value, str) else ""


def _counts(config: Mapping[str, Any]) -> dict[str, int]:
    found = {name: _number(config, spellings) for name, spellings in _SPELLINGS.items()}
    found["kv_heads"] = found["kv_heads"] or found["heads"]
    if not found["head_dim"] and found["heads"]:
        found["head_dim"] = found["hidden"] // found["heads"]
    found["context"] = max(found["context"], _rope(config)[1])
    return found


def _rope(config: Mapping[str, Any]) -> tuple[str, int]:
    """The rope scaling's name and the context that YaRN extends to (0: none).

    A YaRN checkpoint of Qwen keeps max_position_embeddings at the original length and states
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


def _has_output(tensors: Sequence[safetensors_header.Tensor]) -> bool:
    return any(each.name.startswith(("lm_head.", "embed_out.", "output.")) for each in tensors)


def _table_parameters(tensors: Sequence[safetensors_header.Tensor]) -> int:
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


def _dtype(tensors: Sequence[safetensors_header.Tensor]) -> str:
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


def _refused(
    config: Mapping[str, Any],
    quantised: str,
    shape: Shape | None,
    tensors: Sequence[safetensors_header.Tensor],
) -> tuple[str, str]:
    """Why the weights cannot be run anywhere, and what to do; "" if they can."""
    if quantised:
        return quantisation.obstacle(quantised, config, tensors), quantisation.CURE
    if why := quantisation.undeclared(tensors):
        return why, quantisation.CURE
    return (tensor_fault(shape, tensors) if shape is not None else ""), FETCH_AGAIN
