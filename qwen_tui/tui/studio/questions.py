"""The studio's questions: names of files, folders and titles, and yes or no.

Law: a question changes nothing; it returns the answer, or None if the person leaves it.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

from textual.app import App, SuspendNotSupported

from qwen_tui.tui.sampling_controls import MORE
from qwen_tui.tui.screens.dialogs import AskLine, AskLines, Choose, Confirm, stops_read, stops_shown
from qwen_tui.tui.studio import text_file
from qwen_tui.tui.studio.text_file import TextFile
from qwen_tui.tui.terminal.guarded_app import GuardedApp
from qwen_tui.types import Trouble


async def where_to_save(app: App[int], file: TextFile) -> Path | None:
    """The file to write the document to: its own, or if it has none one that is asked for."""
    return await _place_to_save(app, file, file.path)


async def another_place_to_save(app: App[int], file: TextFile) -> Path | None:
    """A file to write the document to from now on."""
    return await _place_to_save(app, file, None)


async def _place_to_save(app: App[int], file: TextFile, path: Path | None) -> Path | None:
    """`path`, or one that is asked for. A file that changed or belongs to another document is
    overwritten only after asking.
    """
    while True:
        if path is None:
            path = await _name_for(app, file)
        if path is None:
            return None
        if path == file.path:
            why = "changed on the disk since it was read" if file.changed else ""
        else:
            why = "is there already" if path.exists() else ""
        answer = await _over(app, path, why) if why else "over"
        if answer != "other":
            return path if answer == "over" else None
        path = None


async def _name_for(app: App[int], file: TextFile) -> Path | None:
    ask = AskLine(
        "Save the text as",
        value=str(file.path or ""),
        placeholder="story.txt",
        check=_file_complaint,
    )
    answer = await app.push_screen_wait(ask)
    return Path(answer).expanduser() if answer else None


async def _over(app: App[int], path: Path, why: str) -> str | None:
    answers = {"leave": "Leave it", "other": "Another name", "over": "Write over it"}
    return await app.push_screen_wait(Confirm("Save", f"{path} {why}.", answers))


async def folder_for_session(app: App[int]) -> Path | None:
    """The folder to go on saving the session in."""
    ask = AskLine("Save the session in", placeholder="a folder", check=_folder_complaint)
    answer = await app.push_screen_wait(ask)
    return Path(answer).expanduser() if answer else None


async def title_for_session(app: App[int], title: str) -> str | None:
    """The session's title."""
    return await app.push_screen_wait(AskLine("Title", value=title)) or None


async def stop_strings(app: App[int], stops: tuple[str, ...]) -> tuple[str, ...] | None:
    """The stop strings."""
    note = "One a line; \\n is a line end, \\t a tab. The completion ends before any of them."
    ask = AskLines("Stop strings", value=stops_shown(stops), note=note)
    answer = await app.push_screen_wait(ask)
    return None if answer is None else stops_read(answer)


async def system_message(app: App[int], text: str) -> str | None:
    """The session's system message."""
    note = "Conversations begin with it. Empty: as the model's own template begins them."
    return await app.push_screen_wait(AskLines("System message", value=text, note=note))


async def which_sampler(app: App[int]) -> str | None:
    """The name of the setting that switches a further sampler on."""
    choices = {setting.name: (setting.label, setting.help) for setting in MORE}
    return await app.push_screen_wait(Choose("More samplers", choices))


async def whether_to_fork(app: App[int], why: str) -> bool:
    """Whether to continue in a copy of a session that cannot be written."""
    answers = {"leave": "Only look at it", "fork": "Fork it"}
    question = f"{why} A fork begins with all of it and is your own."
    return await app.push_screen_wait(Confirm("Read-only", question, answers)) == "fork"


async def which_text_to_begin_with(app: App[int], name: str) -> bool:
    """Whether to open a file's session although the file was changed by another program."""
    answers = {"file": "Begin with the file", "session": "Open the session"}
    question = f"{name} changed on the disk since its session was left."
    return await app.push_screen_wait(Confirm("Two texts", question, answers)) == "session"


async def whether_to_write(app: App[int], name: str, behind: int) -> str | None:
    """What to do on leaving with a file that lacks some of the text: "write", "leave", or
    "stay".
    """
    answers = {"stay": "Stay", "write": "Write it", "leave": "Leave it so"}
    question = f"{name} is {behind:,} characters behind the text. The session keeps all of it."
    return await app.push_screen_wait(Confirm("Leave", question, answers))


async def whether_to_paste_all(app: App[int], kept: int, left: int) -> bool:
    """Whether to paste all of a very long text."""
    question = (
        f"{kept:,} characters were pasted and {left:,} are left. "
        "That much text makes every key slow."
    )
    answers = {"leave": "Leave the rest", "all": "Paste all of it"}
    return await app.push_screen_wait(Confirm("A long paste", question, answers)) == "all"


def edited_outside(app: App[int], text: str) -> str:
    """The text after editing in the person's own editor, which gets the terminal. Raises
    Trouble.
    """
    guard = app.guard if isinstance(app, GuardedApp) else None
    trouble: Trouble | None = None
    try:
        with app.suspend(), guard.lent() if guard else nullcontext():
            try:
                text = text_file.edit_outside(text)
            except Trouble as caught:  # an error would leave Textual suspended
                trouble = caught
    except SuspendNotSupported:
        raise Trouble("this terminal cannot be lent to another program") from None
    if trouble is not None:
        raise trouble
    return text


def _folder_complaint(text: str) -> str:
    """Why nothing can be saved in a folder; empty when it can."""
    folder = Path(text).expanduser()
    if not text.strip() or not folder.is_dir():
        return f"there is no folder {text}"
    return "" if os.access(folder, os.W_OK) else f"{text} cannot be written to"


def _file_complaint(text: str) -> str:
    """Why a text file cannot be put there; empty when it can."""
    path = Path(text).expanduser()
    if not text.strip():
        return "a name is wanted"
    if path.is_dir():
        return f"{path} is a folder"
    return "" if path.absolute().parent.is_dir() else f"there is no folder {path.parent}"
