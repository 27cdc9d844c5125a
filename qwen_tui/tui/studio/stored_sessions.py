"""Renames and removes sessions for the sessions screen: the studio's own session is open, others
are files.

Law: nothing is deleted; removed sessions go to the trash. Everything here raises Trouble.
"""

from __future__ import annotations

from pathlib import Path

from qwen_tui.session import library
from qwen_tui.tui.studio.announcement import Announcement
from qwen_tui.tui.studio.workspace import Workspace
from qwen_tui.types import Trouble


def rename(work: Workspace, path: Path, title: str) -> None:
    """Give a session a title."""
    if path == work.opened.path and work.opened.store is not None:
        work.session.rename(title)
        work.opened.flush()
    else:
        library.rename(path, title)


def trash(work: Workspace, path: Path) -> None:
    """Move a session to the trash; the studio's own is first replaced by an empty one."""
    if path != work.opened.path or work.opened.store is None:
        library.trash(path)
        return

    def throw_away() -> None:
        try:
            library.trash(path)
        except Trouble as trouble:
            work.tell(Announcement.of(trouble))

    opened = work.context.open_session(None)
    work.text.keep()
    work.switch(opened, throw_away)
