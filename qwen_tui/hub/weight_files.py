"""Which files of a folder hold a checkpoint's weights.

Law: those that the index names, else the single complete file; backups, adapters and other files
beside them are never read, hashed or shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from qwen_tui.hub.safetensors_header import Broken, Tensor, header, read_json

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
ADAPTER: Final = "adapter_model.safetensors"
UNSAFE: Final = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx")
GGUF_CURE: Final = (
    "llama.cpp reads it; qwen-tui loads the safetensors checkpoint that it was made from"
)


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The weight files' `names`, in order. `entry` is the index, or the single file; `places`:
    tensor → file, from the index ({} without one); `note` says what was skipped, "" if nothing.
    """

    names: tuple[str, ...]
    entry: str
    places: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def weight_files(folder: Path) -> WeightFiles:
    """The weight files of a checkpoint; Broken if there are none, or several sets."""
    single = _there(folder / SINGLE)
    if _there(folder / INDEX):
        try:
            places = _places(folder)
            names = tuple(sorted(set(places.values())))
            lost = [name for name in names if not (folder / name).is_file()]
            why = f"names {lost[0]}, which is not here" if lost else ""
        except Broken as error:
            if not single:
                raise
            why = str(error).removeprefix(f"{INDEX} ")
        if not why or not single:
            return WeightFiles(names, INDEX, places)
        return WeightFiles((SINGLE,), SINGLE, note=f"{INDEX} {why}: {SINGLE} is loaded instead")
    if single:
        return WeightFiles((SINGLE,), SINGLE)
    name = _only(folder)
    return WeightFiles((name,), name)


def contents(folder: Path) -> tuple[WeightFiles, tuple[Tensor, ...]]:
    """The weight files and all their tensors by their headers, each tensor once, from the file that
    the index names for it; Broken.
    """
    weights = weight_files(folder)
    tensors = []
    for name in weights.names:
        try:
            declared = header(folder / name)
        except Broken as error:
            raise Broken(f"{name} {error}") from None
        tensors += [each for each in declared if weights.places.get(each.name, name) == name]
    return weights, tuple(tensors)


def _there(file: Path) -> bool:
    """Whether a file of that name exists, even as a dangling link."""
    return file.exists() or file.is_symlink()


def _only(folder: Path) -> str:
    """The single weight file that has an unusual name; Broken says what is there instead."""
    names = sorted(each.name for each in _files(folder))
    safe = [name for name in names if name.endswith(".safetensors") and name != ADAPTER]
    if len(safe) == 1:
        return safe[0]
    if safe:
        raise Broken(f"holds {len(safe)} weight files but no {INDEX} that says what is where")
    for name in names:
        if name.endswith(".gguf"):
            raise Broken(f"holds weights only as {name}, a GGUF file; {GGUF_CURE}")
        if name.endswith(UNSAFE):
            raise Broken(
                f"holds weights only as {name}; only safetensors are loaded, for other formats "
                "can run code or need another reader"
            )
    raise Broken("holds no weights (*.safetensors)")


def _places(folder: Path) -> dict[str, str]:
    """Tensor → file, from the index; Broken if it is malformed or names a file outside the
    folder.
    """
    try:
        index = read_json(folder / INDEX)
    except Broken as error:
        raise Broken(f"{INDEX} {error}") from None
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise Broken(f"{INDEX} has no weight_map")
    for place in places.values():
        shown = repr(str(place)[:80])
        if not isinstance(place, str) or not place.endswith(".safetensors"):
            raise Broken(f"{INDEX} names a weight file that is none: {shown}")
        if "/" in place or "\\" in place or "\0" in place or place.startswith("."):
            raise Broken(f"{INDEX} names a weight file outside the folder: {shown}")
    return places


def _files(folder: Path) -> list[Path]:
    """Files that are not hidden: macOS leaves a `._NAME` beside every NAME it copies."""
    try:
        return [each for each in folder.iterdir() if not each.name.startswith(".")]
    except OSError:
        return []
