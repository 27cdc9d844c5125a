"""The studio's workspace: a session and its text, the model, and what is asked of it next.

Law: it knows no Textual. A command does one thing or tells why not, and returns whether it did it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from qwen_tui.safe_text import visible
from qwen_tui.session import library
from qwen_tui.session.opening import OpenSession, new_store
from qwen_tui.session.session import Session
from qwen_tui.tui.context import ENGINE, StudioContext
from qwen_tui.tui.last_look import last_look
from qwen_tui.tui.studio import chat, remembered
from qwen_tui.tui.studio.announcement import NOTHING, Announcement, Offer
from qwen_tui.tui.studio.asking import Asking
from qwen_tui.tui.studio.edited_text import Buffer, EditedText
from qwen_tui.tui.studio.generation import Ask, Completer
from qwen_tui.tui.studio.model_loading import Failed, Loader, Ready, Report, VocabRead
from qwen_tui.tui.studio.playback import play
from qwen_tui.tui.studio.text_file import TextFile
from qwen_tui.types import NO_INPUT, Backend, Progress, Sampling, Token, Trouble

_LOST: Final = "The session's file was replaced; what stands here is what it was."
_BEHIND: Final = "This is the text as it was left; {} is {:,} characters behind it."
_READ_ONLY: Final = "{} makes a session of your own that begins with all of this one."


class Workspace(Asking):
    """Everything the studio works on, and the commands that change it.

    `key_of` names an action's key; `tell` shows an announcement; `changed` is called when the
    display is outdated without a command, `grew` with new tokens of the shown completion; `report`
    passes reports of opening a model, from any thread, to `model_reported`.
    """

    def __init__(
        self,
        context: StudioContext,
        buffer: Buffer,
        *,
        key_of: Callable[[str], str],
        tell: Callable[[Announcement], None],
        changed: Callable[[], None],
        grew: Callable[[Sequence[Token]], None],
        report: Callable[[Report], None],
    ) -> None:
        self.context = context
        self.settings = context.settings
        self.key_of = key_of
        self.text_file = TextFile(context.file, context.text)
        self.loader = Loader(context, report)
        self.controls = remembered.controls_set(self.settings)
        self.inline = last_look(self.settings, "layout") == "inline"
        self.instruct = False
        """Whether the model was tuned to answer."""
        self.checkpoint: Sampling | None = None
        """The checkpoint's recommended sampling."""
        self.special: Container[int] = frozenset()
        """The ids of special tokens."""
        self.tell = tell
        self._changed = changed
        self._grew = grew
        self._unmet: Ask | None = None
        """The request to a model that could not be opened."""
        self._models_offered = False
        self._failure_told = False
        self._beginning = context.text
        """The initial text, until it is in the session."""
        self._told = ""  # the store's or the follower's newest word
        self._tasks: set[asyncio.Task[None]] = set()
        opened = context.opened
        self._recorded = opened.session.entries if context.play else []
        if context.play:
            opened = OpenSession(Session(vocab=opened.session.vocab))
        elif context.file is None:
            self.text_file = TextFile.of(opened.session)
        self._work_on(EditedText(opened, buffer))

    def _work_on(self, text: EditedText) -> None:
        self.text = text
        self.completer = Completer(
            text.session,
            self.context.runner,
            self.settings,
            changed=self._changed,
            grew=self._grew,
            troubled=self._refuse,
        )

    def open_model(self) -> None:
        """Open the model that the settings name."""
        self.loader.begin(self.settings)

    # -- the text ----------------------------------------------------------------------------------

    def accept(self) -> bool:
        """Move the completion into the document."""
        return self.text.accept() or self._say("Nothing to accept yet.")

    def leave_inline(self, most: int) -> None:
        """Show completions in their own pane for a text longer than `most` characters."""
        if self.inline:
            self.inline = False
            words = f"More than {most:,} characters: completions stand beside the text."
            self.tell(Announcement(words, kind="mild"))

    def save_text(self, path: Path) -> bool:
        """Write the document to a file, which is its file from then on. The session gets the file's
        name, unless a person gave it another.
        """
        text, session = self.text.document, self.session
        if self.text.chatting and not text:
            return self._refuse(chat.NO_DOCUMENT)
        own = session.title not in ("", self.text_file.name)
        try:
            self.text_file.write(path, text)
        except Trouble as trouble:
            return self._refuse(trouble)
        if not own and session.title != path.name:
            session.rename(path.name)
        self._remember_file()
        said = f"Wrote {len(text):,} characters to {visible(path.name)}."
        if self.text.has_tail and not self.text.chatting:
            said = f"{said[:-1]} without the completion; {self.key_of('accept')} accepts it."
        self._say(said, seconds=3.0 + len(said) / 30)
        return True

    @property
    def unwritten(self) -> bool:
        """Whether the document's file lacks some of the document."""
        return self.text_file.behind(self.text.document) > 0

    def _remember_file(self) -> None:
        if len(self.session.tree):  # else an empty session would get a file
            self.text_file.remember(self.session)

    # -- sessions ----------------------------------------------------------------------------------

    def open(self, path: Path | None) -> bool:
        """Switch to another session; None: to an empty one. The old one is saved and closed."""
        try:
            opened = self.context.open_session(path)
        except Trouble as trouble:
            return self._refuse(trouble)
        self._keep()
        self.switch(opened)
        return True

    def _keep(self) -> None:
        """Before the session is left: keep the typing; if the session cannot be written, in
        a copy.
        """
        self.text.keep()
        self._remember_file()
        self.remember()
        if self.text.unwritten and self.settings.save:
            typed = self.text.buffer.text if self.text.dirty else None
            new_store(library.fork(self.session, typed=typed)).close()
            if self.opened.drafts is not None:
                self.opened.drafts.close(discard=True)
                self.opened.drafts = None
            self._say("What you typed there is a session of your own now.")

    def fork(self) -> None:
        """Switch to a new session that begins as a copy of this one."""
        self.text.keep_draft()
        session = library.fork(self.session)
        store = new_store(session) if self.settings.save else None
        self._let_go(self.text.over(OpenSession(session, store)))
        self.tell(NOTHING)
        self._say("A session of your own now.")

    def switch(self, opened: OpenSession, then: Callable[[], object] = bool) -> None:
        """Switch to `opened` as it was left; `then` runs when the old session's file is closed."""
        self._let_go(EditedText(opened, self.text.buffer), then)
        self.text_file = TextFile.of(opened.session)
        self._use_its_model()
        self.restore()

    def _use_its_model(self) -> None:
        """Switch to the session's model, if it is on this disk."""
        before = self.settings
        found = self.context.settings_of(before, self.session)
        for warning in found.warnings[len(before.warnings) :]:
            self._say(warning, seconds=8.0)
        if found.model != before.model:
            self.use_model(found.model)

    def _let_go(self, text: EditedText, then: Callable[[], object] = bool) -> None:
        """Switch to another session's text; the old session is saved and closed in the
        background.
        """
        old, completer, clean = self.opened, self.completer, not self.text.dirty
        text.session.vocab = old.session.vocab
        self._work_on(text)
        self.completer.model = completer.model

        async def let_go() -> None:
            completer.stop()
            await completer.settle()
            await asyncio.to_thread(old.close, committed=clean)
            then()

        self._start(let_go())

    def restore(self) -> None:
        """Show the session as it was left, and report damage of its file."""
        self.text.restore(self._beginning)
        opened, session, settings = self.opened, self.session, self.settings
        self.controls = remembered.controls_of(session, self.controls, settings)
        self.inline = remembered.inline_of(session, self.inline, settings)
        self.theme = remembered.theme_of(session, settings)
        told = (opened.read_only, "interrupted")  # the completion's title says the latter
        suffered = [badge for badge in opened.badges if not any(w and w in badge for w in told)]
        hint = _READ_ONLY.format(self.key_of("fork_session")) if opened.read_only else ""
        if (behind := self.text_file.behind(self.text.document)) and not opened.read_only:
            suffered.append(_BEHIND.format(visible(self.text_file.name), behind))
            hint = f"{self.key_of('save_as')} writes the text to the file."
        self.tell(Announcement(opened.read_only or " · ".join(suffered), hint, "mild"))

    def save_elsewhere(self, folder: Path) -> bool:
        """Save the session in another folder from now on; all of it is written there."""
        store = self.opened.store
        if store is None:
            return self._refuse(Trouble("this session is not saved at all"))
        done = store.relocate(folder)
        return done or self._refuse(Trouble(f"not there either: {store.state.reason}"))

    def poll(self) -> bool:
        """Report the store's news, and apply what another process wrote; True if it wrote
        something.
        """
        store, follower = self.opened.store, self.opened.follower
        said = store.state.notice if store is not None else ""
        said = _LOST if follower is not None and follower.lost else said
        if said and said != self._told:
            self._told = said
            self.tell(Announcement(said, kind="mild"))
        entries, clean = follower.poll() if follower is not None else [], not self.text.dirty
        for entry in entries:
            self.session.apply(entry)
        if entries and clean:
            self.text.show()
        return bool(entries)

    async def leave(self, patience_s: float) -> bool:
        """Stop everything, within `patience_s` seconds; True if no typing is left in a draft."""
        self._keep()
        self.completer.stop()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.completer.settle(), patience_s)
        return not self.text.dirty

    # -- models ------------------------------------------------------------------------------------

    def use_model(self, name: str) -> None:
        """Open another model, or a server by its name; a waiting request waits for it instead."""
        waiting = self.completer.asked or self._unmet
        self._unmet = None
        self.completer.stop()
        settings = self.settings
        if name.startswith(ENGINE):
            self._set(replace(settings, engine=name.removeprefix(ENGINE)))
        else:  # a draft model was named for one model, and seldom fits another
            draft = settings.draft if name == settings.model else ""
            self._set(replace(settings, model=name, engine="local", draft=draft))
        self.completer.lose_model()
        self.completer.asked = waiting
        self.tell(NOTHING)
        self.loader.begin(self.settings, swap=True)

    def model_reported(self, report: Report) -> None:
        """Handle a report of opening a model."""
        match report:
            case Progress():
                self.loader.estimate.update(report, time.monotonic())
            case VocabRead():
                self._vocab_read(report)
            case Ready():
                self._ready(report.model)
            case Failed():
                self._failed(report.trouble)

    def _vocab_read(self, read: VocabRead) -> None:
        session = self.session
        session.vocab = read.vocab
        if self._beginning and not len(session.tree):
            # only now: without the tokenizer it would be cut into words, and cut again later
            session.commit(self._beginning, "file" if self.text_file.path else None)
            self._remember_file()
        self._beginning = ""
        if read.vocab is not None:
            self.special = read.special
        self.checkpoint = read.checkpoint
        self.instruct = read.instruct
        self.completer.begin_waiting()

    def _ready(self, model: Backend) -> None:
        if self._failure_told:
            self._failure_told = False
            self.tell(NOTHING)
        for warning in model.warnings:
            self._say(warning, seconds=12.0)
        self.completer.use(model)
        if self._recorded:
            entries, self._recorded = self._recorded, []
            self._start(play(entries, self.session, self.completer.replay, self._show))

    def _show(self) -> None:
        self.text.show()
        self._changed()

    def _failed(self, trouble: Trouble) -> None:
        self._unmet = self.completer.asked or self._unmet
        self.completer.lose_model()
        other = f"{self.key_of('models')} chooses another model"
        hint = f"{trouble.hint} · {other}" if trouble.hint else other
        offer: Offer = "models" if trouble.code == NO_INPUT and not self._models_offered else ""
        self._models_offered = self._models_offered or bool(offer)
        self._failure_told = True
        self.tell(Announcement(trouble.message, hint, "trouble", offer=offer))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something in the background; the task is referenced until it ends, so that it is not
        collected.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
