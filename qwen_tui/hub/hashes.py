"""SHA-256 of a checkpoint's files, remembered so that 15 GB are hashed once; and the check that
they still match.

Law: a remembered hash is valid only while path, size, modification time and inode are unchanged.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from qwen_tui import paths
from qwen_tui.hub.safetensors_header import Broken
from qwen_tui.hub.weight_files import weight_files
from qwen_tui.types import NO_INPUT, Progress, Trouble

CHUNK: Final = 8 << 20
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1: Final = re.compile(r"[0-9a-f]{40}")
_VERSION: Final = 1

Report = Callable[[Progress], None]


class Stopped(Exception):
    """The person cancelled the operation."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Hashes of a checkpoint. `files`: file name → SHA-256 in hex, for every file whose hash is
    known.
    """

    files: Mapping[str, str]
    config_sha256: str
    tokenizer_sha256: str
    whole: bool

    @property
    def weights(self) -> str:
        """One hash over the weight files' names and hashes, for use as a cache key; "" while one is
        unknown.
        """
        if not self.whole:
            return ""
        listed = sorted((k, v) for k, v in self.files.items() if k.endswith(".safetensors"))
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def names(folder: Path) -> tuple[str, ...]:
    """The files that identify a checkpoint: configuration, tokenizer, weights; Trouble 66 if they
    cannot be read.
    """
    small = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
    try:
        weights = weight_files(folder)
    except Broken as error:
        raise Trouble(f"{folder.name}: {error}", code=NO_INPUT) from None
    index = (weights.entry,) if weights.entry not in weights.names else ()
    return (*(name for name in (*small, *index) if (folder / name).is_file()), *weights.names)


def fingerprint(
    folder: Path,
    *,
    hash_weights: bool = False,
    report: Report | None = None,
    cancel: threading.Event | None = None,
    env: Mapping[str, str] | None = None,
) -> Fingerprint:
    """The hashes of a checkpoint's files.

    Small files are always hashed. A weight file's hash is the remembered one or its name in the
    hub's cache (where a large file is named by its SHA-256); otherwise it is computed only with
    `hash_weights`, reporting `Progress("load", bytes, bytes)`, and omitted without. Raises
    `Stopped`.
    """
    known_hashes = _HashCache(env)
    found: dict[str, str] = {}
    unknown = []
    for name in names(folder):
        file = folder / name
        known = known_hashes.get(file) or (blob_hash(file) if name.endswith(".safetensors") else "")
        if known:
            found[name] = known
        elif name.endswith(".safetensors") and not hash_weights:
            unknown.append(name)
        else:
            found[name] = known_hashes.put(file, sha256(file, report=report, cancel=cancel))
    known_hashes.write()
    return Fingerprint(
        found, found.get("config.json", ""), found.get("tokenizer.json", ""), not unknown
    )


def sha256(
    file: Path, *, report: Report | None = None, cancel: threading.Event | None = None
) -> str:
    """The SHA-256 of a file in hex; Trouble 66 if it cannot be read, `Stopped` if cancelled."""
    return _digest(file, hashlib.sha256(), report, cancel)


def git_sha1(file: Path) -> str:
    """Git's name of a file's content, as the hub names small files."""
    start = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
    return _digest(file, start, None, None)


def _digest(file: Path, digest: Any, report: Report | None, cancel: threading.Event | None) -> str:
    try:
        total, done = file.stat().st_size, 0
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                if cancel is not None and cancel.is_set():
                    raise Stopped
                digest.update(chunk)
                done += len(chunk)
                if report is not None:
                    report(Progress("load", done, total))
    except OSError as error:
        raise Trouble(f"{file} cannot be read: {error.strerror}", code=NO_INPUT) from None
    return str(digest.hexdigest())


def blob_name(file: Path) -> str:
    """The name in the hub's cache of the content that a snapshot's link points to; "" outside such
    a cache.
    """
    try:
        target = Path(os.readlink(file))  # noqa: PTH115
    except OSError:
        return ""
    return target.name if target.parent.name == "blobs" else ""


def blob_hash(file: Path) -> str:
    """The SHA-256 of a large file that is its name in the hub's cache; "" otherwise."""
    name = blob_name(file)
    return name if _SHA256.fullmatch(name) else ""


