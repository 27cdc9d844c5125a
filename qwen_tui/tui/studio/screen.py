"""The studio screen: connects every key and message to a command of the workspace or a pane.

Law: nothing is done here; what each `action_…` does is described in `action_table.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final

from textual import events, on, work
from textual.binding import Binding, BindingType
from textual.widgets import Input

from qwen_tui.safe_text import strip_controls
from qwen_tui.tui.actions import bindings
from qwen_tui.tui.last_look import remember_look
from qwen_tui.tui.messages import GoTo, ShowSibling, TakeChoice
from qwen_tui.tui.screens.sessions import Sessions
from qwen_tui.tui.studio import chat, conversation, questions, stored_sessions, view
from qwen_tui.tui.studio.announcement import Announcement
from qwen_tui.tui.studio.document_tokens import DocumentTokens
from qwen_tui.tui.studio.workspace_screen import WorkspaceScreen
from qwen_tui.tui.terminal import clipboard
from qwen_tui.tui.terminal.guarded_app import GuardedApp
from qwen_tui.tui.widgets.alternatives import Alternatives
from qwen_tui.tui.widgets.branch_tree import BranchTree
from qwen_tui.tui.widgets.output import OutputPane
from qwen_tui.tui.widgets.sampling import SamplingControls
from qwen_tui.types import Trouble

_NOT_IN_A_LINE: Final = ("stop", "copy_or_stop", "find", "undo", "redo", "accept", "accept_word")
"""Actions whose keys an input line uses itself."""

_FROM_THE_END: Final = ("accept", "accept_word")
"""Actions whose keys belong to the editor while its cursor is before the end of the text."""
_WALKING: Final = ("completion", "alternatives", "branches")
"""The panes in which keys walk the tree; in others the editor uses these keys."""


class Studio(WorkspaceScreen):
    """The main screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings("studio"),
        Binding("tab", "app.focus_next", show=False),
    ]

    # -- what widgets say --------------------------------------------------------------------------

    def on_key(self, event: events.Key) -> None:
        """Ctrl+Enter as xterm reports it: a name that no binding can spell."""
        if event.key == "ctrl+\r":
            event.stop()
            self.action_generate()

    @on(OutputPane.TokenActivated)
    def _activated(self) -> None:
        self.action_inspect()

    @on(TakeChoice)
    def _take(self, message: TakeChoice) -> None:
        controls, tokens = self.panes.sampling.controls, self.panes.inspected
        at = message.at if tokens is None else tokens.from_end
        if self.ask(self.workspace.take_alternative, at, message.choice, controls):
            self.panes.go_to("document" if self.panes.inline else "completion")

    @on(Alternatives.AcceptTo)
    def _accept_to(self, message: Alternatives.AcceptTo) -> None:
        if self.panes.inspected is not None:
            self.say("This token is in the document already.")
        elif self.move(self.workspace.text.accept_to, message.at):
            self.panes.go_to("document")

    @on(SamplingControls.Changed)
    def _controls_changed(self) -> None:
        self.refresh_bindings()

    @on(ShowSibling)
    def _sibling(self, message: ShowSibling) -> None:
        self.turn(self.workspace.text.show_sibling, message.place)

    @on(GoTo)
    def _go(self, message: GoTo) -> None:
        self.move(self.workspace.text.go, message.node, message.at)

    @on(BranchTree.Hide)
    def _hide(self, message: BranchTree.Hide) -> None:
        self.move(self.workspace.text.hide, message.node)
        self.say(f"Hidden, not erased. {self.key_of('undo')} shows it again.")

    # -- actions: writing --------------------------------------------------------------------------

    def action_generate(self) -> None:
        asked = self.ask(self.workspace.generate, self.panes.sampling.controls)
        text = self.workspace.text
        alone = self.panes.folded and self.panes.pane == "document" and not self.panes.inline
        if asked and alone and not text.chatting and text.session.vocab is not None:
            self.panes.go_to("completion")

    def action_continue_line(self) -> None:
        self.ask(self.workspace.continue_line, self.panes.sampling.controls)

    def action_several(self) -> None:
        self.ask(self.workspace.several, self.panes.sampling.controls)

    def action_regenerate(self) -> None:
        self.ask(self.workspace.regenerate, self.panes.sampling.controls)

    def action_stop(self) -> None:
        if self.panes.sampling.panel.leave_typing() or self.do(self.workspace.stop):
            return
        if self.status_line.notice.shown:
            self.status_line.notice.action_close()
        else:
            self.panes.completion.output.cursor = None
            self.panes.go_to("document")
        self.refresh_bindings()

    def action_copy_or_stop(self) -> None:
        chosen = self.editor.selected_text if self.panes.pane == "document" else ""
        chosen = chosen or self.get_selected_text() or ""
        if chosen:
            text, lost = strip_controls(chosen)
            self.app.copy_to_clipboard(text)
            tools = self.app.copied_to if isinstance(self.app, GuardedApp) else ()
            said = f"Copied {len(text):,} characters {clipboard.said(tools)}"
            self.say(f"{said}; {lost} control characters left out" if lost else said)
        elif not self.do(self.workspace.stop):
            self.say(f"Nothing is selected. {self.key_of('quit')} leaves.")

    def action_accept(self) -> None:
        if self.move(self.workspace.accept):
            self.panes.go_to("document")

    def action_accept_word(self) -> None:
        self.move(self.workspace.text.accept_word)

    def action_undo(self) -> None:
        self.move(self.workspace.text.undo)

    def action_redo(self) -> None:
        self.move(self.workspace.text.redo)

    # -- actions: branches and tokens --------------------------------------------------------------

    def action_sibling_next(self) -> None:
        self.turn(self.workspace.text.next)

    def action_sibling_previous(self) -> None:
        self.turn(self.workspace.text.previous)

    def action_parent(self) -> None:
        self.move(self.workspace.text.parent)

    def action_child(self) -> None:
        self.move(self.workspace.text.child)

    def action_branches(self) -> None:
        self.panes.branches_open = not self.panes.branches_open
        self.sync()
        self.panes.go_to("branches" if self.panes.branches_open else "document")

    def action_inspect(self) -> None:
        if self.panes.pane == "alternatives":
            self.action_stop()
            return
        self.panes.branches_open = False
        if view.inspects_document(self.workspace, within=self._within_the_text):
            self.do(self.workspace.text.commit_typing)
            self.panes.inspect(DocumentTokens(self.workspace.session, self.editor.caret))
        elif self.panes.completion.output.cursor is None:
            self.panes.completion.output.cursor = 0
        self.panes.go_to("alternatives")

    @property
    def _within_the_text(self) -> bool:
        """Whether the cursor is in the document, before its end."""
        editor = self.editor
        return self.panes.pane == "document" and editor.caret < editor.size_in_characters

    def action_heat(self) -> None:
        self.panes.turn_heat()
        self.sync()

    # -- actions: sampling -------------------------------------------------------------------------

    def action_dials(self) -> None:
        self.panes.branches_open = False
        self.panes.go_to("document" if self.panes.pane == "sampling" else "sampling")

    @work
    async def action_more_samplers(self) -> None:
        name = await questions.which_sampler(self.app)
        if name is not None:
            self.panes.sampling.panel.switch_on(name)
            self.panes.branches_open = False
            self.panes.go_to("sampling")

    def action_neutralise(self) -> None:
        self.say(self.panes.sampling.neutralise())

    def action_next_preset(self) -> None:
        self.say(self.panes.sampling.next_preset())

    def action_fix_seed(self) -> None:
        self.say(self.panes.sampling.fix_seed())

    def action_shorten(self) -> None:
        self.do(self.workspace.shorten)

    # -- actions: sessions, models and files -------------------------------------------------------

    def action_new(self) -> None:
        self.do(self._open, None)

    def _open(self, path: Path | None) -> None:
        if self.workspace.open(path):
            self.panes.go_to("document")

    def action_sessions(self) -> None:
        self.workspace.opened.flush()
        sessions = Sessions(
            current=self.workspace.opened.path,
            rename=lambda *args: self.do(stored_sessions.rename, self.workspace, *args),
            trash=lambda path: self.do(stored_sessions.trash, self.workspace, path),
        )
        self.answer(self.app.push_screen_wait(sessions), self._open)

    def action_models(self) -> None:
        self.choose_model()

    def action_fork_session(self) -> None:
        self.do(self.workspace.fork)

    def action_rename(self) -> None:
        session = self.workspace.session
        self.answer(questions.title_for_session(self.app, session.title), session.rename)

    def action_save_elsewhere(self) -> None:
        self.answer(questions.folder_for_session(self.app), self.workspace.save_elsewhere)

    def action_save_as(self) -> None:
        where = questions.where_to_save(self.app, self.workspace.text_file)
        self.answer(where, self.workspace.save_text)

    def action_save_text_as(self) -> None:
        where = questions.another_place_to_save(self.app, self.workspace.text_file)
        self.answer(where, self.workspace.save_text)

    def action_edit_outside(self) -> None:
        text = self.workspace.text
        try:
            edited = questions.edited_outside(self.app, text.buffer.text)
        except Trouble as trouble:
            self.tell(Announcement.of(trouble))
            return
        if edited != text.buffer.text:
            self.move(text.replace, edited)
        self.editor.focus()

    def action_normalise(self) -> None:
        self.workspace.text.normalise()

    def action_chat(self) -> None:
        self.do(conversation.turn, self.workspace)

    def action_take_back_message(self) -> None:
        self.do(conversation.take_back_message, self.workspace)
        self.panes.go_to("document")

    @work
    async def action_system_message(self) -> None:
        now = chat.system_message(self.workspace.session)
        text = await questions.system_message(self.app, now)
        if text is not None:
            self.do(conversation.set_system_message, self.workspace, text)

    # -- actions: the view -------------------------------------------------------------------------

    def action_find(self) -> None:
        self.panes.find()

    def action_next_pane(self) -> None:
        self.panes.go_to_next()

    def action_inline(self) -> None:
        self.workspace.inline = not self.workspace.inline
        self.panes.completion.output.cursor = None
        self.sync()
        layout = "inline" if self.workspace.inline else "panes"
        remember_look(self.workspace.settings, "layout", layout)
        if self.panes.inline:
            self.say("Completions are written into the text.")
        self.panes.go_to("document")

    # -- which actions work now --------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether an action does anything now; only then is its key shown and handled."""
        if isinstance(self.focused, Input) and action in _NOT_IN_A_LINE:
            return False
        if action == "stop":
            return self._can_leave()
        if action == "accept" and self.panes.pane == "alternatives":
            return False  # the key accepts up to the token there
        if action in _FROM_THE_END and self.editor.has_focus and not self.editor.at_end:
            return False  # within the text the keys edit and move
        if action in ("parent", "child") and self.panes.pane not in _WALKING:
            return False
        if action == "inspect":
            in_document = view.inspects_document(self.workspace, within=self._within_the_text)
            return in_document or bool(self.panes.completion.tokens)
        return view.works(self.workspace, action)

    def _can_leave(self) -> bool:
        """Whether there is something for Esc to leave or stop."""
        return (
            self.workspace.busy
            or self.status_line.notice.shown
            or self.panes.pane != "document"
            or self.panes.completion.output.cursor is not None
        )
