"""The commands that complete the text with the model.

Law: a command does one thing or tells why not, and returns whether it did it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from qwen_tui.context_window import Truncate
from qwen_tui.session.opening import OpenSession
from qwen_tui.session.session import Session
from qwen_tui.settings import LOCAL, Settings
from qwen_tui.tui.context import StudioContext
from qwen_tui.tui.sampling_controls import Controls
from qwen_tui.tui.studio import chat, remembered
from qwen_tui.tui.studio.announcement import Announcement, Offer
from qwen_tui.tui.studio.edited_text import EditedText
from qwen_tui.tui.studio.generation import Ask, Completer, How
from qwen_tui.tui.studio.model_loading import Loader
from qwen_tui.tui.studio.text_file import TextFile
from qwen_tui.tui.text.wording import SHORTENED
from qwen_tui.types import Backend, Mode, Trouble

SEVERAL: Final = 4
"""The number of completions for `several` if the control says one."""
_LINE_END: Final = "The text ends in a line end. {} goes on with its last line instead."


class Asking:
    """A text, a model, and the commands that continue the text with the model.

    `key_of` names an action's key; `tell` shows an announcement.
    """

    context: StudioContext
    settings: Settings
    key_of: Callable[[str], str]
    tell: Callable[[Announcement], None]
    text: EditedText
    text_file: TextFile
    completer: Completer
    loader: Loader
    controls: Controls
    """The values of the sampling controls."""
    inline: bool
    """Whether completions are written into the document."""
    theme = ""
    """The theme chosen in this session, now or earlier."""
    _line_end_told = False

    # -- state -------------------------------------------------------------------------------------

    @property
    def opened(self) -> OpenSession:
        """The open session, with its file, store and drafts."""
        return self.text.opened

    @property
    def session(self) -> Session:
        """The session itself."""
        return self.text.session

    @property
    def model(self) -> Backend | None:
        """The model, once it is open."""
        return self.completer.model

    @property
    def busy(self) -> bool:
        """Whether a generation runs or waits."""
        return self.completer.running or self.completer.waiting

    # -- telling -----------------------------------------------------------------------------------

    def _say(self, text: str, *, seconds: float = 3.0, offer: Offer = "") -> bool:
        """Tell briefly why a command does nothing; returns False."""
        self.tell(Announcement(text, seconds=seconds, offer=offer))
        return False

    def _refuse(self, trouble: Trouble) -> bool:
        """Tell what failed and what to do; returns False."""
        self.tell(Announcement.of(trouble))
        return False

    # -- asking the model --------------------------------------------------------------------------

    def generate(self, controls: Controls) -> bool:
        """Continue the document, a finished completion included."""
        text = self.text
        if self.completer.running and not text.dirty:
            stop, again = self.key_of("stop"), self.key_of("regenerate")
            return self._say(f"Still writing. {stop} stops, {again} begins again.")
        if text.unsaid and not text.buffer.text:
            return self._refuse(chat.NOTHING_SAID)
        if text.chatting:
            try:
                text.send()
            except Trouble as trouble:
                return self._refuse(trouble)
        elif self.session.vocab is not None:
            if not text.commit_typing() and self.session.tail:
                self.session.accept()
            text.show()
        if self.text_file.path and text.buffer.text.endswith("\n") and not self._line_end_told:
            self._line_end_told = True
            self._say(_LINE_END.format(self.key_of("continue_line")), seconds=8.0)
        return self._ask(controls)

    def continue_line(self, controls: Controls) -> bool:
        """Continue the last line that has text: line ends after it are removed first."""
        text = self.text.buffer.text
        if self.text.chatting or text == (line := text.rstrip("\r\n")):
            return self.generate(controls)
        if self.session.vocab is None:
            self.text.buffer.replace_all(line)
        else:
            self.text.replace(line)
        return self._ask(controls)

    def regenerate(self, controls: Controls) -> bool:
        """Complete the text: again if it has a completion, else for the first time."""
        if self.text.unsaid:
            return self._refuse(chat.NOTHING_SAID)
        if self.session.vocab is None or self.text.commit_typing():
            return self._ask(controls)
        return self._ask(controls, "again" if self.text.regenerates else "on")

    def several(self, controls: Controls) -> bool:
        """Complete the text several times at once."""
        branches = controls.branches if controls.branches > 1 else SEVERAL
        controls = replace(controls, branches=branches)
        if self.text.chatting:
            return self.regenerate(controls)
        if self.session.vocab is not None:
            self.text.commit_typing()
        return self._ask(controls, "beside")

    def take_alternative(self, at: int, choice: int, controls: Controls) -> bool:
        """Take alternative `choice` for the token at index `at` after the document's end (negative:
        before it), and continue.
        """
        try:
            self.text.fork(at, choice)
        except Trouble as trouble:
            return self._refuse(trouble)
        return self._ask(replace(controls, branches=1))

    def _ask(self, controls: Controls, how: How = "on") -> bool:
        if controls.branches > 1 and self.model and not self.model.abilities.branches:
            self._say("This model completes one at a time.")
            controls = replace(controls, branches=1)
        if self.context.play:
            return self._say("This is a playback. Open the session to go on with it.", seconds=4)
        if self.opened.read_only:
            return self._say(f"{self.opened.read_only}.", offer="fork")
        self.remember()
        if self.loader.failed:
            self.loader.begin(self.settings)
        mode: Mode = "chat" if self.text.chatting else "complete"
        # without a tokenizer typing cannot be committed yet: the text itself waits for it
        wait = self.session.vocab is None and self.text.dirty
        text = self.text.buffer.text if wait else None
        self.completer.ask(Ask(controls, how, mode, text))
        return True

    def remember(self) -> None:
        """Store controls, layout, theme and model with the session."""
        values = {
            remembered.LAYOUT: "inline" if self.inline else "panes",
            remembered.THEME: self.theme,
            remembered.MODEL: self.settings.model if self.settings.engine in LOCAL else "",
        }
        remembered.keep(self.session, self.controls, **values)

    def stop(self) -> bool:
        """Stop the running generation, keeping its text, and cancel a waiting one."""
        if busy := self.busy:
            self.completer.stop()
        return busy

    def shorten(self) -> None:
        """Switch to the next treatment of prompts longer than the context."""
        turns: dict[Truncate | None, Truncate | None]
        turns = {None: "left", "left": "middle", "middle": None}
        self._set(replace(self.settings, truncate=turns[self.settings.truncate]))
        self._say(SHORTENED[self.settings.truncate])

    def _set(self, settings: Settings) -> None:
        self.settings = self.completer.settings = settings
