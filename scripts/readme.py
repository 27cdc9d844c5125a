"""Write the parts of README.md that come from the program: its keys and its command line.

`--check` writes nothing and fails when the page and the program part.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from qwen_tui.cli import app
from qwen_tui.cli.options import SUBJECTS
from qwen_tui.tui.actions import key_table

README = Path(__file__).resolve().parent.parent / "README.md"


def commands() -> str:
    """Every command with its first sentence."""
    group: Any = typer.main.get_command(app)
    rows = ["| command | what it does |", "|---|---|"]
    rows.append("| `qwen-tui [FILE]` | Open the studio: on a file, on a piped text, or empty. |")
    for name, command in group.commands.items():
        if command.hidden:
            continue
        inner = getattr(command, "commands", None)
        if inner is None:
            rows.append(f"| `qwen-tui {name}` | {_sentence(command)} |")
            continue
        parts = "; ".join(f"`{each}` {_sentence(part, 'low')}" for each, part in inner.items())
        rows.append(f"| `qwen-tui {name} …` | {parts} |")
    return "\n".join(rows)


def options() -> str:
    """The options of `complete`, by subject."""
    group: Any = typer.main.get_command(app)
    subjects: dict[str, list[str]] = {}
    for parameter in group.commands["complete"].params:
        if parameter.param_type_name != "option":
            continue
        names = "/".join((*parameter.opts, *parameter.secondary_opts))
        subjects.setdefault(parameter.rich_help_panel, []).append(f"`{names}`")
    rows = ["| subject | options of `complete` |", "|---|---|"]
    rows += [f"| {subject} | {' · '.join(subjects[subject])} |" for subject in SUBJECTS]
    return "\n".join(rows)


def _sentence(command: Any, first: str = "") -> str:
    text = re.split(r"(?<=\.)\s", " ".join((command.help or "").split()))[0]
    text = text.replace("|", "\\|")
    return text[:1].lower() + text[1:].rstrip(".") if first else text


PARTS: dict[str, Callable[[], str]] = {"keys": key_table, "commands": commands, "options": options}


def filled(page: str) -> str:
    """The page with each part between its marks written anew."""
    for name, made in PARTS.items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
        before, mark, rest = page.partition(begin)
        _, closing, after = rest.partition(end)
        if not mark or not closing:
            raise SystemExit(f"README.md has no place for {name}")
        page = f"{before}{begin}{made()}{end}{after}"
    return page


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    page = README.read_text("utf-8")
    if parser.parse_args().check:
        sys.exit(0 if filled(page) == page else "README.md is behind: python scripts/readme.py")
    README.write_text(filled(page), "utf-8")


if __name__ == "__main__":
    main()
