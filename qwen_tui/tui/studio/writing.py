"""What a person does with the text: continue, stop, accept, undo, take other roads, turn the dials.

Law: nothing a person typed is lost: before the head moves, typing that waits is kept in the tree.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from qwen_tui.context_window import Truncate
from qwen_tui.safe_text import strip_controls
from qwen_tui.tui.screens.dialogs import AskLines, Confirm, stops_read, stops_shown
from qwen_tui.tui.studio import chat
from qwen_tui.tui.studio.generation import Wish
from qwen_tui.tui.studio.inline import Inline
from qwen_tui.types import Mode, Trouble

SHORTENED: Final[dict[Truncate | None, str]] = {
    None: "A prompt longer than the context is refused.",
    "left": "Of a prompt longer than the context the end is sent.",
    "middle": "Of a prompt longer than the context the beginning and the end are sent.",
}
SEVERAL: Final = 4
"""How many completions `several` asks for when the control says one."""


class Writing(Inline):
    """The actions on text, roads, tokens and sampling."""

    def action_generate(self) -> None:
        """Go on from the end of the document, which a finished completion is part of."""
        if self.writer.running and not self.dirty:
            stop, again = self.key_of("stop"), self.key_of("regenerate")
            self.say(f"Still writing. {stop} stops, {again} begins again.")
            return
        self._generate(self.dials.controls.branches)

    def action_several(self) -> None:
        """Ask for several completions of the same text."""
        branches = self.dials.controls.branches
        self._ask_again(branches if branches > 1 else SEVERAL)

    def action_regenerate(self) -> None:
        """Complete the same text once more."""
        self._ask_again(self.dials.controls.branches)

    def _ask_again(self, branches: int) -> None:
        """Complete the text: once more where a completion stands there, else for the first time."""
        if self.desk.session.vocab is None:
            self._ask(branches, text=self.editor.text if self.dirty else None)
        elif self._commit_typing():
            self._ask(branches)
        else:
            self._ask(branches, again=self.regenerates())

    def regenerates(self) -> bool:
        """There is a completion, shown or just accepted, that can be asked for again."""
        session = self.desk.session
        last = session.tree.resolve(*session.head).node
        return session.completion is not None or (
            last is not None and session.tree[last].source == "model"
        )

    def _generate(self, branches: int) -> None:
        if self.chatting:
            self._send(branches)
            return
        if self.desk.session.vocab is None:
            self._ask(branches, text=self.editor.text if self.dirty else None)
            return
        if not self._commit_typing() and self.desk.session.tail:
            self.desk.session.accept()
        self.show_document()
        self._ask(branches)
        if self.folded and self.pane == "editor" and not self.within:
            self.go_to_pane("output")

    def _ask(self, branches: int, *, again: bool = False, text: str | None = None) -> None:
        self.output.cursor = None
        self.output.follow = True
        opened = self.writer.opened
        if branches > 1 and opened is not None and not opened.abilities.branches:
            self.say("This model completes one at a time.")
            branches = 1
        if self.doors.play:
            self.say("This is a playback. Open the session to go on with it.", seconds=4)
            return
        if self.desk.read_only:
            self.offer_fork()
            return
        if self.loader.failed:
            self.loader.begin(self.settings)
        mode: Mode = "chat" if self.chatting else "complete"
        if self.within:
            self.editor.to_the_end()
        self.writer.ask(Wish(self.dials.controls, branches, again, mode, text))
        self.sync()

    def offer_fork(self) -> None:
        """A session that cannot be written: ask whether to go on in one of one's own."""

        def answer(chosen: str | None) -> None:
            if chosen == "fork":
                self.fork_session()

        answers = {"leave": "Only look at it", "fork": "Fork it"}
        question = f"{self.desk.read_only}. A fork begins with all of it and is your own."
        self.app.push_screen(Confirm("Read-only", question, answers), answer)

    def fork_session(self) -> None:
        """Go on in a session of one's own; how is known where sessions are kept."""

    def _send(self, branches: int) -> None:
        """In a chat: say what was typed, and let the model answer; with nothing typed, let it go on
        with its answer.
        """
        session, text = self.desk.session, self.editor.text
        try:
            if session.vocab is None:
                raise Trouble("the model is not open yet", hint="what you typed stays here")
            if text:
                chat.say(session, session.vocab, text)
            elif not chat.is_chat(session):
                raise Trouble("nothing is said yet", hint="type a message first")
            else:
                session.accept()
        except Trouble as trouble:
            self.show_trouble(trouble)
            return
        self.editor.set_text("")
        self.keep_draft()
        self._ask(branches)

    def action_chat(self) -> None:
        """Turn to chat, or back to the document; each remembers where it stood."""
        vocab = self.desk.session.vocab
        if not self.chatting and (vocab is None or vocab.chat_template is None):
            self.show_trouble(
                chat.NO_TEMPLATE if vocab is not None else Trouble("the model is not open yet")
            )
            return
        self.turn_to(chatting=not self.chatting)

    def _commit_typing(self) -> bool:
        """Make what was typed the document; False when nothing was."""
        if not self.dirty:
            return False
        self.desk.session.commit(self.editor.text)
        self.editor.set_text(self.desk.session.text)
        self.keep_draft()
        return True

    def _keep_typing(self) -> None:
        """Before the head moves elsewhere: what was typed stays in the tree, as a road."""
        if self.dirty:
            self.desk.session.commit(self.editor.text)
            self.desk.session.undo()
            self.keep_draft()

    def keep_text(self) -> None:
        """Before a session is left: typing waits in its draft, and a session that has no file yet
        gets one, for nobody would find the draft of a session that is in no list.
        """
        if self.dirty and not len(self.desk.session.tree):
            self._commit_typing()
        self.keep_draft()

    def keep_draft(self) -> None:
        """Hand what stands in the editor to the draft journal."""
        drafts, session = self.desk.drafts, self.desk.session
        if drafts is not None:
            text = self.editor.text
            before = "" if self.chatting else session.text
            drafts.note(session.head, before, text, min(self.editor.caret, len(text)))

    def can_leave(self) -> bool:
        """Whether Esc has anything to leave or to stop."""
        return (
            self.writer.running
            or self.writer.waiting
            or self.notice.shown
            or self.pane != "editor"
            or self.output.cursor is not None
        )

    def action_stop(self) -> None:
        """Leave what is innermost: typing a value, the inspector, a generation, a notice."""
        if self.dials.leave_typing():
            return
        if self.writer.running or self.writer.waiting:
            self.writer.stop()
        elif self.notice.shown:
            self.notice.action_close()
        else:
            self.output.cursor = None
            self.go_to_pane("editor")
        self.refresh_bindings()

    def action_copy_or_stop(self) -> None:
        """Copy a selection, or the token's text in the inspector; with none, stop."""
        chosen = self.editor.selected_text if self.pane == "editor" else ""
        chosen = chosen or self.get_selected_text() or ""
        if chosen:
            text, lost = strip_controls(chosen)
            self.app.copy_to_clipboard(text)
            said = f"Copied {len(text):,} characters"
            self.say(f"{said}; {lost} control characters left out" if lost else said)
        elif self.writer.running or self.writer.waiting:
            self.writer.stop()
        else:
            self.say(f"Nothing is selected. {self.key_of('quit')} leaves.")

    def action_accept(self) -> None:
        """Move the whole completion into the document."""
        if self.desk.session.accept():
            self._after_move()
            self.go_to_pane("editor")

    def action_accept_word(self) -> None:
        """Move the next word into the document."""
        if self.desk.session.accept_word():
            self._after_move()

    def action_undo(self) -> None:
        """Typing first, then the head."""
        if (self.dirty or self.chatting) and self.editor.can_undo:
            self.editor.action_undo()
        elif self.dirty:
            self._keep_typing()
            self._after_move()
        elif self.desk.session.undo():
            self._after_move()

    def action_redo(self) -> None:
        """What was undone, again."""
        if self.editor.can_redo:
            self.editor.action_redo()
        elif self.desk.session.redo():
            self._after_move()

    def _after_move(self) -> None:
        self.output.cursor = None
        self.show_document()
        if not self.chatting:
            self.editor.caret = self.editor.size_in_characters

    def _after_turn(self) -> None:
        self._after_move()
        if self.within:
            self.editor.to_the_end()

    # -- other roads -------------------------------------------------------------------------------

    def action_sibling_next(self) -> None:
        """The next completion of the same text."""
        self._keep_typing()
        if self.desk.session.next():
            self._after_turn()

    def action_sibling_previous(self) -> None:
        """The one before."""
        self._keep_typing()
        if self.desk.session.previous():
            self._after_turn()

    def action_parent(self) -> None:
        """Back to where this text forked."""
        self._keep_typing()
        if self.desk.session.parent():
            self._after_move()

    def action_child(self) -> None:
        """On along the newest road."""
        self._keep_typing()
        if self.desk.session.child():
            self._after_move()

    def show_sibling(self, place: int) -> None:
        """Show one of the tabs."""
        session = self.desk.session
        completions = session.completions()
        if place < len(completions):
            self._keep_typing()
            session.show(completions[place])
            self._after_turn()

    def go_there(self, node: str, at: int) -> None:
        """Make the document end at a place of the tree."""
        self._keep_typing()
        self.desk.session.go(node, at)
        self._after_move()

    def hide_road(self, node: str) -> None:
        """Hide a node and what follows from it."""
        self._keep_typing()
        self.desk.session.hide(node)
        self._after_move()
        self.say("Hidden, not erased.")

    def action_branches(self) -> None:
        """Open the tree of roads, or close it."""
        self.roads_open = not self.roads_open
        if self.roads_open:
            self.branches.show(self.desk.session.tree, self.desk.session.head)
            self.go_to_pane("branches")
        else:
            self.go_to_pane("editor")

    # -- tokens ------------------------------------------------------------------------------------

    def action_inspect(self) -> None:
        """Go to the token inspector, or back."""
        if self.pane == "choices":
            self.action_stop()
            return
        if self.roads_open:
            self.roads_open = False
        if self.output.cursor is None:
            self.output.cursor = 0
        self.go_to_pane("choices")

    def take_choice(self, at: int, choice: int) -> None:
        """Take another token than the one that stands at `at` of the completion, and go on."""
        session = self.desk.session
        self._keep_typing()
        try:
            node, index = session.locate(session.head.at + at)
            session.fork(node, index, session.tree[node].tokens[index].choices[choice])
        except (Trouble, IndexError) as error:
            trouble = error if isinstance(error, Trouble) else Trouble("that token is gone")
            self.show_trouble(trouble)
            return
        self._after_move()
        self._ask(1)
        self.go_to_pane("editor" if self.within else "output")

    def action_heat(self) -> None:
        """Colour tokens by probability, or not."""
        self.output.show_heat = not self.output.show_heat
        self.sync()
        self.show_legend()

    # -- sampling ----------------------------------------------------------------------------------

    def action_dials(self) -> None:
        """Go to the controls, or back."""
        self.roads_open = False
        self.go_to_pane("editor" if self.pane == "dials" else "dials")

    def action_neutralise(self) -> None:
        """Switch every stage off."""
        self.dials.neutralise()
        self.say("Sampling is neutral: the model's own distribution.")

    def action_next_preset(self) -> None:
        """Set the controls from the next preset."""
        self.dials.next_preset()
        self.say(f"Preset: {self.dials.preset_label()}")

    def action_fix_seed(self) -> None:
        """Keep the last seed, or take a fresh one each time."""
        dials = self.dials
        dials.toggle_seed()
        seed = dials.controls.sampling.seed
        self.say("A fresh seed each time." if seed is None else f"Seed {seed} stays.")

    def action_shorten(self) -> None:
        """Turn through what becomes of a prompt that is longer than the context."""
        turns: dict[Truncate | None, Truncate | None]
        turns = {None: "left", "left": "middle", "middle": None}
        side = turns[self.settings.truncate]
        self.settings = self.writer.settings = replace(self.settings, truncate=side)
        self.say(SHORTENED[side])

    def edit_stops(self) -> None:
        """Ask for the stop strings."""
        dials = self.dials

        def answer(text: str | None) -> None:
            if text is not None:
                dials.take_stops(stops_read(text))

        note = "One a line; \\n is a line end, \\t a tab. The completion ends before any of them."
        self.app.push_screen(
            AskLines("Stop strings", value=stops_shown(dials.controls.stop), note=note), answer
        )
