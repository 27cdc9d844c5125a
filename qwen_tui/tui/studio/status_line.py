"""The bottom of the studio: notices that stay, the status line, the keys that work now."""

from __future__ import annotations

from collections.abc import Callable

from textual.app import ComposeResult
from textual.containers import Vertical

from qwen_tui.tui.facts import StatusFacts
from qwen_tui.tui.studio.announcement import Announcement
from qwen_tui.tui.widgets.status import KeyLine, Notice, Status


class StatusLine(Vertical):
    """Shows the status, and above it notices."""

    def __init__(self, shows_key_of: Callable[[str], bool]) -> None:
        """`shows_key_of`: whether an action's key is shown while it works."""
        super().__init__()
        self.failure = Notice(closable=False)
        """Why the session is not saved; it stays until it is."""
        self.notice = Notice()
        self.status = Status()
        self.keys = KeyLine(shows_key_of)

    def compose(self) -> ComposeResult:
        """Notices on top, the keys at the bottom of the screen."""
        yield self.failure
        yield self.notice
        yield self.status
        yield self.keys

    def say(self, announcement: Announcement) -> bool:
        """Show a brief message in place of the keys; False if there is no room."""
        return self.keys.say(announcement.text, announcement.seconds)

    def show(self, facts: StatusFacts) -> None:
        """Show the status."""
        self.status.facts = facts

    def tell(self, announcement: Announcement) -> None:
        """Show a notice until it is closed; one without text removes it."""
        kind = "mild" if announcement.kind == "mild" else ""
        self.notice.tell(announcement.text, announcement.hint, kind=kind)

    def show_failure(self, message: str, hint: str) -> None:
        """Show why the session is not saved; "": it is."""
        if message != self.failure.message:
            self.failure.tell(message, hint)
