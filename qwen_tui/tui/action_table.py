"""Every action of the interface: stable id, name, keys, help, where it works.

Law: a person rebinds by id, so an id that is renamed stays in `OLD_IDS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from qwen_tui.tui.action import Action, Where


def _group(name: str, *actions: Action, where: Where = "studio") -> Iterator[Action]:
    return (replace(action, group=name, where=where) for action in actions)


GENERATE_KEYS: Final = ("ctrl+j", "f5", "ctrl+enter", "ctrl+@", "ctrl+space")

ACTIONS: Final[tuple[Action, ...]] = (
    *_group(
        "Write",
        Action(
            "generate",
            "Continue",
            GENERATE_KEYS,
            "Continue the document with the model; a finished completion is accepted first.",
            rank=10,
        ),
        Action(
            "continue_line",
            "Continue the line",
            ("alt+j",),
            "Continue the last line with the model: line ends after it are removed first.",
        ),
        Action(
            "stop",
            "Stop",
            ("escape",),
            "Stop generating and keep what is there; with nothing running, leave the panel.",
            rank=1,
        ),
        Action(
            "copy_or_stop",
            "Copy or stop",
            ("ctrl+c",),
            "Copy what is selected; with no selection, stop generating.",
        ),
        Action(
            "accept",
            "Accept",
            ("tab",),
            "Move the completion into the document, with the cursor at its end; elsewhere in the "
            "text Tab indents.",
            rank=2,
        ),
        Action(
            "accept_word",
            "Accept word",
            ("ctrl+right",),
            "Move the completion's next word into the document, with the cursor at its end; "
            "elsewhere in the text the cursor moves by a word.",
            rank=14,
        ),
        Action(
            "regenerate",
            "Again",
            ("ctrl+r",),
            "Complete the same text once more; the old completion stays as a sibling.",
            rank=11,
        ),
        Action(
            "several",
            "Several",
            ("ctrl+g",),
            "Ask for several completions at once, shown as tabs.",
            rank=12,
        ),
        Action(
            "undo",
            "Undo",
            ("ctrl+z",),
            "Take back the last typing; then step back along the session.",
            rank=30,
        ),
        Action("redo", "Redo", ("ctrl+y",), "Redo what was undone.", rank=31),
    ),
    *_group(
        "Branches",
        Action(
            "sibling_next",
            "Next sibling",
            ("alt+down",),
            "Show the next completion of the same text.",
            rank=15,
        ),
        Action(
            "sibling_previous",
            "Previous sibling",
            ("alt+up",),
            "Show the previous completion of the same text.",
        ),
        Action(
            "parent",
            "Parent",
            ("alt+left",),
            "In the completion and the tree: step back to where this text forked.",
        ),
        Action(
            "child",
            "Child",
            ("alt+right",),
            "In the completion and the tree: step forward on the branch shown, else to the newest.",
        ),
        Action(
            "branches",
            "Branches",
            ("alt+r",),
            "Show the tree of all branches of this session; Enter goes there.",
            rank=17,
        ),
    ),
    *_group(
        "Branches",
        Action("branch_up", "Branch above", ("up",), "In the tree: the row above."),
        Action("branch_down", "Branch below", ("down",), "In the tree: the row below."),
        Action(
            "branch_go",
            "Go there",
            ("enter",),
            "In the tree: make the document end where this row ends.",
            rank=3,
        ),
        Action(
            "branch_hide",
            "Hide",
            ("delete",),
            "In the tree: hide this row and what follows from it; nothing is erased.",
            rank=9,
        ),
        where="branches",
    ),
    *_group(
        "Tokens",
        Action(
            "inspect",
            "Tokens",
            ("ctrl+t", "f2"),
            "Walk the tokens, the document's from the cursor or the completion's, and see the "
            "alternatives of each.",
            rank=13,
        ),
    ),
    *_group(
        "Tokens",
        Action(
            "token_previous", "Previous token", ("left",), "In the inspector: the token before."
        ),
        Action("token_next", "Next token", ("right",), "In the inspector: the token after."),
        Action("token_first", "First token", ("home",), "In the inspector: the first token."),
        Action("token_last", "Last token", ("end",), "In the inspector: the last token."),
        Action(
            "choice_up",
            "Alternative above",
            ("up",),
            "In the inspector: the more likely alternative.",
        ),
        Action(
            "choice_down",
            "Alternative below",
            ("down",),
            "In the inspector: the less likely alternative.",
        ),
        Action(
            "choice_page_up",
            "Alternatives above",
            ("pageup",),
            "In the inspector: a page of more likely alternatives.",
        ),
        Action(
            "choice_page_down",
            "Alternatives below",
            ("pagedown",),
            "In the inspector: a page of less likely alternatives.",
        ),
        Action(
            "accept_to",
            "Accept to here",
            ("tab",),
            "In the inspector: accept the completion up to this token.",
            rank=2,
        ),
        Action(
            "take_choice",
            "Take it",
            ("enter",),
            "In the inspector: take this alternative and continue from there at once.",
            rank=3,
        ),
        where="inspector",
    ),
    *_group(
        "Tokens",
        Action(
            "heat",
            "Colours",
            ("alt+c",),
            "Colour every token by how sure the model was, or not.",
            rank=40,
        ),
    ),
    *_group(
        "Sampling",
        Action("dials", "Sampling", ("ctrl+o",), "Go to the sampling controls, or back.", rank=16),
    ),
    *_group(
        "Sampling",
        Action("dial_up", "Control above", ("up",), "In the controls: the one above."),
        Action("dial_down", "Control below", ("down",), "In the controls: the one below."),
        Action(
            "dial_less", "Less", ("left",), "In the controls: one step down; Shift for ten.", rank=4
        ),
        Action(
            "dial_more", "More", ("right",), "In the controls: one step up; Shift for ten.", rank=5
        ),
        Action("dial_lowest", "Lowest", ("home",), "In the controls: the lowest value."),
        Action("dial_highest", "Highest", ("end",), "In the controls: the highest value."),
        Action(
            "dial_neutral",
            "Neutral",
            ("delete",),
            "In the controls: the value that switches this one off.",
            rank=6,
        ),
        Action(
            "dial_edit",
            "Type a value",
            ("enter",),
            "In the controls: type the value; Enter sets it, Esc leaves it.",
            rank=7,
        ),
        where="dials",
    ),
    *_group(
        "Sampling",
        Action(
            "more_samplers",
            "More samplers",
            (),
            "Switch on DRY, XTC, mirostat or another sampler; its control is then shown.",
        ),
        Action(
            "neutralise",
            "Neutralise",
            ("alt+n",),
            "Switch every sampling stage off: the model's own distribution.",
        ),
        Action(
            "next_preset",
            "Next preset",
            ("alt+p",),
            "Set all sampling controls from the next preset.",
        ),
        Action(
            "fix_seed",
            "Keep the seed",
            ("alt+s",),
            "Fix the seed that was used last, or go back to a fresh one each time.",
        ),
        Action(
            "shorten",
            "Shorten long prompts",
            ("alt+l",),
            "A text longer than the context: refuse it, send its end, or send both its ends.",
        ),
    ),
    *_group(
        "Documents and sessions",
        Action("new", "New", ("ctrl+n",), "Begin an empty session; the old one is saved.", rank=33),
        Action(
            "sessions",
            "Open",
            ("ctrl+l",),
            "List, search, open, rename and remove sessions.",
            rank=20,
        ),
        Action(
            "save_as",
            "Save text",
            ("ctrl+s",),
            "Write the document to the file it came from or was last written to; if there is none, "
            "ask for a name. The session itself is always saved.",
            rank=21,
        ),
        Action(
            "save_text_as",
            "Save text as",
            (),
            "Ask for a file name and write the text there; the text is saved there from then on.",
        ),
        Action(
            "fork_session",
            "Fork",
            ("alt+k",),
            "Copy everything in this session into a new one.",
        ),
        Action(
            "save_elsewhere",
            "Save elsewhere",
            ("alt+e",),
            "Save the session in another folder from now on, if its own cannot be written.",
        ),
        Action(
            "normalise",
            "Normalise",
            ("alt+u",),
            "Compose the document's characters (Unicode NFC), as in the model's training text.",
        ),
        Action("rename", "Rename", ("shift+f4",), "Give this session a title."),
        Action(
            "find", "Find", ("ctrl+f",), "Find text in the document and in the completion.", rank=32
        ),
        Action(
            "edit_outside",
            "$EDITOR",
            ("f4",),
            "Edit the document, in a chat the message, in your own editor.",
        ),
        Action("models", "Model", ("f8",), "Choose the model that completes.", rank=22),
        Action(
            "chat",
            "Chat",
            ("f3",),
            "Turn the session into a chat, or back; needs a model with a chat template.",
            rank=41,
        ),
        Action(
            "take_back_message",
            "Edit message",
            ("alt+m",),
            "In a chat: take your last message back into the box; what you send then begins a "
            "branch there. Again: the message before it.",
        ),
        Action(
            "system_message",
            "System message",
            (),
            "Set the system message that this session's chats begin with.",
        ),
    ),
    *_group(
        "View",
        Action(
            "next_pane",
            "Pane",
            ("f9",),
            "Go to the next pane; on a small terminal this is how to see the others.",
            rank=8,
        ),
        Action(
            "inline",
            "Write inline",
            ("alt+i",),
            "Write completions straight into the document, tentative until accepted, or beside it.",
        ),
    ),
    *_group(
        "View",
        Action("theme", "Theme", ("alt+t",), "Switch to the next theme."),
        Action("help", "Help", ("f1",), "All keys, and what they do.", rank=50),
        Action(
            "command_palette",
            "Palette",
            ("ctrl+p",),
            "Find any action by its name or by what it does.",
            rank=51,
        ),
        Action("quit", "Quit", ("ctrl+q",), "Leave; everything is saved.", rank=52),
        where="app",
    ),
)
OLD_IDS: Final = {
    "road_up": "branch_up",
    "road_down": "branch_down",
    "road_go": "branch_go",
    "road_hide": "branch_hide",
}
"""Former ids of actions, which a person's `[keys]` may still use."""
