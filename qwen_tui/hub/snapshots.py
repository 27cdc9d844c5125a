"""Find, list and remove model snapshots on this disk, without torch and without requests.

Law: a snapshot that cannot be loaded is listed with the reason and what to do; only the hub's cache
and our own folder are ever removed from.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from qwen_tui import paths
from qwen_tui.hub import checkpoint_folder
from qwen_tui.hub.catalog import KNOWN
from qwen_tui.hub.hub_cache import (
    commit_of,
    folder_bytes,
    hub_cache,
    offline,
    progress,
    snapshot_folders,
    storage,
)
from qwen_tui.hub.safetensors_header import size_text
from qwen_tui.hub.weight_files import GGUF_CURE
from qwen_tui.types import IO_ERROR, NO_INPUT, NO_PERMISSION, USAGE, Trouble

DEMO: Final = "demo"
_ID: Final = re.compile(
    r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?(@[\w.-][\w./-]{0,120})?"
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A checkpoint's folder. `commit` is "" if unknown; `problems` say why it cannot be loaded,
    `notes` what everyone who loads it should know.

    `place`: hub cache · models folder · folder · ships with qwen-tui. `bytes` is its size on disk.
    """

    path: Path
    name: str
    commit: str = ""
    place: str = "folder"
    bytes: int = 0
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything needed is there and undamaged, as far as sizes and headers tell."""
        return not self.problems


def is_hub_id(model: str) -> bool:
    """Whether a text has the form `owner/name` or `name`, with or without `@revision`."""
    return (
        _ID.fullmatch(model) is not None
        and ".." not in model
        and "--" not in model.split("@")[0]
        and model != DEMO
    )


def find(model: str, *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Snapshot:
    """The complete snapshot that `model` names: `demo`, a folder, or a hub id that is on this disk.

    Makes no request. Trouble 66 says what is missing or broken and what to do; `./demo` is a
    folder.
    """
    snapshot = locate(model, env=env, cwd=cwd)
    if snapshot is None:
        raise _missing(model, env)
    if snapshot.problems:
        raise _broken(model, snapshot)
    return snapshot


def described(model: str) -> Snapshot:
    """As `find`, but also a checkpoint of a model that does not continue text."""
    snapshot = locate(model)
    other = checkpoint_folder.other_kind(snapshot.path) if snapshot else None
    return snapshot if snapshot and other and other.card else find(model)


def locate(
    model: str, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Snapshot | None:
    """As `find`, but None if it is not here, and a broken snapshot is returned with its
    problems.
    """
    if not model or "\0" in model:
        raise Trouble("no model is named", hint="-m takes a hub id, a folder, or demo", code=USAGE)
    if model == DEMO:
        return _snapshot(paths.demo_dir(), DEMO, place="ships with qwen-tui")
    folder = Path(cwd or Path.cwd(), paths.expanded(model))
    explicit = model.startswith((".", "~")) or Path(model).is_absolute()
    try:
        if folder.is_file():
            raise _a_file(model, folder)
        if explicit or (folder / "config.json").is_file():
            return _snapshot(folder, str(folder)) if folder.is_dir() else None
    except OSError as error:
        raise Trouble(
            f"{model[:200]!r} cannot be looked at: {error.strerror}", code=NO_INPUT
        ) from None
    if not is_hub_id(model):
        return None
    name, _, revision = model.partition("@")
    own = paths.models_dir(env) / name
    if not revision and _is_checkpoint(own):
        return _snapshot(own, name, place="models folder")
    return _cached(name, revision, env)


def _a_file(model: str, file: Path) -> Trouble:
    if file.suffix.lower() == ".gguf":
        return Trouble(f"{model} is a GGUF file", hint=GGUF_CURE, code=NO_INPUT)
    return Trouble(
        f"{model} is a file; a model is the folder around it",
        hint=f"try -m {file.parent}",
        code=NO_INPUT,
    )


def _snapshot(folder: Path, name: str, *, commit: str = "", place: str = "folder") -> Snapshot:
    return Snapshot(
        folder, name, commit, place, folder_bytes(folder), checkpoint_folder.problems(folder)
    )


def _is_checkpoint(folder: Path) -> bool:
    """Whether a folder in our models folder is a checkpoint, not an owner's folder of
    checkpoints.
    """
    return (folder / "config.json").exists() or any(folder.glob("[!.]*.safetensors"))


def _cached(name: str, revision: str, env: Mapping[str, str] | None) -> Snapshot | None:
    top = storage(name, env)
    commit = commit_of(top, revision)
    if not commit:
        return None
    folder = top / "snapshots" / commit
    snapshot = _snapshot(folder, name, commit=commit, place="hub cache")
    if not folder.is_dir():
        snapshot = Snapshot(folder, name, commit, "hub cache", 0, ("nothing but its name is here",))
    if snapshot.complete:
        return snapshot
    present, total = progress(top, folder, commit, env)
    far = f"{size_text(present)} of {size_text(total)} is here" if total else ""
    older = None if revision else _another_whole(top, name, commit)
    if older is not None:
        note = (
            f"snapshot {older.commit[:12]} is used: the newer {commit[:12]} is not whole"
            f"{f' ({far})' if far else ''}; qwen-tui models pull {name} goes on with it"
        )
        return replace(older, notes=(note,))
    found = (*snapshot.problems, *([far] if far else ()))
    return Snapshot(folder, name, commit, "hub cache", present, found)


def _another_whole(top: Path, name: str, commit: str) -> Snapshot | None:
    """The newest complete snapshot in the cache other than `commit`."""
    folders = [each for each in snapshot_folders(top) if each.name != commit]
    for folder in sorted(folders, key=lambda each: each.stat().st_mtime, reverse=True):
        snapshot = _snapshot(folder, name, commit=folder.name, place="hub cache")
        if snapshot.complete:
            return snapshot
    return None


# -- what is not here ------------------------------------------------------------------------------


def _missing(model: str, env: Mapping[str, str] | None) -> Trouble:
    if not is_hub_id(model):
        return Trouble(
            f"there is no folder {model[:200]!r}",
            hint="-m takes a hub id as Qwen/Qwen2.5-7B, a folder, or demo",
            code=NO_INPUT,
        )
    names = [DEMO, *KNOWN, *(each.name for each in _named(env))]
    near = nearest(model.partition("@")[0], names)
    what = f"{model} is not on this disk" + (
        " and requests are switched off" if offline(env) else ""
    )
    if near and near != model:
        return Trouble(f"{what}; did you mean {near}?", hint=_cure(near, env), code=NO_INPUT)
    return Trouble(what, hint=_cure(model, env), code=NO_INPUT)


def _cure(model: str, env: Mapping[str, str] | None) -> str:
    allow = "unset HF_HUB_OFFLINE and " if offline(env) else ""
    return f"{allow}fetch it: qwen-tui models pull {model}   (or try -m demo, which ships)"


def nearest(name: str, among: list[str]) -> str:
    """The known name that a person most likely meant; "" if none is similar or the owner
    differs.
    """
    lowered = {each.lower(): each for each in among} | {
        each.rpartition("/")[2].lower(): each for each in reversed(among)
    }
    if name.lower() in lowered:
        return lowered[name.lower()]
    found = get_close_matches(name.lower(), list(lowered), 1, cutoff=0.8)
    return lowered[found[0]] if found else ""


def _broken(model: str, snapshot: Snapshot) -> Trouble:
    first, *rest = snapshot.problems
    more = f" ({len(rest)} more: {'; '.join(rest[:3])})" if rest else ""
    other = checkpoint_folder.other_kind(snapshot.path)
    if other is not None:
        hint = other.cure
    elif snapshot.place == "hub cache":
        hint = f"go on with the download: qwen-tui models pull {model}"
    elif snapshot.place == "ships with qwen-tui":
        hint = "the installation lacks its demo model: install qwen-tui again"
    else:
        hint = f"mend the files in {snapshot.path}"
    return Trouble(f"{model} cannot be loaded: {first}{more}", hint=hint, code=NO_INPUT)


# -- all that is here ------------------------------------------------------------------------------


def _named(env: Mapping[str, str] | None) -> list[Snapshot]:
    """Every model in the hub's cache and in our folder by name, without looking into it."""
    cached = [each for each in _folders(hub_cache(env)) if each.name.startswith("models--")]
    names = [each.name.removeprefix("models--").replace("--", "/") for each in cached]
    found = [
        Snapshot(top, name, place="hub cache") for top, name in zip(cached, names, strict=True)
    ]
    ours = paths.models_dir(env)
    for each in _folders(ours):
        inside = [each] if _is_checkpoint(each) else _folders(each)
        found += [
            Snapshot(folder, folder.relative_to(ours).as_posix(), place="models folder")
            for folder in inside
        ]
    return found


