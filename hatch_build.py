"""Compiles the kernel while a wheel is built; without a compiler the wheel is pure, and works."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOM = Path("qwen_tui/backends/local/nn/kernel")
SWITCH = "QWEN_TUI_BUILD_KERNEL"
"""Environment: 0 builds a pure wheel and asks for no compiler."""


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the compiled library to a wheel, or a note that says why there is none."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """zig, which compiles C and comes from the package index, where no compiler is found."""
        build = self._build()
        known = (platform.system(), platform.machine()) in build.ZIG_TARGETS
        return ["ziglang"] if self._wanted() and known and not build.compilers() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile: into the source tree for an editable installation, else into the wheel."""
        if self.target_name != "wheel":
            return
        build = self._build()
        room = Path(self.root) / ROOM
        into = room if version == "editable" else Path(tempfile.mkdtemp())
        library, note = into / build.LIBRARY, into / build.NOTE
        if self._wanted():
            found = build.build(library)
            done, said = found.done, found.said
        else:
            done, said = False, f"{SWITCH}=0 when it was built"
        if done:
            note.unlink(missing_ok=True)
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform()}"
            self.app.display_info(f"kernel: {said}")
        else:
            library.unlink(missing_ok=True)
            note.write_text(f"it was not built: {said}\n", encoding="utf-8")
            self.app.display_warning(
                f"no kernel of our own: {said}. Everything works, but models on the CPU run on "
                "torch's kernels, which are slower in 4 and 8 bits."
            )
        if version != "editable":
            made = library if done else note
            build_data["force_include"][str(made)] = str(ROOM / made.name)

    def _wanted(self) -> bool:
        return os.environ.get(SWITCH, "") != "0"

    def _build(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location(
            "kernel_build", Path(self.root) / ROOM / "build.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module


def _platform() -> str:
    """This machine's platform tag; on a Mac the library has one architecture, if Python has two."""
    if platform.system() == "Darwin":
        arm = platform.machine() == "arm64"
        return "macosx_11_0_arm64" if arm else "macosx_10_13_x86_64"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
