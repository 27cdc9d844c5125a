"""Main memory and processors available to this process: the system's, within the limits of all
control groups it is in (containers, Slurm, systemd), nested ones too.

Law: page cache that the kernel can reclaim counts as free; a limit that cannot be read is ignored.
`root` is the folder above `/proc` and `/sys`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

SYSTEM: Final = Path("/")
FALLBACK_BYTES: Final = 8 << 30
"""Assumed to be free if the system reports nothing."""


class Files(NamedTuple):
    """File names of one version of control groups: the memory limit, the usage, and the key of
    reclaimable cache in memory.stat.
    """

    limits: tuple[str, ...]
    used: str
    cache: str


V2: Final = Files(("memory.max", "memory.high"), "memory.current", "inactive_file")
V1: Final = Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")


def free_bytes(root: Path = SYSTEM) -> int:
    """Bytes of main memory a process can still get."""
    free = _available(root)
    for files, controller in ((V2, ""), (V1, "memory")):
        for group in _groups(root, controller):
            free = min(free, _left(group, files, free))
    return free


def processors(default: int, root: Path = SYSTEM) -> int:
    """How many of `default` processors a process may keep busy: its affinity, and every quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else default
    quotas = [_text(group / "cpu.max").split() for group in _groups(root, "")]
    quotas += [
        [_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")]
        for group in _groups(root, "cpu")
    ]
    for each in quotas:
        if len(each) == 2 and each[0].isdigit() and each[1].isdigit() and int(each[1]):
            allowed = min(allowed, max(1, round(int(each[0]) / int(each[1]))))
    return max(1, min(default, allowed))


def _available(root: Path) -> int:
    """MemAvailable; where there is no /proc, three quarters of all memory."""
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    except (ValueError, OSError, AttributeError):
        return FALLBACK_BYTES


def _left(group: Path, files: Files, otherwise: int) -> int:
    """Bytes left below the limit of one group; `otherwise` if it has none."""
    limits = [int(text) for name in files.limits if (text := _text(group / name)).isdigit()]
    used = _text(group / files.used)
    if not limits or not used.isdigit():
        return otherwise
    cache = 0
    for line in _text(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == files.cache and value.isdigit():
            cache = int(value)
    return max(0, min(limits) - max(0, int(used) - cache))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the group this process is in and of all around it; `controller` "" is version
    2, else one of version 1.
    """
    own = _own_group(root, controller)
    if own is None:
        return
    for mounted, top in _mounts(root, controller):
        inside = _relative(own, mounted)
        folder = top / inside
        while folder != top:
            if folder.is_dir():
                yield folder
            folder = folder.parent
        yield top


def _own_group(root: Path, controller: str) -> str | None:
    """The path in /proc/self/cgroup: lines of `number:controllers:path`."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(",") and (controller or number == "0"):
            return path
    return None


def _mounts(root: Path, controller: str) -> Iterator[tuple[str, Path]]:
    """Which group is mounted where (proc_pid_mountinfo(5))."""
    found = False
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        v2 = not controller and kind[0] == "cgroup2"
        if v2 or (controller and kind[0] == "cgroup" and controller in kind[2].split(",")):
            found = True
            yield fields[3], root / fields[4].lstrip("/")
    if not found:
        yield "/", root / "sys/fs/cgroup" / controller


def _relative(own: str, mounted: str) -> str:
    """A group's path below the one that is mounted. A container that shares its host's view is told
    a path that it cannot see (`/../…`): its own group is the one that is mounted.
    """
    path = own.removeprefix(mounted) if mounted != "/" else own
    return "" if ".." in path.split("/") else path.strip("/")


def _text(file: Path) -> str:
    """A file's text without the blanks around it; "" where it cannot be read."""
    try:
        return file.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