def _folders(top: Path) -> list[Path]:
    try:
        return sorted(each for each in top.iterdir() if each.is_dir() and each.name[:1] != ".")
    except OSError:
        return []


def installed(env: Mapping[str, str] | None = None) -> tuple[Snapshot, ...]:
    """Every snapshot on this disk: the demo, our models folder, the hub's cache; broken ones with
    their problems.

    Models in the hub's cache that are not text generators (no config.json beside weights) are left
    out, unless they are being downloaded.
    """
    found = {DEMO: _snapshot(paths.demo_dir(), DEMO, place="ships with qwen-tui")}
    for each in _named(env):
        snapshot = (
            locate(each.name, env=env, cwd=Path("/nonexistent")) if is_hub_id(each.name) else None
        )
        if snapshot is not None and (
            snapshot.complete or checkpoint_folder.other_kind(snapshot.path) is None
        ):
            found.setdefault(each.name, snapshot)
    return tuple(found.values())


def remove(model: str, env: Mapping[str, str] | None = None) -> int:
    """Delete a model, every revision, from the hub's cache or our models folder; returns the bytes
    freed.

    Trouble 2 for a folder that is not ours to delete, 66 if there is none.
    """
    name = model.partition("@")[0]
    if name == DEMO:
        raise Trouble("the demo ships with qwen-tui and stays", code=USAGE)
    if not is_hub_id(name):
        raise Trouble(
            f"{model[:200]!r} is no model of the cache; a folder of yours is yours to delete",
            code=USAGE,
        )
    own = paths.models_dir(env) / name
    tops = [own] if _is_checkpoint(own) else []
    tops += [top for top in (storage(name, env),) if top.is_dir()]
    if not tops:
        raise Trouble(
            f"{name} is not on this disk", hint="see: qwen-tui models list", code=NO_INPUT
        )
    freed = 0
    for top in tops:
        freed += tree_bytes(top)
        try:
            if top.is_symlink():
                top.unlink()
            else:
                shutil.rmtree(top)
        except OSError as error:
            code = NO_PERMISSION if isinstance(error, PermissionError) else IO_ERROR
            raise Trouble(f"{top} cannot be removed: {error.strerror}", code=code) from None
    return freed


def tree_bytes(top: Path) -> int:
    """The total size of a folder and everything below it in bytes; links are not followed."""
    total = 0
    for folder, _, names in os.walk(top):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118
            except OSError:
                continue
    return total
