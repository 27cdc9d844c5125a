"""Memory and processors inside containers, Slurm jobs and systemd slices, on file trees laid out as
the kernel shows them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen_tui.backends.local.planning import host_limits

GIB = 1 << 30
MEMINFO = f"MemTotal: {64 << 20} kB\nMemFree: 1 kB\nMemAvailable: {32 << 20} kB\n"
V2_MOUNT = "31 23 0:28 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "35 31 0:32 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V1_CPU_MOUNT = "36 31 0:33 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


def machine(root: Path, *, cgroup: str, mounts: str) -> Path:
    """A system with 32 GiB available, whose process is in the groups that `cgroup` names."""
    own = root / "proc/self"
    own.mkdir(parents=True)
    (root / "proc/meminfo").write_text(MEMINFO)
    (own / "cgroup").write_text(cgroup)
    (own / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts)
    return root


def group(root: Path, path: str, **files: object) -> None:
    """A control group; `memory_max=1` writes `memory.max`."""
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{value}\n")


def v2(root: Path, path: str, limit: object, used: int, cache: int = 0) -> None:
    stat = f"anon {used - cache}\nactive_file 7\ninactive_file {cache}\nslab 1"
    group(root, path, memory_max=limit, memory_current=used, memory_stat=stat)


def test_without_a_limit_all_that_is_available_is_free(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="0::/user.slice\n", mounts=V2_MOUNT.format(root="/"))
    v2(root, "user.slice", "max", 3 * GIB)
    assert host_limits.free_bytes(root) == 32 * GIB


def test_page_cache_in_a_container_counts_as_free(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="0::/\n", mounts=V2_MOUNT.format(root="/"))
    v2(root, "", 16 * GIB, 15 * GIB, cache=12 * GIB)
    assert host_limits.free_bytes(root) == 13 * GIB


def test_the_narrowest_of_nested_limits_counts(tmp_path: Path) -> None:
    """A Slurm job: the step has no limit, the job and the node's slice around it do."""
    job = "system.slice/slurmstepd.scope/job_7"
    root = machine(tmp_path, cgroup=f"0::/{job}/step_0/user\n", mounts=V2_MOUNT.format(root="/"))
    v2(root, f"{job}/step_0/user", "max", 1 * GIB)
    v2(root, f"{job}/step_0", "max", 1 * GIB)
    v2(root, job, 8 * GIB, 2 * GIB, cache=1 * GIB)
    v2(root, "system.slice", 40 * GIB, 30 * GIB)
    assert host_limits.free_bytes(root) == 7 * GIB
    v2(root, "system.slice", 40 * GIB, 35 * GIB)
    assert host_limits.free_bytes(root) == 5 * GIB


def test_a_service_is_held_at_its_memory_high(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="0::/a.service\n", mounts=V2_MOUNT.format(root="/"))
    v2(root, "a.service", "max", 1 * GIB)
    group(root, "a.service", memory_high=4 * GIB)
    assert host_limits.free_bytes(root) == 3 * GIB


def test_limits_of_version_1_are_read_up_to_the_root(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        cgroup="4:memory:/slurm/uid_1/job_7\n0::/x\n",
        mounts=V1_MOUNT.format(root="/"),
    )
    stat = f"cache 1\ninactive_file 1\ntotal_inactive_file {2 * GIB}"
    group(root, "memory/slurm/uid_1", memory_stat=stat)
    for path, limit, used in (("uid_1", 6 * GIB, 5 * GIB), ("uid_1/job_7", 2**63 - 4096, GIB)):
        files = {"memory_limit_in_bytes": limit, "memory_usage_in_bytes": used}
        group(root, f"memory/slurm/{path}", **files)
    assert host_limits.free_bytes(root) == 3 * GIB


def test_in_docker_the_group_that_is_mounted_is_ones_own(tmp_path: Path) -> None:
    """Version 1 without a namespace: /proc tells the host's path, of which only the end is here."""
    own = "/docker/4f1c"
    root = machine(tmp_path, cgroup=f"4:memory:{own}\n", mounts=V1_MOUNT.format(root=own))
    group(root, "memory", memory_stat=f"total_inactive_file {GIB}")
    group(root, "memory", memory_limit_in_bytes=4 * GIB, memory_usage_in_bytes=2 * GIB)
    assert host_limits.free_bytes(root) == 3 * GIB


def test_a_path_above_ones_own_namespace_ends_at_the_mount(tmp_path: Path) -> None:
    root = machine(tmp_path, cgroup="0::/../../other\n", mounts=V2_MOUNT.format(root="/../.."))
    v2(root, "", 4 * GIB, 1 * GIB)
    assert host_limits.free_bytes(root) == 3 * GIB


def test_nothing_readable_limits_nothing(tmp_path: Path) -> None:
    assert host_limits.free_bytes(tmp_path) > 0
    assert host_limits.processors(1, tmp_path) == 1
    root = machine(tmp_path, cgroup="nonsense\n0:\n", mounts="also nonsense - \n")
    assert host_limits.free_bytes(root) == 32 * GIB


@pytest.mark.parametrize("version", [1, 2])
def test_a_quota_of_processors_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    if version == 2:
        root = machine(tmp_path, cgroup="0::/a/b\n", mounts=V2_MOUNT.format(root="/"))
        group(root, "a", cpu_max="350000 100000")
        group(root, "a/b", cpu_max="max 100000")
    else:
        root = machine(
            tmp_path, cgroup="3:cpu,cpuacct:/a/b\n", mounts=V1_CPU_MOUNT.format(root="/")
        )
        group(root, "cpu,cpuacct/a", cpu_cfs_quota_us=350000, cpu_cfs_period_us=100000)
        group(root, "cpu,cpuacct/a/b", cpu_cfs_quota_us=-1, cpu_cfs_period_us=100000)
    assert host_limits.processors(16, root) == 4
    assert host_limits.processors(2, root) == 2
