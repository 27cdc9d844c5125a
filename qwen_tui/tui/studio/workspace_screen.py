"""A screen that shows a workspace: it runs commands and shows the result once.

Law: `sync` shows the whole state; after a command it runs once, however much changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.message import Message
from textual.screen import Screen
from textual.widgets import TextArea

from qwen_tui.tui.actions import BY_ID, key_name, keymap
from qwen_tui.tui.context import StudioContext
from qwen_tui.tui.recent_models import recent_models, remember_model
from qwen_tui.tui.screens.models import Models
from qwen_tui.tui.studio import questions, view
from qwen_tui.tui.studio.announcement import Announcement
from qwen_tui.tui.studio.document_pane import DocumentPane
from qwen_tui.tui.studio.model_loading import Report
from qwen_tui.tui.studio.panes import Panes
from qwen_tui.tui.studio.status_line import StatusLine
from qwen_tui.tui.studio.workspace import Workspace
from qwen_tui.tui.theme.heat import Heat
from qwen_tui.tui.widgets.editor import Editor
from qwen_tui.types import Progress, Token

POLL_S: Final = 0.25
"""Seconds between two looks at the state of saving."""
T = TypeVar("T")


class ModelReport(Message):
    """A report of opening a model, on its way from the loader's threads to the workspace."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report

    def can_replace(self, message: Message) -> bool:
        """A newer progress replaces an unread one."""
        return isinstance(message, ModelReport) and (
            isinstance(self.report, Progress) and isinstance(message.report, Progress)
        )