@dataclass(frozen=True, slots=True)
class Checked:
    """One file of a verification. `expected` is "" if no hash was on record.

    `source` is where the expected hash came from: `hub` (its name in the hub's cache) or `recorded`
    (an earlier hash of ours).
    """

    name: str
    actual: str
    expected: str
    source: Literal["hub", "recorded", ""]

    @property
    def ok(self) -> bool:
        """False only when a hash was on record and differs."""
        return not self.expected or self.expected == self.actual


def verify(
    folder: Path,
    *,
    report: Report | None = None,
    cancel: threading.Event | None = None,
    env: Mapping[str, str] | None = None,
) -> tuple[Checked, ...]:
    """Hash every file of a checkpoint again and compare with what is on record; Trouble 66,
    `Stopped`.

    A first verification outside the hub's cache records the hashes for the next one. A file that
    was rewritten since is reported once and recorded; one that changed without being rewritten (bit
    rot) is reported every time.
    """
    known_hashes = _HashCache(env)
    results = []
    for name in names(folder):
        file = folder / name
        stated = blob_name(file)
        if _SHA256.fullmatch(stated):
            actual = sha256(file, report=report, cancel=cancel)
            results.append(Checked(name, actual, stated, "hub"))
        elif _GIT_SHA1.fullmatch(stated):
            results.append(Checked(name, git_sha1(file), stated, "hub"))
        else:
            actual = sha256(file, report=report, cancel=cancel)
            before = known_hashes.recorded(file)
            results.append(Checked(name, actual, before, "recorded" if before else ""))
            if not known_hashes.get(file):
                known_hashes.put(file, actual)
    known_hashes.write()
    return tuple(results)


class _HashCache:
    """Hashes on disk in the cache folder: real path → size, mtime_ns, inode, sha256."""

    def __init__(self, env: Mapping[str, str] | None) -> None:
        self._file = paths.cache_dir(env) / "hashes.json"
        self._changed = False
        self._known: dict[str, Any] = {}
        try:
            stored = json.loads(self._file.read_bytes())
            if stored.get("version") == _VERSION and isinstance(stored["files"], dict):
                self._known = stored["files"]
        except (OSError, ValueError, KeyError, AttributeError, RecursionError):
            pass

    @staticmethod
    def _key(file: Path) -> tuple[str, list[int]]:
        real = file.resolve()
        stat = real.stat()
        return str(real), [stat.st_size, stat.st_mtime_ns, stat.st_ino]

    def _entry(self, file: Path) -> tuple[list[int], str, list[int]]:
        try:
            key, now = self._key(file)
            stamp, digest = self._known[key]
        except (OSError, KeyError, TypeError, ValueError):
            return [], "", []
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            return [], "", []
        return stamp, digest, now

    def get(self, file: Path) -> str:
        """The hash, if the file is still the one that was hashed."""
        stamp, digest, now = self._entry(file)
        return digest if digest and stamp == now else ""

    def recorded(self, file: Path) -> str:
        """The recorded hash for this path and size, whatever the modification time: bit rot changes
        neither.
        """
        stamp, digest, now = self._entry(file)
        return digest if digest and stamp[:1] == now[:1] else ""

    def put(self, file: Path, digest: str) -> str:
        """Remember the hash and return it."""
        with suppress(OSError):
            key, stamp = self._key(file)
            self._known[key] = [stamp, digest]
            self._changed = True
        return digest

    def write(self) -> None:
        """Store atomically; errors are ignored."""
        if not self._changed:
            return
        with suppress(OSError):
            paths.ensure_folder(self._file.parent)
            with paths.replacing(self._file, mode=0o600) as stream:
                stream.write(json.dumps({"version": _VERSION, "files": self._known}).encode())
        self._changed = False
