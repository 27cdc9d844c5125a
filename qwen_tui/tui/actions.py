"""Everything derived from the table of actions: bindings, footer, palette, help screen, README.

Law: keys are written once, in `action_table.py`; a person's `[keys]` only change them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from textual.binding import Binding

from qwen_tui.tui.action import Action, Where
from qwen_tui.tui.action_table import ACTIONS, OLD_IDS

BY_ID: Final[Mapping[str, Action]] = {action.id: action for action in ACTIONS}

_ARROWS: Final = {"up": "↑", "down": "↓", "left": "←", "right": "→"}
_NAMES: Final = {
    "escape": "Esc",
    "enter": "Enter",
    "tab": "Tab",
    "space": "Space",
    "delete": "Del",
    "home": "Home",
    "end": "End",
    "pageup": "PgUp",
    "pagedown": "PgDn",
    "backspace": "Backspace",
    "@": "Space",
}


def bindings(*where: Where) -> list[Binding]:
    """The bindings of all actions that work in these places, rebindable by id."""
    return [
        Binding(
            ",".join(action.keys),
            action.id,
            action.name,
            show=action.rank > 0,
            priority=action.priority,
            tooltip=action.help,
            id=action.id,
        )
        for action in ACTIONS
        if action.where in where and action.keys
    ]


def key_name(key: str) -> str:
    """A key as it is usually written: `ctrl+j` is `Ctrl+J`, `alt+down` is `Alt+↓`."""
    *modifiers, last = key.split("+")
    if last in _ARROWS:
        shown = _ARROWS[last]
    elif last in _NAMES:
        shown = _NAMES[last]
    else:
        shown = last.upper() if len(last) == 1 or last[1:].isdigit() else last.capitalize()
    return "+".join([*(part.capitalize() for part in modifiers), shown])


def short_key_name(key: str) -> str:
    """A key in short for the footer: `^J`, `Alt↓`, `Esc`."""
    name = key_name(key)
    return name.replace("Ctrl+", "^") if name.startswith("Ctrl+") else name.replace("Alt+", "Alt")


def key_names(keys: Iterable[str]) -> list[str]:
    """Keys as they are usually written, without duplicates."""
    return list(dict.fromkeys(key_name(key) for key in keys))


def keymap(keys: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Check a person's bindings: (keymap by id, one line per ignored entry).

    A value is a comma-separated list of keys in Textual's names (`ctrl+k`, `f12`). A former id
    means the action it was renamed to.
    """
    kept: dict[str, str] = {}
    complaints: list[str] = []
    for name, value in keys.items():
        id = OLD_IDS.get(name, name)
        wanted = [key.strip() for key in str(value).split(",") if key.strip()]
        if id not in BY_ID:
            complaints.append(f"keys: there is no action {name!r}")
        elif not wanted:
            complaints.append(f"keys: {name} names no key")
        else:
            kept[id] = ",".join(wanted)
    complaints += _clashes(kept)
    return kept, complaints


def _clashes(chosen: Mapping[str, str]) -> list[str]:
    """Keys that two actions of one place share once `chosen` is in force."""
    owners: dict[tuple[str, str], list[str]] = {}
    for action in ACTIONS:
        place = "studio" if action.where == "app" else action.where
        for key in chosen[action.id].split(",") if action.id in chosen else action.keys:
            owners.setdefault((place, key), []).append(action.id)
    return [
        f"keys: {key_name(key)} is both {' and '.join(ids)}"
        for (_, key), ids in owners.items()
        if len(ids) > 1
    ]


def groups() -> dict[str, list[Action]]:
    """The actions by group, in the table's order."""
    found: dict[str, list[Action]] = {}
    for action in ACTIONS:
        found.setdefault(action.group, []).append(action)
    return found


def key_table() -> str:
    """The README's Markdown table of keys; two moves of one panel share a row."""
    lines = ["| action | keys | id |", "|---|---|---|"]
    for group, members in groups().items():
        lines.append(f"| **{group}** | | |")
        rest = list(members)
        while rest:
            row = [rest.pop(0)]
            if rest and _is_move(row[0]) and _is_move(rest[0]) and row[0].where == rest[0].where:
                row.append(rest.pop(0))
            help = row[0].help
            if len(row) == 2:
                help = f"{help.rstrip('.')} · {row[1].help.partition(': ')[2]}"
            keys = " · ".join(name for each in row for name in key_names(each.keys)) or "palette"
            lines.append(f"| {help} | {keys} | {' · '.join(f'`{each.id}`' for each in row)} |")
    return "\n".join(lines) + "\n"


def _is_move(action: Action) -> bool:
    return not action.priority and not action.rank
