"""What a person does around the text: panes, models, sessions, files, the outside editor.

Law: a session that is left is saved first; a file that changed is never written over unasked.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from textual.app import SuspendNotSupported

from qwen_tui.safe_text import visible
from qwen_tui.session import library
from qwen_tui.session.opening import OpenSession, new_store
from qwen_tui.tui.screens.dialogs import AskLine, Confirm
from qwen_tui.tui.screens.models import Models
from qwen_tui.tui.screens.sessions import Sessions
from qwen_tui.tui.studio import layout, text_file
from qwen_tui.tui.studio.writing import Writing
from qwen_tui.tui.terminal.guarded_app import GuardedApp
from qwen_tui.tui.widgets.editor import Editor
from qwen_tui.tui.widgets.find import FindBar
from qwen_tui.types import Trouble
from qwen_tui.vocab import to_nfc


class Filing(Writing):
    """The actions on models, sessions and files."""

    def action_next_pane(self) -> None:
        """Around the panes."""
        self.go_to_pane(layout.after(self.pane, roads=self.roads_open))

    def action_find(self) -> None:
        """Open the find bar on the document and the completion."""
        needle = self.editor.selected_text
        self.go_to_pane("editor")
        self.query_one(FindBar).open(self.editor, self.output, needle=needle)

    def action_normalise(self) -> None:
        """Compose the document's characters as the model's training text was (Unicode NFC)."""
        text = to_nfc(self.editor.text)
        if text != self.editor.text:
            self.editor.select(0, self.editor.size_in_characters)
            self.editor.paste_more(text)

    # -- models ------------------------------------------------------------------------------------

    def action_models(self, note: str = "") -> None:
        """Choose another model."""
        self.app.push_screen(Models(note=note), self._chosen_model)

    def _chosen_model(self, name: str | None) -> None:
        if not name:
            return
        waiting = self.writer.wish or self.unmet
        self.unmet = None
        self.writer.stop()
        # A draft was named for one model, and seldom fits another.
        draft = self.settings.draft if name == self.settings.model else ""
        self.settings = replace(self.settings, model=name, engine="local", draft=draft)
        self.writer.settings = self.settings
        self.writer.lost()
        self.writer.wish = waiting
        self.notice.tell("")
        self.loader.begin(self.settings, swap=True)
        self.sync()

    # -- sessions ----------------------------------------------------------------------------------

    def action_new(self) -> None:
        """Begin an empty session."""
        self._open(None)

    def action_sessions(self) -> None:
        """List the sessions, and open one."""

        def answer(path: Path | None) -> None:
            if path is not None:
                self._open(path)

        self.desk.flush()
        current = self.desk.path
        self.app.push_screen(Sessions(current=current), answer)

    def _open(self, path: Path | None) -> None:
        try:
            desk = self.doors.open_desk(path)
        except Trouble as trouble:
            self.show_trouble(trouble)
            return
        self.keep_text()
        self.put_on_desk(desk)

    def put_on_desk(self, desk: OpenSession) -> None:
        """Work on another session from here on; the old one is saved and let go."""
        old, writer, clean = self.desk, self.writer, not self.dirty
        self.desk = desk
        desk.session.vocab = old.session.vocab
        self.writer = self.make_writer()
        self.writer.opened = writer.opened
        self.file = None

        async def let_go() -> None:
            writer.stop()
            await writer.settle()
            await asyncio.to_thread(old.close, committed=clean)

        self.run_worker(let_go(), exit_on_error=False)
        self.restore()

    def action_fork_session(self) -> None:
        """Begin a session of one's own with everything this one holds."""
        self.fork_session()

    def fork_session(self) -> None:
        """Put a copy of this session, saved on its own, on the desk."""
        session = library.fork(self.desk.session)
        store = new_store(session) if self.settings.save else None
        self.keep_draft()
        self.put_on_desk(OpenSession(session, store))
        self.say("A session of your own now.")

    def action_save_elsewhere(self) -> None:
        """Go on saving the session in another folder; all of it is written there."""
        store = self.desk.store
        if store is None:
            self.show_trouble(Trouble("this session is not saved at all"))
            return

        def answer(folder: str | None) -> None:
            if folder and not store.relocate(Path(folder).expanduser()):
                self.show_trouble(Trouble(f"not there either: {store.state.reason}"))

        ask = AskLine("Save the session in", placeholder="a folder", check=_folder_complaint)
        self.app.push_screen(ask, answer)

    def action_rename(self) -> None:
        """Give the session a title."""

        def answer(title: str | None) -> None:
            if title:
                self.desk.session.rename(title)
                self.sync()

        self.app.push_screen(AskLine("Title", value=self.desk.session.title), answer)

    # -- the document as a file --------------------------------------------------------------------

    def action_save_as(self) -> None:
        """Write the text to its file; without one, or when it changed there, ask first."""
        if self.file is None:
            self.action_save_text_as()
        elif text_file.Seen.of(self.file) != self.seen:
            self._ask_over(self.file, "changed on the disk since it was read")
        else:
            self._save(self.file)

    def action_save_text_as(self) -> None:
        """Ask for a name, and write the text there; it is the text's file from then on."""
        value = str(self.file) if self.file else ""
        ask = AskLine(
            "Save the text as", value=value, placeholder="story.txt", check=_place_complaint
        )
        self.app.push_screen(ask, self._save_where)

    def _save_where(self, answer: str | None) -> None:
        if not answer:
            return
        path = Path(answer).expanduser()
        if path == self.file:
            self.action_save_as()
        elif path.exists():
            self._ask_over(path, "is there already")
        else:
            self._save(path)

    def _ask_over(self, path: Path, why: str) -> None:
        def answer(chosen: str | None) -> None:
            if chosen == "over":
                self._save(path)
            elif chosen == "other":
                self.action_save_text_as()

        answers = {"leave": "Leave it", "other": "Another name", "over": "Write over it"}
        self.app.push_screen(Confirm("Save", f"{path} {why}.", answers), answer)

    def _save(self, path: Path) -> None:
        try:
            self.seen = text_file.write_text(path, self.editor.text)
        except Trouble as trouble:
            self.show_trouble(trouble)
            return
        self._belongs_to(path)
        self.say(f"Wrote {len(self.editor.text):,} characters to {visible(path.name)}.")
        self.sync()

    def _belongs_to(self, path: Path) -> None:
        """Make a file the text's own. The session bears its name, unless a person gave it one."""
        session = self.desk.session
        own = session.title not in ("", self.file.name if self.file else "")
        if not own and session.title != path.name:
            session.rename(path.name)
        self.file = path

    def action_edit_outside(self) -> None:
        """Lend the terminal to the person's editor."""
        guard = self.app.guard if isinstance(self.app, GuardedApp) else None
        text = self.editor.text
        try:
            with self.app.suspend(), guard.lent() if guard else nullcontext():
                edited = text_file.edit_outside(text)
        except SuspendNotSupported:
            self.show_trouble(Trouble("this terminal cannot be lent to another program"))
            return
        except Trouble as trouble:
            self.show_trouble(trouble)
            return
        if edited != text:
            self.desk.session.commit(edited)
            self._after_move()
        self.editor.focus()

    def ask_for_the_rest(self, message: Editor.PasteCut) -> None:
        """A very long paste: ask whether all of it is meant."""

        def answer(chosen: str | None) -> None:
            if chosen == "all":
                message.editor.paste_more(message.rest)

        question = (
            f"{message.kept:,} characters were pasted and {len(message.rest):,} are left. "
            "That much text makes every key slow."
        )
        answers = {"leave": "Leave the rest", "all": "Paste all of it"}
        self.app.push_screen(Confirm("A long paste", question, answers), answer)


def _folder_complaint(text: str) -> str:
    """Why nothing can be saved in a folder; empty when it can."""
    folder = Path(text).expanduser()
    if not text.strip() or not folder.is_dir():
        return f"there is no folder {text}"
    return "" if os.access(folder, os.W_OK) else f"{text} cannot be written to"


def _place_complaint(text: str) -> str:
    """Why a text file cannot be put there; empty when it can."""
    path = Path(text).expanduser()
    if not text.strip():
        return "a name is wanted"
    if path.is_dir():
        return f"{path} is a folder"
    return "" if path.absolute().parent.is_dir() else f"there is no folder {path.parent}"