class WorkspaceScreen(Screen[None]):
    """The workspace, its panes, and the status line below; it has no keys."""

    def __init__(self, context: StudioContext, heat: Heat) -> None:
        super().__init__()
        settings = context.settings
        self._keys = keymap(settings.keys)[0]
        self._heat = heat
        self._commanding = False
        self._at_end = True
        self.panes = Panes(settings, self.key_of)
        self.editor = self.panes.document.editor
        self.status_line = StatusLine(self._shows_key_of)
        self.workspace = Workspace(
            context,
            self.editor,
            key_of=self.key_of,
            tell=self.tell,
            changed=self._changed,
            grew=self._grew,
            report=self._report,
        )

    def compose(self) -> ComposeResult:
        """The panes, and the status line below."""
        yield self.panes
        yield self.status_line

    def on_mount(self) -> None:
        """Show the document at once; the model is opened after the first paint."""
        self.editor.take_tail = self._take_tail
        self.panes.fit(self.app.size)
        self.use_heat(self._heat)
        self.do(self.workspace.restore)
        self.editor.focus()
        self.set_interval(POLL_S, self._poll)
        self.call_after_refresh(self.workspace.open_model)
        context = self.workspace.context
        if (newer := context.newer) is not None:
            which = questions.which_text_to_begin_with(self.app, self.workspace.text_file.name)
            self.answer(which, lambda _yes: self.workspace.open(newer))

    def key_of(self, action: str) -> str:
        """The name of an action's first key, as the person has bound it."""
        own = self._keys.get(action, "").split(",")[0]
        return key_name(own or BY_ID[action].keys[0])

    # -- what is shown -----------------------------------------------------------------------------

    def sync(self) -> None:
        """Show everything as it is now."""
        text = self.workspace.text
        text.follow_head()
        text.measure()
        self.panes.show(self.workspace)
        self._show_status()
        self.refresh_bindings()

    def _show_frames(self) -> None:
        self.panes.show_frames(self.workspace)
        self._show_status()

    def _show_status(self) -> None:
        tokens = len(self.panes.completion.tokens)
        self.status_line.show(view.facts(self.workspace, tokens))

    def use_heat(self, heat: Heat) -> None:
        """Paint with a theme's text styles."""
        self.panes.use_heat(heat, self.workspace)

    def _shows_key_of(self, action: str) -> bool:
        """Whether an action's key is shown while it works."""
        if action == "stop":
            return self.workspace.busy
        if action == "accept":
            return self.workspace.text.tentative
        if action == "next_pane":
            return self.panes.folded
        running, dirty = self.workspace.completer.running, self.workspace.text.dirty
        return action != "generate" or not running or dirty

    def tell(self, announcement: Announcement) -> None:
        """Show an announcement where its kind belongs; an offer becomes a question."""
        if announcement.offer == "fork":
            whether = questions.whether_to_fork(self.app, announcement.text)
            self.answer(whether, lambda _yes: self.workspace.fork())
        elif announcement.kind == "passing":
            if not (self.is_current and self.status_line.say(announcement)):
                self.notify(announcement.text, timeout=announcement.seconds, markup=False)
        else:
            self.status_line.tell(announcement)
            self.refresh_bindings()
        if announcement.offer == "models":
            self.choose_model(announcement.text)

    def say(self, text: str) -> None:
        """Show a brief message."""
        self.tell(Announcement(text))

    # -- what the workspace says -------------------------------------------------------------------

    def _changed(self) -> None:
        if not self._commanding:
            self.sync()

    def _grew(self, tokens: Sequence[Token]) -> None:
        self.panes.grow(self.workspace, tokens)
        self._show_status()

    def _report(self, report: Report) -> None:
        """Called from any thread; does nothing once the screen is closed."""
        if self.is_attached and self.app.is_running:
            with suppress(RuntimeError):
                self.post_message(ModelReport(report))

    @on(ModelReport)
    def _model_reported(self, message: ModelReport) -> None:
        if isinstance(message.report, Progress):
            self.workspace.model_reported(message.report)
            self._show_frames()
        else:
            self.do(self.workspace.model_reported, message.report)

    def _poll(self) -> None:
        if self.workspace.poll():
            self.sync()
        self.status_line.show_failure(*view.saving_failure(self.workspace))
        self._show_status()

    # -- what happens by itself --------------------------------------------------------------------

    def on_resize(self, event: events.Resize) -> None:
        """Fold the panes for the terminal's new size."""
        self.panes.fit(event.size)

    @on(Editor.Edited)
    def _edited(self) -> None:
        self.workspace.text.keep_draft()
        self.workspace.text.measure()
        self._show_frames()
        self.refresh_bindings()

    @on(TextArea.SelectionChanged)
    def _caret_moved(self) -> None:
        """Update the keys: within the text those that accept belong to the editor."""
        if self.editor.at_end != self._at_end:
            self._at_end = not self._at_end
            self.refresh_bindings()

    @on(DocumentPane.TooLong)
    def _too_long(self, message: DocumentPane.TooLong) -> None:
        self.do(self.workspace.leave_inline, message.most)

    # -- commands ----------------------------------------------------------------------------------

    def do(self, command: Callable[..., object], *args: Any) -> bool:
        """Run a command of the workspace and show the result once; returns whether it did
        anything.
        """
        outer, self._commanding = self._commanding, True
        self.workspace.controls = self.panes.sampling.controls
        try:
            done = bool(command(*args))
        finally:
            self._commanding = outer
        self._take_back()
        self._changed()
        return done

    def _take_back(self) -> None:
        """Apply the controls and theme of a session that was opened."""
        work = self.workspace
        if work.controls != self.panes.sampling.controls:
            self.panes.sampling.controls = work.controls
        if work.theme and work.theme != self.app.theme and work.theme in self.app.available_themes:
            self.app.theme = work.theme

    async def leave(self, patience_s: float) -> bool:
        """See `Workspace.leave`."""
        self.workspace.controls = self.panes.sampling.controls
        return await self.workspace.leave(patience_s)

    def move(self, command: Callable[..., bool], *args: Any) -> bool:
        """Run a command that moves the head; the cursor goes to the document's end."""
        moved = self.do(command, *args)
        if moved and not self.workspace.text.chatting:
            self.editor.caret = self.editor.size_in_characters
        return moved

    def turn(self, command: Callable[..., bool], *args: Any) -> None:
        """Run a command that shows another completion; inline the cursor goes to its end."""
        if self.move(command, *args) and self.panes.inline:
            self.editor.to_the_end()

    def ask(self, command: Callable[..., bool], *args: Any) -> bool:
        """Run a command that asks the model; the view follows the completion."""
        asked = self.do(command, *args)
        if asked:
            self.panes.completion.follow()
            if self.panes.inline:
                self.editor.to_the_end()
        return asked

    @work
    async def answer(self, question: Awaitable[T | None], command: Callable[[T], object]) -> None:
        """Ask a question and run a command with the answer; without an answer do nothing."""
        answer = await question
        if answer:
            self.do(command, answer)

    def choose_model(self, note: str = "") -> None:
        """Ask for another model; `note` says why."""
        settings = self.workspace.settings
        if settings.save:
            remember_model(settings.model)
        servers = tuple(settings.engines.values())
        models = Models(note=note, engines=servers, recent=recent_models())
        self.answer(self.app.push_screen_wait(models), self._use_model)

    def _use_model(self, name: str) -> None:
        if self.workspace.settings.save:
            remember_model(name)
        self.workspace.use_model(name)

    def _take_tail(self) -> None:
        """A person types in or after the completion: first make it part of the text."""
        self.do(self.workspace.text.accept)
