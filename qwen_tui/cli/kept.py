"""What was kept of long texts on this disk so that they resume at once: whose, how large, removal.

Law: nothing but blocks of their own naming is ever listed or deleted; they can be made again.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from qwen_tui import hub, paths
from qwen_tui.backends.local.kv import block_file
from qwen_tui.backends.local.kv.block_file import Kept
from qwen_tui.cli import packed
from qwen_tui.cli.packed import Packed
from qwen_tui.types import IO_ERROR, Trouble


def found() -> tuple[Kept, ...]:
    """Every block of every model."""
    return tuple(block_file.everything(paths.kv_dir()))


def of(folder: Path, among: Iterable[Kept]) -> tuple[Kept, ...]:
    """Those of the model in `folder` (two folders of the same name share them here)."""
    return tuple(each for each in among if each.model == folder.name[: block_file.MODEL_ROOM])


def of_model(name: str, among: Iterable[Kept]) -> tuple[Kept, ...]:
    """Those of every revision of a model: a hub id, one of our own, a folder, or a bare name."""
    starts = packed.starts_of(name)
    return tuple(each for each in among if each.model in starts)


def beside(folder: Path, files: Iterable[Packed], texts: Iterable[Kept]) -> str:
    """What lies in our cache for the model in that folder, after the word for its place."""
    weights, mine = packed.said(packed.of(folder, files)), of(folder, texts)
    return (f"; packed: {weights}" if weights else "") + (f"; {said(mine)}" if mine else "")


def stray_rows(folders: Iterable[Path], texts: tuple[Kept, ...]) -> list[tuple[str, ...]]:
    """A row for each model of which texts are kept, but which is none of those in `folders`."""
    known = {each for folder in folders for each in of(folder, texts)}
    rows: list[tuple[str, ...]] = []
    for model in sorted({each.model for each in texts if each not in known}):
        size = hub.size_text(total(each for each in texts if each.model == model))
        state = f"kept of texts, of no model listed: models rm --kept {shlex.quote(model)}"
        rows.append((model, "", "", size, "", "", state))
    return rows


def total(files: Iterable[Kept]) -> int:
    """How many bytes they are."""
    return sum(each.bytes for each in files)


def said(files: Iterable[Kept]) -> str:
    """Their size in words."""
    return f"kept of texts: {hub.size_text(total(files))}"


def delete(files: tuple[Kept, ...]) -> int:
    """Delete them; the bytes that were freed. Trouble where some will not go."""
    freed = block_file.delete(files)
    left = [each.path for each in files if each.path.exists()]
    if left:
        raise Trouble(f"{left[0]} cannot be removed, nor {len(left) - 1} more", code=IO_ERROR)
    return freed
