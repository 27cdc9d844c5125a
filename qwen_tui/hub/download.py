"""Download a snapshot from the model hub into its ordinary cache: pinned to a commit, resumable,
verified.

Law: only when a person asked; only safetensors, configuration, tokenizer and licence; every failure
is one line with what to do and an exit code.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from qwen_tui import paths
from qwen_tui.hub import snapshots
from qwen_tui.hub.hashes import CHUNK, Report, Stopped
from qwen_tui.hub.hub_cache import COMMIT, offline, sizes_file, storage
from qwen_tui.hub.hub_client import Hub, RemoteFile
from qwen_tui.hub.safetensors_header import size_text
from qwen_tui.hub.snapshots import Snapshot, is_hub_id
from qwen_tui.portable_os import lock
from qwen_tui.types import (
    IO_ERROR,
    NO_INPUT,
    NO_PERMISSION,
    TEMPORARY,
    UNAVAILABLE,
    USAGE,
    Progress,
    Trouble,
)

RETRIES: Final = 5


def pull(
    model: str,
    report: Report,
    cancel: threading.Event,
    *,
    env: Mapping[str, str] | None = None,
    pause: Callable[[float], object] | None = None,
) -> Snapshot:
    """Download `owner/name` or `owner/name@revision`, or finish an interrupted download.

    `report` gets `Progress("download", bytes, bytes)` over all files. A file gets its name only
    after it matched the hub's hash; a broken connection is resumed, now and in a later run.
    Trouble: 66 no such model, 69 no network or requests forbidden, 74 disk, 75 too many requests,
    77 not allowed. Raises `Stopped` when cancelled; what was downloaded is kept. `pause` waits some
    seconds before a request is repeated.
    """
    env = os.environ if env is None else env
    if not is_hub_id(model):
        raise Trouble(
            f"{model[:200]!r} is no hub id", hint="a hub id looks like Qwen/Qwen2.5-7B", code=USAGE
        )
    if offline(env):
        raise Trouble(
            f"{model} cannot be fetched: HF_HUB_OFFLINE forbids requests",
            hint="unset it (or set HF_HUB_OFFLINE=0) and try again",
            code=UNAVAILABLE,
        )
    name, _, revision = model.partition("@")
    hub = Hub(name, env)
    commit, files = hub.listing(revision or "main")
    top = storage(name, env)
    bar = _Bar(report, sum(each.size for each in files))
    try:
        _check_room(top, files, commit, name)
        (top / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
        (top / "blobs").mkdir(exist_ok=True)
        _note_sizes(commit, files, env)
        for each in files:
            _fetch(hub, top, commit, each, bar, cancel, pause or cancel.wait)
        if not COMMIT.fullmatch(revision):
            _write(top / "refs" / (revision or "main"), commit)
    except OSError as error:
        raise _disk(error, name, bar) from None
    snapshot = snapshots.locate(f"{name}@{commit}", env=env, cwd=Path("/nonexistent"))
    assert snapshot is not None
    if snapshot.problems:
        raise Trouble(
            f"{name} was fetched but cannot be loaded: {snapshot.problems[0]}", code=NO_INPUT
        )
    return snapshot


class _Bar:
    """Progress over all files: bytes on disk of the total."""

    def __init__(self, report: Report, total: int) -> None:
        self._report = report
        self.total = total
        self.done = 0

    def add(self, count: int) -> None:
        self.done += count
        self._report(Progress("download", self.done, self.total))


# -- one file --------------------------------------------------------------------------------------


def _fetch(
    hub: Hub,
    top: Path,
    commit: str,
    file: RemoteFile,
    bar: _Bar,
    cancel: threading.Event,
    pause: Callable[[float], object],
) -> None:
    """Download one file's content, stored under its hash, and link the snapshot to it."""
    blob = top / "blobs" / file.etag
    link = top / "snapshots" / commit / file.name
    if blob.is_file() and blob.stat().st_size == file.size:
        bar.add(file.size)
    elif link.is_file() and not link.is_symlink() and link.stat().st_size == file.size:
        bar.add(file.size)
        return
    else:
        _download(hub, commit, file, blob, bar, cancel, pause)
    if link.is_symlink() or link.exists():
        link.unlink()
    try:
        link.symlink_to(os.path.relpath(blob, link.parent))
    except OSError:
        shutil.move(blob, link)


