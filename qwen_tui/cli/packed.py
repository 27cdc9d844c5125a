"""Packed (quantised once) weights on this disk: whose they are, how large, and removing them.

Law: nothing but files of the cache's own naming is ever listed or deleted; they can be made again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qwen_tui import hub, paths
from qwen_tui.backends.local.kv.block_file import runs
from qwen_tui.types import IO_ERROR, NO_PERMISSION, Trouble

NAME_ROOM: Final = 40
"""Characters of a model folder's name that begin the name of its packed files."""
_NAMED: Final = re.compile(
    r"(?P<folder>.+)-(?P<kind>[a-z0-9]+)-[0-9a-f]{24}(\.safetensors|\.(?P<writer>\d+)\.partial)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Packed:
    """One file: `folder` is how the name of its model's folder begins; `whole` False is what a
    broken-off packing left.
    """

    path: Path
    folder: str
    kind: str
    bytes: int
    whole: bool

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"kind": self.kind, "bytes": self.bytes, "path": str(self.path)}


def found() -> tuple[Packed, ...]:
    """Every packed file of the cache, by name."""
    return tuple(_files(paths.packed_dir()))


def _files(folder: Path) -> Iterator[Packed]:
    try:
        files = sorted(folder.iterdir())
    except OSError:
        return
    for file in files:
        named = _NAMED.fullmatch(file.name)
        if named is None or not file.is_file() or file.is_symlink():
            continue
        if named["writer"] and runs(int(named["writer"])):
            continue
        whole = file.suffix == ".safetensors"
        yield Packed(file, named["folder"], named["kind"], file.stat().st_size, whole)


def of(folder: Path, among: Iterable[Packed]) -> tuple[Packed, ...]:
    """Those of the model in `folder` (two folders of the same name share them here)."""
    return tuple(each for each in among if each.folder == folder.name[:NAME_ROOM])


def of_model(name: str, among: Iterable[Packed]) -> tuple[Packed, ...]:
    """Those of every revision of a model: a hub id, one of our own, a folder, or a bare name."""
    starts = starts_of(name)
    return tuple(each for each in among if each.folder in starts)


def starts_of(name: str) -> set[str]:
    """How the names of a model's folders begin, whichever way it is named."""
    from qwen_tui.hub.snapshots import storage

    folders = {Path(name).absolute(), paths.models_dir() / name}
    if hub.is_hub_id(name):
        folders |= set(storage(name).glob("snapshots/*"))
    snapshot = hub.locate(name)
    if snapshot is not None:
        folders.add(snapshot.path)
    return {folder.name[:NAME_ROOM] for folder in folders}


def said(files: Iterable[Packed]) -> str:
    """Their kinds and sizes in a few words; "" for none."""
    return ", ".join(
        f"{each.kind} {hub.size_text(each.bytes)}{'' if each.whole else ' (broken off)'}"
        for each in files
    )


def delete(files: Iterable[Packed]) -> int:
    """Delete them; the bytes that were freed. Who has one mapped keeps it till the process ends."""
    freed = 0
    for each in files:
        try:
            each.path.unlink(missing_ok=True)
        except OSError as error:
            code = NO_PERMISSION if isinstance(error, PermissionError) else IO_ERROR
            raise Trouble(f"{each.path} cannot be removed: {error.strerror}", code=code) from None
        freed += each.bytes
    return freed
