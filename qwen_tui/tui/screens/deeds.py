"""What the studio's actions do, one short method each.

Law: nothing a person typed is lost: before the head moves, typing that waits is kept in the tree.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from textual.app import SuspendNotSupported
from textual.screen import Screen

from qwen_tui.session import library
from qwen_tui.tui import files, fold, talk
from qwen_tui.tui.doors import Desk
from qwen_tui.tui.screens.dialogs import AskLine, AskLines, Confirm, stops_read, stops_shown
from qwen_tui.tui.screens.models import Models
from qwen_tui.tui.screens.sessions import Sessions
from qwen_tui.tui.widgets.editor import Editor
from qwen_tui.tui.writer import Wish
from qwen_tui.types import Mode, Trouble
from qwen_tui.visible import strip_controls

if TYPE_CHECKING:
    from qwen_tui.tui.screens.studio import Studio

SEVERAL = 4
"""How many completions `several` asks for when the control says one."""


class Deeds(Screen[None]):
    """The actions of the studio; a part of it, for it alone."""

    @property
    def _studio(self) -> Studio:
        return cast("Studio", self)

    # -- writing -----------------------------------------------------------------------------------

    def action_generate(self) -> None:
        """Go on from the end of the document, which a finished completion is part of."""
        studio = self._studio
        if studio.writer.running and not studio.dirty:
            studio.notify("Still writing. Esc stops, Ctrl+R begins again.", timeout=3)
            return
        self._generate(studio.dials.controls.branches)

    def action_several(self) -> None:
        """Ask for several completions of the same text."""
        studio = self._studio
        branches = studio.dials.controls.branches
        if not self._commit_typing() and studio.desk.session.completion is not None:
            self._ask(branches if branches > 1 else SEVERAL, again=True)
        else:
            self._ask(branches if branches > 1 else SEVERAL)

    def action_regenerate(self) -> None:
        """Complete the same text once more."""
        if self._commit_typing():
            self._ask(self._studio.dials.controls.branches)
        else:
            self._ask(self._studio.dials.controls.branches, again=True)

    def _generate(self, branches: int) -> None:
        studio = self._studio
        if studio.chatting:
            self._send(branches)
            return
        if studio.desk.session.vocab is None:
            self._ask(branches, text=studio.editor.text if studio.dirty else None)
            return
        if not self._commit_typing() and studio.desk.session.tail:
            studio.desk.session.accept()
        studio.show_document()
        self._ask(branches)
        if studio.folded and studio.pane == "editor":
            studio.go_to_pane("output")

    def _ask(self, branches: int, *, again: bool = False, text: str | None = None) -> None:
        studio = self._studio
        studio.output.cursor = None
        studio.output.follow = True
        opened = studio.writer.opened
        if branches > 1 and opened is not None and not opened.abilities.branches:
            studio.notify("This model completes one at a time.", severity="warning")
            branches = 1
        if studio.doors.play:
            studio.notify("This is a playback. Open the session to go on with it.", timeout=4)
            return
        if studio.doors.runner.state == "failed":
            studio.loader.begin(studio.settings)
        mode: Mode = "chat" if studio.chatting else "complete"
        studio.writer.ask(Wish(studio.dials.controls, branches, again, mode, text))
        studio.sync()

    def _send(self, branches: int) -> None:
        """In a chat: say what was typed, and let the model answer; with nothing typed, let it go on
        with its answer.
        """
        studio = self._studio
        session, text = studio.desk.session, studio.editor.text
        try:
            if session.vocab is None:
                raise Trouble("the model is not open yet", hint="what you typed stays here")
            if text:
                talk.say(session, session.vocab, text)
            elif not talk.is_chat(session):
                raise Trouble("nothing is said yet", hint="type a message first")
            else:
                session.accept()
        except Trouble as trouble:
            studio.show_trouble(trouble)
            return
        studio.editor.set_text("")
        self.keep_draft()
        self._ask(branches)

    def action_chat(self) -> None:
        """Turn to chat, or back to the document; each remembers where it stood."""
        studio = self._studio
        vocab = studio.desk.session.vocab
        if not studio.chatting and (vocab is None or vocab.chat_template is None):
            studio.show_trouble(
                talk.NO_TEMPLATE if vocab is not None else Trouble("the model is not open yet")
            )
            return
        studio.turn_to(chatting=not studio.chatting)

    def _commit_typing(self) -> bool:
        """Make what was typed the document; False when nothing was."""
        studio = self._studio
        if not studio.dirty:
            return False
        studio.desk.session.commit(studio.editor.text)
        studio.editor.set_text(studio.desk.session.text)
        self.keep_draft()
        return True

    def _keep_typing(self) -> None:
        """Before the head moves elsewhere: what was typed stays in the tree, as a road."""
        studio = self._studio
        if studio.dirty:
            studio.desk.session.commit(studio.editor.text)
            studio.desk.session.undo()
            self.keep_draft()

    def keep_draft(self) -> None:
        """Hand what stands in the editor to the draft journal."""
        studio = self._studio
        drafts, session = studio.desk.drafts, studio.desk.session
        if drafts is not None:
            text = studio.editor.text
            before = "" if studio.chatting else session.text
            drafts.note(session.head, before, text, studio.editor.caret)

    def can_leave(self) -> bool:
        """Whether Esc has anything to leave or to stop."""
        studio = self._studio
        return (
            studio.writer.running
            or studio.writer.waiting
            or studio.notice.shown
            or studio.pane != "editor"
            or studio.output.cursor is not None
        )

    def action_stop(self) -> None:
        """Leave what is innermost: typing a value, the inspector, a generation, a notice."""
        studio = self._studio
        if studio.dials.leave_typing():
            return
        if studio.writer.running or studio.writer.waiting:
            studio.writer.stop()
        elif studio.notice.shown:
            studio.notice.action_close()
        else:
            studio.output.cursor = None
            studio.go_to_pane("editor")
        studio.refresh_bindings()

    def action_copy_or_stop(self) -> None:
        """Copy a selection, or the token's text in the inspector; with none, stop."""
        studio = self._studio
        chosen = studio.editor.selected_text if studio.focused is studio.editor else ""
        chosen = chosen or studio.get_selected_text() or ""
        if chosen:
            text, lost = strip_controls(chosen)
            studio.app.copy_to_clipboard(text)
            said = f"Copied {len(text):,} characters"
            studio.notify(f"{said}; {lost} control characters left out" if lost else said)
        elif studio.writer.running or studio.writer.waiting:
            studio.writer.stop()
        else:
            studio.notify("Nothing is selected. Ctrl+Q leaves.", timeout=3)

    def action_accept(self) -> None:
        """Move the whole completion into the document."""
        studio = self._studio
        if studio.desk.session.accept():
            self._after_move()
            studio.go_to_pane("editor")

    def action_accept_word(self) -> None:
        """Move the next word into the document."""
        if self._studio.desk.session.accept_word():
            self._after_move()

    def action_undo(self) -> None:
        """Typing first, then the head."""
        studio = self._studio
        if (studio.dirty or studio.chatting) and studio.editor.can_undo:
            studio.editor.action_undo()
        elif studio.dirty:
            self._keep_typing()
            self._after_move()
        elif studio.desk.session.undo():
            self._after_move()

    def action_redo(self) -> None:
        """What was undone, again."""
        studio = self._studio
        if studio.editor.can_redo:
            studio.editor.action_redo()
        elif studio.desk.session.redo():
            self._after_move()

    def _after_move(self) -> None:
        studio = self._studio
        studio.output.cursor = None
        studio.show_document()
        if not studio.chatting:
            studio.editor.caret = studio.editor.size_in_characters

    # -- other roads -------------------------------------------------------------------------------

    def action_sibling_next(self) -> None:
        """The next completion of the same text."""
        self._keep_typing()
        if self._studio.desk.session.next():
            self._after_move()

    def action_sibling_previous(self) -> None:
        """The one before."""
        self._keep_typing()
        if self._studio.desk.session.previous():
            self._after_move()

    def action_parent(self) -> None:
        """Back to where this text forked."""
        self._keep_typing()
        if self._studio.desk.session.parent():
            self._after_move()

    def action_child(self) -> None:
        """On along the newest road."""
        self._keep_typing()
        if self._studio.desk.session.child():
            self._after_move()

    def show_sibling(self, place: int) -> None:
        """Show one of the tabs."""
        session = self._studio.desk.session
        completions = session.completions()
        if place < len(completions):
            self._keep_typing()
            session.show(completions[place])
            self._after_move()

    def go_there(self, node: str, at: int) -> None:
        """Make the document end at a place of the tree."""
        self._keep_typing()
        self._studio.desk.session.go(node, at)
        self._after_move()

    def hide_road(self, node: str) -> None:
        """Hide a node and what follows from it."""
        self._keep_typing()
        self._studio.desk.session.hide(node)
        self._after_move()
        self._studio.notify("Hidden, not erased.", timeout=3)

    def action_branches(self) -> None:
        """Open the tree of roads, or close it."""
        studio = self._studio
        studio.roads_open = not studio.roads_open
        if studio.roads_open:
            studio.branches.show(studio.desk.session.tree, studio.desk.session.head)
            studio.go_to_pane("branches")
        else:
            studio.go_to_pane("editor")

    # -- tokens ------------------------------------------------------------------------------------

    def action_inspect(self) -> None:
        """Go to the token inspector, or back."""
        studio = self._studio
        if studio.pane == "choices":
            self.action_stop()
            return
        if studio.roads_open:
            studio.roads_open = False
        if studio.output.cursor is None:
            studio.output.cursor = 0
        studio.go_to_pane("choices")

    def take_choice(self, at: int, choice: int) -> None:
        """Take another token than the one that stands at `at` of the completion, and go on."""
        studio = self._studio
        session = studio.desk.session
        self._keep_typing()
        try:
            node, index = session.locate(session.head.at + at)
            session.fork(node, index, session.tree[node].tokens[index].choices[choice])
        except (Trouble, IndexError) as error:
            trouble = error if isinstance(error, Trouble) else Trouble("that token is gone")
            studio.show_trouble(trouble)
            return
        self._after_move()
        self._ask(1)
        studio.go_to_pane("output")

    def action_heat(self) -> None:
        """Colour tokens by probability, or not."""
        studio = self._studio
        studio.output.show_heat = not studio.output.show_heat
        studio.sync()
        studio.show_legend()

    # -- sampling ----------------------------------------------------------------------------------

    def action_dials(self) -> None:
        """Go to the controls, or back."""
        studio = self._studio
        studio.roads_open = False
        studio.go_to_pane("editor" if studio.pane == "dials" else "dials")

    def action_neutralise(self) -> None:
        """Switch every stage off."""
        self._studio.dials.neutralise()
        self._studio.notify("Sampling is neutral: the model's own distribution.", timeout=3)

    def action_next_preset(self) -> None:
        """Set the controls from the next preset."""
        self._studio.dials.next_preset()
        self._studio.notify(f"Preset: {self._studio.dials.preset_label()}", timeout=3)

    def action_fix_seed(self) -> None:
        """Keep the last seed, or take a fresh one each time."""
        dials = self._studio.dials
        dials.toggle_seed()
        seed = dials.controls.sampling.seed
        self._studio.notify(
            "A fresh seed each time." if seed is None else f"Seed {seed} stays.", timeout=3
        )

    def edit_stops(self) -> None:
        """Ask for the stop strings."""
        dials = self._studio.dials

        def answer(text: str | None) -> None:
            if text is not None:
                dials.take_stops(stops_read(text))

        note = "One a line; \\n is a line end, \\t a tab. The completion ends before any of them."
        self._studio.app.push_screen(
            AskLines("Stop strings", value=stops_shown(dials.controls.stop), note=note), answer
        )

    # -- view --------------------------------------------------------------------------------------

    def action_next_pane(self) -> None:
        """Around the panes."""
        studio = self._studio
        studio.go_to_pane(fold.after(studio.pane, roads=studio.roads_open))

    def action_find(self) -> None:
        """Open the find bar."""
        from qwen_tui.tui.widgets.find import FindBar

        self._studio.go_to_pane("editor")
        self._studio.query_one(FindBar).open(self._studio.editor)

    # -- models ------------------------------------------------------------------------------------

    def action_models(self, note: str = "") -> None:
        """Choose another model."""
        self._studio.app.push_screen(Models(note=note), self._chosen_model)

    def _chosen_model(self, name: str | None) -> None:
        studio = self._studio
        if not name:
            return
        studio.writer.stop()
        waiting = studio.writer.wish
        studio.settings = replace(studio.settings, model=name, backend="local")
        studio.writer.settings = studio.settings
        studio.writer.lost()
        studio.writer.wish = waiting
        studio.notice.tell("")
        studio.loader.begin(studio.settings, swap=True)
        studio.sync()

    # -- sessions ----------------------------------------------------------------------------------

    def action_new(self) -> None:
        """Begin an empty session."""
        self._open(None)

    def action_sessions(self) -> None:
        """List the sessions, and open one."""

        def answer(path: Path | None) -> None:
            if path is not None:
                self._open(path)

        self._studio.desk.flush()
        current = self._studio.desk.path
        self._studio.app.push_screen(Sessions(current=current), answer)

    def _open(self, path: Path | None) -> None:
        studio = self._studio
        try:
            desk = studio.doors.open_desk(path)
        except Trouble as trouble:
            studio.show_trouble(trouble)
            return
        self.keep_draft()
        self.put_on_desk(desk)

    def put_on_desk(self, desk: Desk) -> None:
        """Work on another session from here on; the old one is saved and let go."""
        studio = self._studio
        old, writer, clean = studio.desk, studio.writer, not studio.dirty
        studio.desk = desk
        desk.session.vocab = old.session.vocab
        studio.writer = studio.make_writer()
        studio.writer.opened = writer.opened
        studio.file = None

        async def let_go() -> None:
            writer.stop()
            await writer.settle()
            await asyncio.to_thread(old.close, committed=clean)

        studio.run_worker(let_go(), exit_on_error=False)
        studio.restore()

    def action_fork_session(self) -> None:
        """Begin a session of one's own with everything this one holds."""
        studio = self._studio
        session = library.fork(studio.desk.session)
        store = library.new_store(session) if studio.settings.save else None
        self.keep_draft()
        self.put_on_desk(Desk(session, store))
        studio.notify("A session of your own now.", timeout=3)

    def action_rename(self) -> None:
        """Give the session a title."""
        studio = self._studio

        def answer(title: str | None) -> None:
            if title:
                studio.desk.session.rename(title)
                studio.sync()

        studio.app.push_screen(AskLine("Title", value=studio.desk.session.title), answer)

    # -- the document as a file --------------------------------------------------------------------

    def action_save_as(self) -> None:
        """Write the text to its file; without one, or when it changed there, ask first."""
        studio = self._studio
        if studio.file is None:
            studio.app.push_screen(
                AskLine("Save the text as", placeholder="story.txt", check=_place_complaint),
                self._save_where,
            )
        elif files.Seen.of(studio.file) != studio.seen:
            self._ask_over(studio.file, "changed on the disk since it was read")
        else:
            self._save(studio.file)

    def _save_where(self, answer: str | None) -> None:
        if not answer:
            return
        path = Path(answer).expanduser()
        if path.exists():
            self._ask_over(path, "is there already")
        else:
            self._save(path)

    def _ask_over(self, path: Path, why: str) -> None:
        def answer(chosen: str | None) -> None:
            if chosen == "over":
                self._save(path)
            elif chosen == "other":
                self._studio.file = None
                self.action_save_as()

        answers = {"leave": "Leave it", "other": "Another name", "over": "Write over it"}
        self._studio.app.push_screen(Confirm("Save", f"{path} {why}.", answers), answer)

    def _save(self, path: Path) -> None:
        studio = self._studio
        try:
            studio.seen = files.write_text(path, studio.editor.text)
        except Trouble as trouble:
            studio.show_trouble(trouble)
            return
        studio.file = path
        studio.notify(f"Wrote {len(studio.editor.text):,} characters.", timeout=3)
        studio.sync()

    def action_edit_outside(self) -> None:
        """Lend the terminal to the person's editor."""
        studio = self._studio
        guard = studio.qwen.guard
        text = studio.editor.text
        try:
            with studio.app.suspend(), guard.lent() if guard else nullcontext():
                edited = files.edit_outside(text)
        except SuspendNotSupported:
            studio.show_trouble(Trouble("this terminal cannot be lent to another program"))
            return
        except Trouble as trouble:
            studio.show_trouble(trouble)
            return
        if edited != text:
            studio.desk.session.commit(edited)
            self._after_move()
        studio.editor.focus()

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
        self._studio.app.push_screen(Confirm("A long paste", question, answers), answer)


def _place_complaint(text: str) -> str:
    """Why a text file cannot be put there; empty when it can."""
    path = Path(text).expanduser()
    if not text.strip():
        return "a name is wanted"
    if path.is_dir():
        return f"{path} is a folder"
    return "" if path.absolute().parent.is_dir() else f"there is no folder {path.parent}"
