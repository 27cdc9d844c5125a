"""Why a folder is not a checkpoint that can be loaded, in words.

Law: only headers and small files are read, which takes milliseconds for 15 GB; a folder of another
kind (an adapter, an image model) is named, with what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from qwen_tui.hub.safetensors_header import Broken, header, look, read_json
from qwen_tui.hub.weight_files import ADAPTER, GGUF_CURE, INDEX, WeightFiles, weight_files

CAUSAL_CURE: Final = "take a causal language model, as Qwen/Qwen2.5-0.5B"


class OtherKind(NamedTuple):
    """What a folder holds instead of a language model's checkpoint, and what to do.

    `card`: it is a checkpoint of some model, which a card can describe.
    """

    what: str
    cure: str
    card: bool = False


def other_kind(folder: Path) -> OtherKind | None:
    """What a folder holds if it is certainly no language model's checkpoint, else None."""
    if (folder / "model_index.json").is_file():
        return OtherKind("is a diffusers pipeline, which makes pictures", CAUSAL_CURE)
    config = _config(folder)
    if config is None:
        return _without_config(folder)
    named = generator_names(config)
    if named and not any(map(_generates, named)):
        return OtherKind(f"is a {named[0]}, which does not continue text", CAUSAL_CURE, card=True)
    if config.get("is_encoder_decoder") is True:
        what = named[0] if named else "model"
        return OtherKind(f"is a {what}, an encoder with a decoder beside it", CAUSAL_CURE)
    return None


def generator_names(config: Mapping[str, Any]) -> list[str]:
    """The classes that a config.json names as its architecture."""
    architectures = config.get("architectures")
    return [str(each)[:80] for each in architectures] if isinstance(architectures, list) else []


def _generates(architecture: str) -> bool:
    """Whether a class of transformers continues text, judged by its name."""
    return any(part in architecture for part in ("CausalLM", "LMHead", "ConditionalGeneration"))


def _config(folder: Path) -> dict[str, Any] | None:
    """config.json as a dictionary, {} if it cannot be read; None if there is none."""
    if not (folder / "config.json").exists():
        return None
    try:
        return read_json(folder / "config.json")
    except Broken:
        return {}


def _without_config(folder: Path) -> OtherKind | None:
    if (folder / "adapter_config.json").is_file() or (folder / ADAPTER).is_file():
        try:
            base = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path", ""))
        except Broken:
            base = ""
        of = f" of {base[:200]}" if base else ""
        return OtherKind(
            f"holds only an adapter (LoRA){of}, not a model",
            "merge it into its base model (peft: merge_and_unload, save_pretrained) and load that",
        )
    try:
        named = sorted(each.name for each in folder.glob("[!.]*.gguf"))
    except OSError:
        named = []
    return OtherKind(f"holds weights only as {named[0]}, a GGUF file", GGUF_CURE) if named else None


def problems(folder: Path) -> tuple[str, ...]:
    """The reasons why a folder cannot be loaded, a line each; empty if it can."""
    if not folder.is_dir():
        return (f"{folder} is not a folder",)
    other = other_kind(folder)
    if other is not None:
        return (f"it {other.what}",)
    found = []
    for name in ("config.json", "tokenizer.json"):
        try:
            if name == "config.json":
                read_json(folder / name)
            else:
                look(folder / name)
        except Broken as error:
            found.append(f"{name} {error}")
    try:
        weights = weight_files(folder)
    except Broken as error:
        said = str(error)
        return (*found, said if said.startswith(INDEX) else f"{folder.name} {said}")
    return (*found, *_damaged(folder, weights))


def _damaged(folder: Path, weights: WeightFiles) -> list[str]:
    """Weight files that are truncated or damaged, or lack tensors that the index assigns to
    them.
    """
    found = []
    for name in weights.names:
        try:
            declared = {tensor.name for tensor in header(folder / name)}
        except Broken as error:
            found.append(f"{name} {error}")
            continue
        placed = [tensor for tensor, place in weights.places.items() if place == name]
        lost = [tensor for tensor in placed if tensor not in declared]
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            found.append(f"{name} lacks tensor {lost[0][:80]!r}{more}")
    return found
