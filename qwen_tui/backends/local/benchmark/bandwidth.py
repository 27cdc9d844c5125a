"""Describes the machine and measures its memory bandwidth, the upper bound for decoding speed.

Law: bandwidth is measured in the same process, with the same threads and in the same rounds as the
speeds that are compared with it.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F

from qwen_tui.backends.local.memory import anonymous_bytes
from qwen_tui.backends.local.planning import host_limits

BUFFER_BYTES: Final = 1 << 30
"""Bytes that the read kernel covers: more than any cache holds."""
LEAST_BUFFER: Final = 64 << 20
COLUMNS: Final = 4096
"""Width of the matrix that the buffer is read as."""
ALIGNED: Final = 2 * COLUMNS * 4
"""The buffer is whole rows of that matrix."""
READS: Final = 3
"""Reads in one measurement; the fastest is the bound."""


@dataclass(frozen=True, slots=True)
class Host:
    """The hardware and versions that a figure belongs to. Memory in bytes."""

    cpu: str
    cores: int
    threads: int
    memory_bytes: int
    gpu: str
    extensions: tuple[str, ...]
    versions: dict[str, str]
    load: float

    def record(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"extensions": list(self.extensions)}

    def line(self) -> str:
        """In one line, as a table's caption."""
        parts = [
            self.gpu,
            self.cpu,
            f"{self.cores} cores, {self.threads} threads",
            f"{self.memory_bytes / 2**30:.0f} GiB",
            ", ".join(self.extensions),
            *(f"{name} {version}" for name, version in self.versions.items()),
        ]
        return " · ".join(filter(None, parts))


def load() -> float:
    """How many processes wanted to run, over the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def host(load: float, packages: tuple[str, ...] = ("torch", "bitsandbytes")) -> Host:
    """Describe this machine; `load` is the system load before the measurement."""
    versions = {"Python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return Host(
        cpu=_cpu_name(),
        cores=os.cpu_count() or 0,
        threads=torch.get_num_threads(),
        memory_bytes=_memory(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        extensions=_extensions(),
        versions=versions,
        load=load,
    )


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _extensions() -> tuple[str, ...]:
    """The instruction sets that decide which kernels run."""
    asked = {
        "AVX2": "_is_avx2_supported",
        "AVX512": "_is_avx512_supported",
        "VNNI": "_is_vnni_supported",
        "AVX512-BF16": "_is_avx512_bf16_supported",
        "AMX": "_is_amx_tile_supported",
    }
    return tuple(
        name for name, probe in asked.items() if getattr(torch.cpu, probe, lambda: False)()
    )


class Bandwidth:
    """Measures bandwidth by reading a buffer larger than any cache.

    On a CPU the kernel is a float32 sum or a bf16 matrix-vector product, whichever is faster here;
    on other devices a copy, which reads and writes every byte.
    """

    def __init__(
        self, device: torch.device, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        size = BUFFER_BYTES
        if device.type == "cpu":
            size = max(LEAST_BUFFER, min(size, host_limits.free_bytes() // 16)) // ALIGNED * ALIGNED
        self._clock = clock
        self._device = device
        self._buffer = torch.ones(size // 4, dtype=torch.float32, device=device)
        self._moved = self._buffer.nbytes
        if device.type == "cpu":
            self._kernel = max((self._sum, self._product), key=self._rate)
        else:
            self._moved *= 2
            self._copy = torch.empty_like(self._buffer)
            self._kernel = self._copied

    @property
    def host_bytes(self) -> int:
        """Bytes of main memory that the buffer takes."""
        return 0 if self._device.type == "cuda" else self._buffer.nbytes

    @property
    def kernel(self) -> str:
        """How it is read, in words."""
        if self._kernel == self._sum:
            return "a float32 sum"
        return "a bf16 matrix-vector product" if self._kernel == self._product else "a copy"

    def measure(self) -> float:
        """Bytes per second, the best of some reads."""
        return max(self._rate(self._kernel) for _ in range(READS))

    def _rate(self, kernel: Callable[[], object]) -> float:
        self._wait()
        began = self._clock()
        kernel()
        self._wait()
        return self._moved / max(self._clock() - began, 1e-9)

    def _sum(self) -> object:
        return self._buffer.sum()

    def _product(self) -> object:
        matrix = self._buffer.view(torch.bfloat16).view(-1, COLUMNS)
        return F.linear(torch.ones(1, COLUMNS, dtype=torch.bfloat16), matrix)

    def _copied(self) -> object:
        return self._copy.copy_(self._buffer)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()


class PeakMemory:
    """The largest RssAnon seen by any call of `look`, in bytes, less `aside`: what the measurement
    itself takes.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.aside = 0

    def look(self) -> int:
        """Bytes in use now; the peak is updated."""
        now = anonymous_bytes() - self.aside
        self.bytes = max(self.bytes, now)
        return now
