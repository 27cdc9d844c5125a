"""The studio: prompt editor, streaming output, sampling controls, token inspector, status and keys.

Law: every widget is a picture of the session; messages are wired here, and nothing else is done.
"""

from __future__ import annotations

import time
from typing import ClassVar

from textual import events, on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Input, TextArea

from qwen_tui.safe_text import visible
from qwen_tui.tui.actions import BY_ID, bindings
from qwen_tui.tui.messages import Failed, GoTo, Loading, Ready, ShowSibling, TakeChoice
from qwen_tui.tui.studio.filing import Filing
from qwen_tui.tui.studio.model_loading import VocabRead
from qwen_tui.tui.studio.picture import POLL_S
from qwen_tui.tui.studio.playback import play
from qwen_tui.tui.widgets.alternatives import Alternatives
from qwen_tui.tui.widgets.branch_tree import BranchTree
from qwen_tui.tui.widgets.editor import Editor
from qwen_tui.tui.widgets.output import OutputPane
from qwen_tui.tui.widgets.sampling import Dials
from qwen_tui.tui.widgets.status import Notice, Status
from qwen_tui.types import NO_INPUT, Trouble


class Studio(Filing):
    """The main screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings("studio"),
        Binding("tab", "app.focus_next", show=False),
    ]

    def on_mount(self) -> None:
        """Show the document at once; the model is opened after the first paint."""
        self.editor = self.query_one(Editor)
        self.output = self.query_one(OutputPane)
        self.dials = self.query_one(Dials)
        self.choices = self.query_one(Alternatives)
        self.branches = self.query_one(BranchTree)
        self.status = self.query_one(Status)
        self.notice = self.query_one("#notice", Notice)
        self.editor.take_tail = self.take_tail
        self.built = True
        self.output.show_heat = self.settings.heat
        self.wear(self._heat)
        self.restore()
        self.editor.focus()
        self.set_interval(POLL_S, self.poll)
        self.call_after_refresh(self.loader.begin, self.settings)

    # -- what the engine says ----------------------------------------------------------------------

    @on(Loading)
    def _loading(self, message: Loading) -> None:
        self.estimate.update(message.progress, time.monotonic())
        self.hint()
        self.paint_status()

    @on(VocabRead)
    def _vocab_read(self, message: VocabRead) -> None:
        session = self.desk.session
        session.vocab = message.vocab
        if self.doors.text and not self.text_taken and not len(session.tree):
            # only now: without the tokenizer it would be cut into words, and cut again later
            session.commit(self.doors.text, "file" if self.file else None)
        self.text_taken = True
        if message.vocab is not None:
            self.output.special = message.special
        self.dials.checkpoint = message.checkpoint
        self.instruct = message.instruct
        self.writer.fulfil()
        self.sync()

    @on(Ready)
    def _ready(self, message: Ready) -> None:
        self.notice.tell("")
        for each in message.opened.warnings:
            self.say(each, seconds=12.0)
        self.writer.ready(message.opened)
        if self.recorded:
            entries, self.recorded = self.recorded, []
            writer = self.writer
            self.run_worker(play(entries, writer.session, writer.replay, self.show_document))
        self.sync()

    @on(Failed)
    def _failed(self, message: Failed) -> None:
        self.unmet = self.writer.wish
        self.writer.lost()
        hint = message.trouble.hint
        other = f"{self.key_of('models')} chooses another model"
        self.show_trouble(
            Trouble(message.trouble.message, hint=f"{hint} · {other}" if hint else other)
        )
        if message.trouble.code == NO_INPUT and not self.loader.asked:
            self.loader.asked = True
            self.action_models(note=message.trouble.message)
        self.sync()

    # -- what widgets say --------------------------------------------------------------------------

    def on_key(self, event: events.Key) -> None:
        """Ctrl+Enter as xterm reports it: a name that no binding can spell."""
        if event.key == "ctrl+\r":
            event.stop()
            self.action_generate()

    @on(Editor.Edited)
    def _edited(self) -> None:
        self.title_completion()
        self.show_tail()
        self.measure()
        self.keep_draft()
        self.paint_status()
        self.refresh_bindings()

    @on(TextArea.SelectionChanged)
    def _moved(self) -> None:
        self.title_document()

    @on(Editor.FindAsked)
    def _find(self) -> None:
        self.action_find()

    @on(Editor.PasteCut)
    def _paste_cut(self, message: Editor.PasteCut) -> None:
        self.ask_for_the_rest(message)

    @on(OutputPane.TokenSelected)
    def _selected(self) -> None:
        self.look()

    @on(OutputPane.TokenActivated)
    def _activated(self) -> None:
        self.action_inspect()

    @on(Alternatives.Walk)
    def _walk(self, message: Alternatives.Walk) -> None:
        self.output.action_step(message.steps)

    @on(TakeChoice)
    def _take(self, message: TakeChoice) -> None:
        self.take_choice(message.at, message.choice)

    @on(Dials.Changed)
    def _dialled(self) -> None:
        self.refresh_bindings()

    @on(Dials.EditStops)
    def _stops(self) -> None:
        self.edit_stops()

    @on(Dials.Said)
    def _dial_said(self, message: Dials.Said) -> None:
        pane = self.query_one("#dials-pane")
        pane.border_subtitle = Content(visible(message.text))
        pane.set_class(message.wrong, "-wrong")

    @on(ShowSibling)
    def _sibling(self, message: ShowSibling) -> None:
        self.show_sibling(message.place)

    @on(GoTo)
    def _go(self, message: GoTo) -> None:
        self.go_there(message.node, message.at)

    @on(BranchTree.Hide)
    def _hide(self, message: BranchTree.Hide) -> None:
        self.hide_road(message.node)

    # -- which actions work now --------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether an action does anything now; its key is shown, and taken, only then."""
        if not self.built:
            return action not in BY_ID
        typing_elsewhere = isinstance(self.focused, Input)
        match action:
            case "stop":
                return not typing_elsewhere and self.can_leave()
            case "copy_or_stop" | "find" | "undo" | "redo":
                return not typing_elsewhere
            case "accept" | "accept_word":
                return not typing_elsewhere and self.tentative
            case "regenerate":
                return self.writer.running or self.regenerates()
            case "sibling_next" | "sibling_previous":
                return len(self.desk.session.siblings()) > 1
            case "inline":
                return not self.chatting
            case "inspect":
                return bool(self.output.tokens)
        return True

    def worth_showing(self, action: str) -> bool:
        """Whether the line of keys has a place for an action that works."""
        if action == "stop":
            return self.writer.running or self.writer.waiting
        if action == "next_pane":
            return self.folded
        if action == "generate":
            return not self.writer.running or self.dirty
        return True
