"""Every action of the interface: stable id, name, keys, help, where it works.

One table feeds the bindings, the footer, the palette, the help screen and the README. A person
rebinds by id (`[keys]` in the settings); an id is never renamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from textual.binding import Binding

Where: TypeAlias = Literal["studio", "inspector", "dials", "branches", "app"]


@dataclass(frozen=True, slots=True)
class Action:
    """One thing a person can ask for.

    `id` is also the name of the method, `action_<id>`. `name` is what the footer says, `help` one
    sentence. `rank` orders the footer, best first; 0 keeps it out. `priority` keys are asked
    before the focused widget sees them. An action without keys is asked for in the palette.
    """

    id: str
    name: str
    keys: tuple[str, ...]
    help: str
    where: Where = "studio"
    group: str = ""
    rank: int = 0
    priority: bool = True


WRITE: Final = "Write"
ROADS: Final = "Other roads"
TOKENS: Final = "Tokens"
CONTROLS: Final = "Sampling"
FILES: Final = "Documents and sessions"
VIEW: Final = "View"

GENERATE_KEYS: Final = ("ctrl+j", "f5", "ctrl+enter", "ctrl+@", "ctrl+space")

ACTIONS: Final[tuple[Action, ...]] = (
    # -- writing ----------------------------------------------------------------------------------
    Action(
        "generate",
        "Continue",
        GENERATE_KEYS,
        "Let the model go on from the document's end; a finished completion is accepted first.",
        group=WRITE,
        rank=10,
    ),
    Action(
        "stop",
        "Stop",
        ("escape",),
        "Stop generating and keep what is there; with nothing running, leave the panel.",
        group=WRITE,
        rank=1,
    ),
    Action(
        "copy_or_stop",
        "Copy or stop",
        ("ctrl+c",),
        "Copy what is selected; with no selection, stop generating.",
        group=WRITE,
    ),
    Action(
        "accept",
        "Accept",
        ("tab",),
        "Move the completion into the document.",
        group=WRITE,
        rank=2,
    ),
    Action(
        "accept_word",
        "Accept word",
        ("ctrl+right",),
        "Move the completion's next word into the document.",
        group=WRITE,
        rank=14,
    ),
    Action(
        "regenerate",
        "Again",
        ("ctrl+r",),
        "Complete the same text once more; the old completion stays as a sibling.",
        group=WRITE,
        rank=11,
    ),
    Action(
        "several",
        "Several",
        ("ctrl+g",),
        "Ask for several completions at once, shown as tabs.",
        group=WRITE,
        rank=12,
    ),
    Action(
        "undo",
        "Undo",
        ("ctrl+z",),
        "Take back the last typing; then step back along the session.",
        group=WRITE,
        rank=30,
    ),
    Action("redo", "Redo", ("ctrl+y",), "Do again what was undone.", group=WRITE, rank=31),
    # -- other roads ------------------------------------------------------------------------------
    Action(
        "sibling_next",
        "Next sibling",
        ("alt+down",),
        "Show the next completion of the same text.",
        group=ROADS,
        rank=15,
    ),
    Action(
        "sibling_previous",
        "Previous sibling",
        ("alt+up",),
        "Show the previous completion of the same text.",
        group=ROADS,
    ),
    Action(
        "parent",
        "Parent",
        ("alt+left",),
        "Step back to where this text forked.",
        group=ROADS,
    ),
    Action(
        "child",
        "Child",
        ("alt+right",),
        "Step forward along the newest road from here.",
        group=ROADS,
    ),
    Action(
        "branches",
        "Roads",
        ("alt+r",),
        "Show the tree of all roads of this session; Enter goes there.",
        group=ROADS,
        rank=17,
    ),
    Action(
        "road_up",
        "Road above",
        ("up",),
        "In the tree: the row above.",
        where="branches",
        group=ROADS,
        priority=False,
    ),
    Action(
        "road_down",
        "Road below",
        ("down",),
        "In the tree: the row below.",
        where="branches",
        group=ROADS,
        priority=False,
    ),
    Action(
        "road_go",
        "Go there",
        ("enter",),
        "In the tree: make the document end where this row ends.",
        where="branches",
        group=ROADS,
        rank=3,
        priority=False,
    ),
    Action(
        "road_hide",
        "Hide",
        ("delete",),
        "In the tree: hide this row and what follows from it; nothing is erased.",
        where="branches",
        group=ROADS,
        rank=9,
        priority=False,
    ),
    # -- tokens -----------------------------------------------------------------------------------
    Action(
        "inspect",
        "Tokens",
        ("ctrl+t", "f2"),
        "Walk the completion token by token and see what each one beat.",
        group=TOKENS,
        rank=13,
    ),
    Action(
        "token_previous",
        "Previous token",
        ("left",),
        "In the inspector: the token before.",
        where="inspector",
        group=TOKENS,
        priority=False,
    ),
    Action(
        "token_next",
        "Next token",
        ("right",),
        "In the inspector: the token after.",
        where="inspector",
        group=TOKENS,
        priority=False,
    ),
    Action(
        "choice_up",
        "Choice above",
        ("up",),
        "In the inspector: the more likely alternative.",
        where="inspector",
        group=TOKENS,
        priority=False,
    ),
    Action(
        "choice_down",
        "Choice below",
        ("down",),
        "In the inspector: the less likely alternative.",
        where="inspector",
        group=TOKENS,
        priority=False,
    ),
    Action(
        "take_choice",
        "Take it",
        ("enter",),
        "In the inspector: take this alternative and go on from there at once.",
        where="inspector",
        group=TOKENS,
        rank=3,
        priority=False,
    ),
    Action(
        "heat",
        "Colours",
        ("alt+c",),
        "Colour every token by how sure the model was, or not.",
        group=TOKENS,
        rank=40,
    ),
    # -- sampling ---------------------------------------------------------------------------------
    Action(
        "dials",
        "Sampling",
        ("ctrl+o",),
        "Go to the sampling controls, or back.",
        group=CONTROLS,
        rank=16,
    ),
    Action(
        "dial_up",
        "Control above",
        ("up",),
        "In the controls: the one above.",
        where="dials",
        group=CONTROLS,
        priority=False,
    ),
    Action(
        "dial_down",
        "Control below",
        ("down",),
        "In the controls: the one below.",
        where="dials",
        group=CONTROLS,
        priority=False,
    ),
    Action(
        "dial_less",
        "Less",
        ("left",),
        "In the controls: one step down; Shift for ten.",
        where="dials",
        group=CONTROLS,
        rank=4,
        priority=False,
    ),
    Action(
        "dial_more",
        "More",
        ("right",),
        "In the controls: one step up; Shift for ten.",
        where="dials",
        group=CONTROLS,
        rank=5,
        priority=False,
    ),
    Action(
        "dial_lowest",
        "Lowest",
        ("home",),
        "In the controls: the lowest value.",
        where="dials",
        group=CONTROLS,
        priority=False,
    ),
    Action(
        "dial_highest",
        "Highest",
        ("end",),
        "In the controls: the highest value.",
        where="dials",
        group=CONTROLS,
        priority=False,
    ),
    Action(
        "dial_neutral",
        "Neutral",
        ("delete",),
        "In the controls: the value that switches this one off.",
        where="dials",
        group=CONTROLS,
        rank=6,
        priority=False,
    ),
    Action(
        "dial_edit",
        "Type a value",
        ("enter",),
        "In the controls: type the value; Enter sets it, Esc leaves it.",
        where="dials",
        group=CONTROLS,
        rank=7,
        priority=False,
    ),
    Action(
        "neutralise",
        "Neutralise",
        ("alt+n",),
        "Switch every sampling stage off: the model's own distribution.",
        group=CONTROLS,
    ),
    Action(
        "next_preset",
        "Next preset",
        ("alt+p",),
        "Set all sampling controls from the next preset.",
        group=CONTROLS,
    ),
    Action(
        "fix_seed",
        "Keep the seed",
        ("alt+s",),
        "Fix the seed that was used last, or go back to a fresh one each time.",
        group=CONTROLS,
    ),
    Action(
        "shorten",
        "Shorten long prompts",
        ("alt+l",),
        "A text longer than the context: refuse it, send its end, or send both its ends.",
        group=CONTROLS,
    ),
    # -- files ------------------------------------------------------------------------------------
    Action(
        "new",
        "New",
        ("ctrl+n",),
        "Begin an empty session; the old one is saved.",
        group=FILES,
        rank=33,
    ),
    Action(
        "sessions",
        "Open",
        ("ctrl+l",),
        "List, search, open, rename and throw away sessions.",
        group=FILES,
        rank=20,
    ),
    Action(
        "save_as",
        "Save text",
        ("ctrl+s",),
        "Write the text to the file it came from or was last written to; if there is none, ask for "
        "a name. The session itself is always saved.",
        group=FILES,
        rank=21,
    ),
    Action(
        "save_text_as",
        "Save text as",
        (),
        "Ask for a file name and write the text there; saving the text writes there from then on.",
        group=FILES,
    ),
    Action(
        "fork_session",
        "Fork",
        ("alt+k",),
        "Begin a session of your own with everything this one holds.",
        group=FILES,
    ),
    Action(
        "save_elsewhere",
        "Save elsewhere",
        ("alt+e",),
        "Go on saving the session in another folder, when its own cannot be written.",
        group=FILES,
    ),
    Action(
        "normalise",
        "Normalise",
        ("alt+u",),
        "Compose the document's characters (Unicode NFC), as in the text the model learned from.",
        group=FILES,
    ),
    Action("rename", "Rename", ("shift+f4",), "Give this session a title.", group=FILES),
    Action(
        "find",
        "Find",
        ("ctrl+f",),
        "Find text in the document and in the completion.",
        group=FILES,
        rank=32,
    ),
    Action(
        "edit_outside",
        "$EDITOR",
        ("f4",),
        "Edit the document in your own editor.",
        group=FILES,
    ),
    Action(
        "models",
        "Model",
        ("f8",),
        "Choose the model that completes.",
        group=FILES,
        rank=22,
    ),
    Action(
        "chat",
        "Chat",
        ("f3",),
        "Turn the session into a chat, or back; needs a model with a chat template.",
        group=FILES,
        rank=41,
    ),
    # -- view -------------------------------------------------------------------------------------
    Action(
        "next_pane",
        "Pane",
        ("f9",),
        "Go to the next pane; on a small terminal this is how to see the others.",
        group=VIEW,
        rank=8,
    ),
    Action(
        "inline",
        "Write inline",
        ("alt+i",),
        "Write completions straight into the document, tentative until accepted, or beside it.",
        group=VIEW,
    ),
    Action("theme", "Theme", ("alt+t",), "Take the next theme.", where="app", group=VIEW),
    Action(
        "help",
        "Help",
        ("f1",),
        "All keys, and what they do.",
        where="app",
        group=VIEW,
        rank=50,
    ),
    Action(
        "command_palette",
        "Palette",
        ("ctrl+p",),
        "Find any action by its name.",
        where="app",
        group=VIEW,
        rank=51,
    ),
    Action(
        "quit",
        "Quit",
        ("ctrl+q",),
        "Leave; everything is saved.",
        where="app",
        group=VIEW,
        rank=52,
    ),
)

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
    """A key as people write it: `ctrl+j` is `Ctrl+J`, `alt+down` is `Alt+↓`."""
    *modifiers, last = key.split("+")
    if last in _ARROWS:
        shown = _ARROWS[last]
    elif last in _NAMES:
        shown = _NAMES[last]
    else:
        shown = last.upper() if len(last) == 1 or last[1:].isdigit() else last.capitalize()
    return "+".join([*(part.capitalize() for part in modifiers), shown])


def short_key_name(key: str) -> str:
    """A key as the footer has room for: `^J`, `Alt↓`, `Esc`."""
    name = key_name(key)
    return name.replace("Ctrl+", "^") if name.startswith("Ctrl+") else name.replace("Alt+", "Alt")


def key_names(keys: Iterable[str]) -> list[str]:
    """Keys as people write them, without two spellings of the same key."""
    return list(dict.fromkeys(key_name(key) for key in keys))


def keymap(keys: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """A person's bindings checked: (keymap by id, one line per entry that was ignored).

    A value is a comma-separated list of keys in Textual's names (`ctrl+k`, `f12`).
    """
    kept: dict[str, str] = {}
    complaints: list[str] = []
    for name, value in keys.items():
        wanted = [key.strip() for key in str(value).split(",") if key.strip()]
        if name not in BY_ID:
            complaints.append(f"keys: there is no action {name!r}")
        elif not wanted:
            complaints.append(f"keys: {name} names no key")
        else:
            kept[name] = ",".join(wanted)
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
    """The Markdown table of keys that the README carries."""
    lines = ["| action | keys | id |", "|---|---|---|"]
    for group, members in groups().items():
        lines.append(f"| **{group}** | | |")
        for action in members:
            keys = " · ".join(key_names(action.keys)) or "palette"
            lines.append(f"| {action.help} | {keys} | `{action.id}` |")
    return "\n".join(lines) + "\n"
