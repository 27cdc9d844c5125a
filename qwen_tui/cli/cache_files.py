"""Files in our cache that can be recreated: packed weights, and KV blocks of long texts.

Law: only files with the cache's own names are ever listed or deleted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from qwen_tui import hub, paths
from qwen_tui.backends.local.kv import block_file
from qwen_tui.backends.local.kv.block_file import MODEL_NAME_LENGTH, BlockFile
from qwen_tui.portable_os import process_runs
from qwen_tui.types import IO_ERROR, NO_PERMISSION, Trouble

_NAMED: Final = re.compile(
    r"\.?(?P<model>.+)-(?P<kind>[a-z0-9]+)-[0-9a-f]{24}"
    r"(\.safetensors|(\.safetensors)?\.(?P<writer>\d+)(\.[0-9a-f]{8})?\.partial)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Packed:
    """One file of packed weights.

    `model` is the beginning of the name of the model's folder, `bytes` the size on disk; `whole` is
    False if packing was interrupted.
    """

    path: Path
    model: str
    kind: str
    bytes: int
    whole: bool

    def record(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"kind": self.kind, "bytes": self.bytes, "path": str(self.path)}


File = TypeVar("File", Packed, BlockFile)


# -- finding ---------------------------------------------------------------------------------------


def packed_weights() -> tuple[Packed, ...]:
    """Every packed file in the cache, by name, except one that is being written."""
    return tuple(_packed_in(paths.packed_dir()))


def _packed_in(folder: Path) -> Iterator[Packed]:
    try:
        files = sorted(folder.iterdir())
    except OSError:
        return
    for file in files:
        named = _NAMED.fullmatch(file.name)
        if named is None or not file.is_file() or file.is_symlink():
            continue
        if named["writer"] and process_runs(int(named["writer"])):
            continue
        whole = file.suffix == ".safetensors"
        yield Packed(file, named["model"], named["kind"], file.stat().st_size, whole)


def kv_blocks() -> tuple[BlockFile, ...]:
    """Every KV block on this disk, of every model."""
    return tuple(block_file.everything(paths.kv_dir()))


def of(folder: Path, among: Iterable[File]) -> tuple[File, ...]:
    """Those of the model in `folder`; folders of the same name cannot be told apart."""
    return tuple(each for each in among if each.model == folder.name[:MODEL_NAME_LENGTH])


def of_model(name: str, among: Iterable[File]) -> tuple[File, ...]:
    """Those of every revision of a model: a hub id, one of our own, a folder, or a bare name."""
    from qwen_tui.hub.hub_cache import storage

    folders = {Path(name).absolute(), paths.models_dir() / name}
    if hub.is_hub_id(name):
        folders |= set(storage(name).glob("snapshots/*"))
    snapshot = hub.locate(name)
    if snapshot is not None:
        folders.add(snapshot.path)
    starts = {folder.name[:MODEL_NAME_LENGTH] for folder in folders}
    return tuple(each for each in among if each.model in starts)


# -- telling ---------------------------------------------------------------------------------------


def total(files: Iterable[Packed | BlockFile]) -> int:
    """Their total size on disk in bytes."""
    return sum(each.bytes for each in files)


def packed_text(files: Iterable[Packed]) -> str:
    """Their quantisations and sizes in a few words; "" for none."""
    return ", ".join(
        f"{each.kind} {hub.size_text(each.bytes)}{'' if each.whole else ' (broken off)'}"
        for each in files
    )


def kept_text(blocks: Iterable[BlockFile]) -> str:
    """The size of KV blocks in words."""
    return f"kept of texts: {hub.size_text(total(blocks))}"


def note(folder: Path, files: Iterable[Packed], blocks: Iterable[BlockFile]) -> str:
    """The cached files of the model in `folder`, as an addition to the last column of a list."""
    weights, mine = packed_text(of(folder, files)), of(folder, blocks)
    return (f"; packed: {weights}" if weights else "") + (f"; {kept_text(mine)}" if mine else "")


def orphan_rows(
    folders: Iterable[Path], files: Iterable[Packed], blocks: Iterable[BlockFile]
) -> list[tuple[str, ...]]:
    """Rows for the packed files and KV blocks of models that are not in `folders`; the last column
    says how to delete them.
    """
    known = {folder.name[:MODEL_NAME_LENGTH] for folder in folders}
    rows: list[tuple[str, ...]] = []
    for file in files:
        if file.model not in known:
            cure = f"models rm --packed {shlex.quote(file.model)}"
            state = f"packed, of no model listed: {cure}"
            rows.append((file.model, "", "", hub.size_text(file.bytes), "", "", state))
    for model in sorted({each.model for each in blocks} - known):
        size = hub.size_text(total(each for each in blocks if each.model == model))
        state = f"kept of texts, of no model listed: models rm --kept {shlex.quote(model)}"
        rows.append((model, "", "", size, "", "", state))
    return rows


# -- deleting --------------------------------------------------------------------------------------


def delete_packed(files: Iterable[Packed]) -> int:
    """Delete them; returns the bytes freed. A process that has one mapped keeps it until it
    ends.
    """
    freed = 0
    for each in files:
        try:
            each.path.unlink(missing_ok=True)
        except OSError as error:
            code = NO_PERMISSION if isinstance(error, PermissionError) else IO_ERROR
            raise Trouble(f"{each.path} cannot be removed: {error.strerror}", code=code) from None
        freed += each.bytes
    return freed


def delete_kept(blocks: tuple[BlockFile, ...]) -> int:
    """Delete them; returns the bytes freed. Trouble if some cannot be deleted."""
    freed = block_file.delete(blocks)
    left = [each.path for each in blocks if each.path.exists()]
    if left:
        raise Trouble(f"{left[0]} cannot be removed, nor {len(left) - 1} more", code=IO_ERROR)
    return freed