def _download(
    hub: Hub,
    commit: str,
    file: RemoteFile,
    blob: Path,
    bar: _Bar,
    cancel: threading.Event,
    pause: Callable[[float], object],
) -> None:
    part = blob.with_name(f"{file.etag}.incomplete")
    with part.open("a+b") as stream:
        try:
            lock(stream.fileno())
        except BlockingIOError:
            raise Trouble(
                f"{hub.name} is being fetched by another program",
                hint="wait for it to end",
                code=TEMPORARY,
            ) from None
        digest = _already(stream, file)
        bar.add(stream.tell())
        left = RETRIES
        while stream.tell() < file.size:
            before = stream.tell()
            try:
                _append(hub, commit, file, stream, digest, bar, cancel)
            except (hub.http_error, ConnectionError) as error:
                stream.flush()
                left = RETRIES if stream.tell() > before else left - 1
                if left < 0 or not hub.is_transient(error):
                    raise _far(hub.trouble(error), bar) from None
                pause(1.0)
        stream.flush()
        os.fsync(stream.fileno())
        if digest.hexdigest() != file.etag:
            part.unlink()
            bar.add(-file.size)
            raise Trouble(
                f"{file.name} of {hub.name} arrived damaged (its hash is not the hub's); discarded",
                hint="try again; if it stays, a proxy changes what it passes on",
                code=UNAVAILABLE,
            )
        part.replace(blob)


def _new_digest(file: RemoteFile) -> Any:
    """An empty digest of the hub's kind: SHA-256 for large files, Git's SHA-1 for small ones."""
    if len(file.etag) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def _already(stream: Any, file: RemoteFile) -> Any:
    """Hash what an earlier run downloaded and seek behind it; a file that is too long is truncated
    to nothing.
    """
    digest = _new_digest(file)
    stream.seek(0, os.SEEK_END)
    if stream.tell() > file.size:
        stream.truncate(0)
    stream.seek(0)
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
    return digest


def _append(
    hub: Hub,
    commit: str,
    file: RemoteFile,
    stream: Any,
    digest: Any,
    bar: _Bar,
    cancel: threading.Event,
) -> None:
    """Stream the rest of a file to the end of `stream`; raises what the network raises."""
    if cancel.is_set():
        raise Stopped
    start = stream.tell()
    with hub.body(file.name, commit, start) as response:
        skip = start if response.status_code == 200 else 0
        for chunk in response.iter_raw():
            if cancel.is_set():
                raise Stopped
            # A server that ignores the range sends the beginning again: pass over what is here.
            fresh = chunk[skip:]
            skip = max(0, skip - len(chunk))
            fresh = fresh[: file.size - stream.tell()]
            stream.write(fresh)
            digest.update(fresh)
            bar.add(len(fresh))
            if stream.tell() >= file.size:
                return
    if stream.tell() < file.size:
        raise hub.http_error("the connection ended early")


# -- the disk --------------------------------------------------------------------------------------


def _check_room(top: Path, files: tuple[RemoteFile, ...], commit: str, name: str) -> None:
    """Refuse before the download starts if the disk has too little room."""
    wanted = 0
    for each in files:
        blob = top / "blobs" / each.etag
        link = top / "snapshots" / commit / each.name
        if not (blob.is_file() or link.is_file()):
            part = blob.with_name(f"{each.etag}.incomplete")
            wanted += each.size - (part.stat().st_size if part.is_file() else 0)
    place = top
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if wanted > free:
        raise Trouble(
            f"{name} needs {size_text(wanted)} more, and {place} has {size_text(free)} free",
            hint="make room, or set HF_HOME to a larger disk",
            code=IO_ERROR,
        )


def _note_sizes(commit: str, files: tuple[RemoteFile, ...], env: Mapping[str, str]) -> None:
    """Record the sizes of all files of a commit, so that an incomplete snapshot knows its
    progress.
    """
    sizes = {each.name: each.size for each in files}
    with suppress(OSError):
        _write(sizes_file(commit, env), json.dumps(sizes))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with paths.replacing(file, mode=0o644) as stream:
        stream.write(text.encode())


def _far(trouble: Trouble, bar: _Bar) -> Trouble:
    far = f"{size_text(bar.done)} of {size_text(bar.total)} is here"
    return Trouble(f"{trouble.message}; {far}", hint=trouble.hint, code=trouble.code)


def _disk(error: OSError, name: str, bar: _Bar) -> Trouble:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full" if full else (error.strerror or str(error))
    denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    far = f"{size_text(bar.done)} of {size_text(bar.total)} is here"
    return Trouble(
        f"{name} cannot be stored: {what}; {far}",
        hint="make room, or set HF_HOME to another disk; the same command goes on from here",
        code=NO_PERMISSION if denied else IO_ERROR,
    )
