"""Compiles `kernel.c` with whichever C compiler is found. Uses only the standard library, since it
also runs while the package is being built.

Law: a missing or broken compiler raises nothing; the result says what was tried.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
SOURCES: Final = ("kernel.c", "kernel.h", "x86.h", "vnni.h", "vnni256.h", "arm.h")
SUFFIX: Final = {"Windows": ".dll", "Darwin": ".dylib"}.get(platform.system(), ".so")
LIBRARY: Final = f"libkernel{SUFFIX}"
NOTE: Final = "not_built.txt"
"""The file written in place of the library when it could not be compiled; it says why."""
FLAGS: Final = (
    "-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-shared",
    # Every level computes the same bits only where a·b + c is fused when the source says so.
    "-ffp-contract=off",
)  # fmt: skip
SECONDS: Final = 600
ZIG_TARGETS: Final = {
    ("Linux", "x86_64"): "x86_64-linux-gnu.2.17",
    ("Linux", "aarch64"): "aarch64-linux-gnu.2.17",
    ("Darwin", "x86_64"): "x86_64-macos",
    ("Darwin", "arm64"): "aarch64-macos",
    ("Windows", "AMD64"): "x86_64-windows-gnu",
}
"""Targets for `zig cc` by (system, machine); its own default is the CPU it runs on."""


@dataclass(frozen=True, slots=True)
class Built:
    """Whether the library was written, and a message: how it was built, or what was tried."""

    done: bool
    said: str


def digest() -> str:
    """A hash of the source; a library carries it, so that an outdated one is recognised."""
    found = hashlib.sha256()
    for name in SOURCES:
        found.update((HERE / name).read_bytes().replace(b"\r\n", b"\n"))
    return found.hexdigest()[:16]


def compilers() -> list[list[str]]:
    """Commands to try in turn: `$CC`, `cc`, `clang`, `gcc`, and zig from the package `ziglang`."""
    found = []
    if asked := os.environ.get("CC", "").strip():
        found.append(shlex.split(asked))
    found += [[name] for name in ("cc", "clang", "gcc")]
    found = [command for command in found if shutil.which(command[0])]
    target = ZIG_TARGETS.get((platform.system(), platform.machine()))
    if target and platform.libc_ver()[0] != "glibc" and platform.system() == "Linux":
        target = target.split("-")[0] + "-linux-musl"
    if target and importlib.util.find_spec("ziglang"):
        found.append([sys.executable, "-m", "ziglang", "cc", "-target", target, "-s"])
    return found


def build(to: Path, *, flags: tuple[str, ...] = ()) -> Built:
    """Compile to the file `to` with additional `flags`; an existing file is replaced atomically."""
    commands = compilers()
    if not commands:
        return Built(False, "no C compiler was found ($CC, cc, clang, gcc, the package ziglang)")
    tried = []
    fresh = to.with_name(f"{to.name}.{os.getpid()}")
    position = () if platform.system() == "Windows" else ("-fPIC",)
    maths = () if platform.system() == "Windows" else ("-lm",)
    for command in commands:
        line = [*command, *FLAGS, *position, f'-DDIGEST="{digest()}"', *flags]
        line += [str(HERE / "kernel.c"), "-o", str(fresh), *maths]
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS)
            if done.returncode == 0:
                fresh.replace(to)
                return Built(True, f"compiled by {shlex.join(command)}")
            words = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()
            tried.append(f"{shlex.join(command)}: {words[0]}")
        except (OSError, subprocess.TimeoutExpired) as error:
            tried.append(f"{shlex.join(command)}: {error}")
        finally:
            fresh.unlink(missing_ok=True)
    return Built(False, "; ".join(tried))


def main() -> int:
    """Compile beside the source, for an editable checkout whose source changed."""
    found = build(HERE / LIBRARY)
    print(found.said)
    return 0 if found.done else 1


if __name__ == "__main__":
    sys.exit(main())
