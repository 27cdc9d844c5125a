"""The hub library's cache on this disk: models--OWNER--NAME/{refs,blobs,snapshots/<commit>}.

Law: read only, no requests; folders written by any program are accepted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from qwen_tui import paths
from qwen_tui.hub import safetensors_header
from qwen_tui.hub.weight_files import ADAPTER, INDEX, SINGLE

COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def hub_cache(env: Mapping[str, str] | None = None) -> Path:
    """Where huggingface_hub keeps snapshots, by the variables it honours
    (huggingface_hub/constants.py).
    """
    env = os.environ if env is None else env
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if env.get(variable):
            return paths.expanded(os.path.expandvars(env[variable]))
    base = env.get("XDG_CACHE_HOME") or str(paths.user_home() / ".cache")
    top = env.get("HF_HOME") or str(Path(base) / "huggingface")
    return paths.expanded(os.path.expandvars(top)) / "hub"


def offline(env: Mapping[str, str] | None = None) -> bool:
    """Whether requests are forbidden (`HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`)."""
    env = os.environ if env is None else env
    value = env.get("HF_HUB_OFFLINE") or env.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def folder_bytes(folder: Path) -> int:
    """The total size of a folder's files in bytes; links are followed, subfolders not entered."""
    total = 0
    try:
        for each in folder.iterdir():
            if each.is_file():
                total += each.stat().st_size
    except OSError:
        return total
    return total


def storage(name: str, env: Mapping[str, str] | None = None) -> Path:
    """The hub cache's folder of one model, existing or not."""
    return hub_cache(env) / ("models--" + name.replace("/", "--"))


def commit_of(top: Path, revision: str) -> str:
    """The commit that a revision names in the cache; "" if none of it is there."""
    if COMMIT.fullmatch(revision):
        return revision if (top / "snapshots" / revision).is_dir() else ""
    try:
        ref = (top / "refs" / (revision or "main")).read_text("ascii").strip()
    except (OSError, ValueError):
        ref = ""
    if COMMIT.fullmatch(ref) and (revision or (top / "snapshots" / ref).is_dir()):
        return ref
    if revision:
        return ""
    # A download that broke off before it wrote its ref: the snapshot with most in it.
    folders = snapshot_folders(top)
    if folders:
        return max(folders, key=lambda each: (folder_bytes(each), each.name)).name
    return ref if COMMIT.fullmatch(ref) else ""


def snapshot_folders(top: Path) -> list[Path]:
    """The snapshots of one model, complete or not."""
    try:
        return [each for each in (top / "snapshots").iterdir() if COMMIT.fullmatch(each.name)]
    except OSError:
        return []


def progress(
    top: Path, folder: Path, commit: str, env: Mapping[str, str] | None = None
) -> tuple[int, int]:
    """Bytes of a snapshot on disk, unfinished files included, and its total.

    The total (0: unknown) is what `pull` recorded, else from the cache's tree listing
    (huggingface_hub ≥ 2), else from the weights' index.
    """
    present = folder_bytes(folder)
    with suppress(OSError):
        present += sum(each.stat().st_size for each in (top / "blobs").glob("*.incomplete"))
    return present, _noted(commit, env) or _listed(top, commit) or _indexed(folder)


def sizes_file(commit: str, env: Mapping[str, str] | None = None) -> Path:
    """Where `pull` records the size of each file of a commit."""
    return paths.cache_dir(env) / "downloads" / f"{commit}.json"


def _noted(commit: str, env: Mapping[str, str] | None) -> int:
    try:
        sizes = safetensors_header.read_json(sizes_file(commit, env))
        return sum(int(size) for size in sizes.values())
    except (safetensors_header.Broken, TypeError, ValueError):
        return 0


def _listed(top: Path, commit: str) -> int:
    try:
        files = safetensors_header.read_json(top / "trees" / f"{commit}.json")["files"]
        sizes = {name: int(entry["size"]) for name, entry in files.items()}
    except (safetensors_header.Broken, KeyError, TypeError, ValueError, AttributeError):
        return 0
    return sum(size for name, size in sizes.items() if is_wanted(name, list(sizes)))


def _indexed(folder: Path) -> int:
    try:
        return int(safetensors_header.read_json(folder / INDEX)["metadata"]["total_size"])
    except (safetensors_header.Broken, KeyError, TypeError, ValueError):
        return 0


_SMALL: Final = re.compile(
    r"[\w.-]*\.json|tokenizer\.model|merges\.txt|vocab\.txt|[\w.-]*\.jinja|README\.md"
    r"|(LICENSE|LICENCE|NOTICE)[\w.-]*"
)
_WEIGHTS: Final = re.compile(r"[\w.-]+\.safetensors")
_SHARD: Final = re.compile(r"model-[\w.-]+\.safetensors")


def is_wanted(name: str, among: list[str]) -> bool:
    """Whether `models pull` downloads a file of a repository with the files `among`: no pickles, no
    code.
    """
    if name.startswith((".", "-")):
        return False
    if _WEIGHTS.fullmatch(name):
        if INDEX in among:
            return _SHARD.fullmatch(name) is not None
        return name == SINGLE if SINGLE in among else name != ADAPTER
    return _SMALL.fullmatch(name) is not None and not name.endswith((".bin.index.json", ".py"))
