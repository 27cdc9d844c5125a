"""The house keeps its own rules: who may import what, and where a failure may be caught."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import qwen_tui

PACKAGE = Path(qwen_tui.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
BORDERS = {"engine/runner.py", "cli/__init__.py", "tui/terminal/guarded_app.py", "tui/app.py"}
HEAVY = (
    "torch",
    "textual",
    "transformers",
    "accelerate",
    "bitsandbytes",
    "httpx",
    "httpx2",
    "requests",
    "aiohttp",
)


def _loaded_after(statement: str) -> set[str]:
    program = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_command_line_starts_without_anything_heavy() -> None:
    loaded = _loaded_after("import qwen_tui.cli")
    assert not loaded & set(HEAVY)


def test_the_studio_paints_without_torch() -> None:
    loaded = _loaded_after("import qwen_tui.tui.app")
    assert "textual" in loaded
    assert not loaded & (set(HEAVY) - {"textual"})


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["config"], ["sessions", "list"], ["engines", "list"]]
)
def test_small_commands_stay_light(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import json, sys, atexit\n"
        "atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\n"
        f"sys.argv = ['qwen-tui', *{arguments!r}]\n"
        "from qwen_tui.cli import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree)
    assert docstring, "a module docstring states the room's duty and its law"


def _catches_everything(node: ast.AST) -> bool:
    if not isinstance(node, ast.ExceptHandler):
        return False
    names = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(
        name is None or (isinstance(name, ast.Name) and name.id in ("Exception", "BaseException"))
        for name in names
    )


def _raises_again(handler: ast.ExceptHandler) -> bool:
    return any(isinstance(node, ast.Raise) for node in ast.walk(handler))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_borders_catch_everything(path: Path) -> None:
    if str(path.relative_to(PACKAGE)) in BORDERS:
        return
    handlers = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if _catches_everything(node)
    ]
    lines = [
        node.lineno
        for node in handlers
        if isinstance(node, ast.ExceptHandler) and not _raises_again(node)
    ]
    assert not lines, (
        f"`except Exception` belongs to the runner, the CLI's main, the crash handler: {lines}"
    )


def test_themes_are_found_from_wherever_the_program_is_installed() -> None:
    from qwen_tui import paths

    assert len(list(paths.themes_dir().glob("*.toml"))) >= 5


def test_the_map_names_every_module() -> None:
    page = (PACKAGE.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
    wanted = {path.name for path in MODULES} - {"__init__.py", "__main__.py"}
    assert not {name for name in wanted if name not in page}
