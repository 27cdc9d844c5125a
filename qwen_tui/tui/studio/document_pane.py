"""The document's pane: the editor with the find bar, and inline the completion after the text.

Law: a tentative completion is not part of the editor's `text`; only the session makes it part of
the document. The cost of a batch of tokens depends on the batch only.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from textual import on, work
from textual.content import Content
from textual.message import Message
from textual.widgets import TextArea

from qwen_tui.settings.fields import Tab
from qwen_tui.tui.studio import questions
from qwen_tui.tui.studio.frame import Frame
from qwen_tui.tui.text.editor_document import Span, heat_spans
from qwen_tui.tui.theme.heat import Heat
from qwen_tui.tui.widgets.editor import Editor
from qwen_tui.tui.widgets.find import FindBar
from qwen_tui.types import Token, text_of
from qwen_tui.vocab.decoder import Decoder

INVITATION: Final = "Write the beginning of a text. {} lets the model go on."
MESSAGE: Final = "Write a message. {} sends it."
"""Placeholder of the message box in a chat."""
MOST_COLOURED: Final = 20_000
"""Most tokens of the document that are coloured, counted from its end."""
MOST_INLINE: Final = 200_000
"""Most characters of text and completion that are shown inline; longer ones use panes."""


class Tail:
    """A tentative completion as text and spans, extended as it grows; `start` characters precede
    it.

    Bytes of an incomplete character wait for the rest.
    """

    def __init__(self, heat: Heat, *, coloured: bool, start: int) -> None:
        self.count = 0
        """Tokens taken in."""
        self.end = start
        """Characters before its end."""
        self._heat = heat
        self._coloured = coloured
        self._decoder = Decoder()

    def extend(self, tokens: Iterable[Token]) -> tuple[str, list[Span]]:
        """The text and spans added by more tokens."""
        texts, spans = [], []
        for token in tokens:
            self.count += 1
            text = self._decoder.feed(token.data)
            if not text:
                continue
            style = self._heat.palette.tentative
            warm = self._heat.style(token.logprob) if self._coloured else None
            spans.append(Span(self.end, self.end + len(text), style + warm if warm else style))
            self.end += len(text)
            texts.append(text)
        return "".join(texts), spans


class DocumentPane(Frame):
    """Shows the document, in a chat the message, in an editor."""

    @dataclass
    class TooLong(Message):
        """Text and completion are more than `most` characters: they need panes."""

        most: int

    def __init__(self, generate_key: str, *, show_heat: bool, tab: Tab) -> None:
        self._invitations = [words.format(generate_key) for words in (INVITATION, MESSAGE)]
        self.editor = Editor(placeholder=self._invitations[0], tab_behavior=tab)
        self.find_bar = FindBar()
        super().__init__(self.editor, self.find_bar, inside=self.editor)
        self.show_heat = show_heat
        """Whether the model's text is coloured by probability."""
        self._title = ""
        self._badge = ""
        self._coloured: Hashable = None
        self._tail: Tail | None = None
        self._tail_key: Hashable = None

    @on(Editor.PasteCut)
    @work
    async def _ask_for_the_rest(self, message: Editor.PasteCut) -> None:
        if await questions.whether_to_paste_all(self.app, message.kept, len(message.rest)):
            self.editor.paste_more(message.rest)

    def invite(self, *, chatting: bool) -> None:
        """Set the placeholder: for a text, or in a chat for a message."""
        words, other = self._invitations[chatting], self._invitations[not chatting]
        if self.editor.placeholder == other:  # a completion that stands here hides it
            self.editor.placeholder = words

    # -- the frame ---------------------------------------------------------------------------------

    def show_frame(self, title: str, badge: str) -> None:
        """Show the title, and `badge`: what is unusual about the text."""
        if title != self._title:
            self._title = title
            self.border_title = Content(title)
        self._badge = badge
        self._show_place()

    @on(TextArea.SelectionChanged)
    def _show_place(self) -> None:
        """Show the cursor's position on the lower edge."""
        line, column = self.editor.document.line_and_column(self.editor.cursor_location)
        badge = f"{self._badge} · " if self._badge else ""
        self.border_subtitle = Content(f"{badge}{line + 1}:{column + 1}")

    # -- colours -----------------------------------------------------------------------------------

    def colour(self, key: Hashable, tokens: Callable[[], Sequence[Token]]) -> None:
        """Colour the text (at most its last `MOST_COLOURED` tokens) by probability. `tokens` is
        called only if `key` or the colours changed.
        """
        wanted = (key, self.show_heat, self.editor.heat)
        if wanted == self._coloured:
            return
        self._coloured = wanted
        if not self.show_heat:
            self.editor.paint(())
            return
        found = tokens()
        start = len(text_of(found[:-MOST_COLOURED]))
        self.editor.paint(heat_spans(found[-MOST_COLOURED:], self.editor.heat, start=start))

    # -- the completion in the document ------------------------------------------------------------

    def show_tail(self, key: Hashable, tokens: Sequence[Token], count: int) -> None:
        """Show the first `count` tokens of a completion after the text; 0: none. While `key` is the
        same and `count` grows, only the new tokens are added.
        """
        editor = self.editor
        if not count:
            editor.drop_tail()
            self._tail = None
            return
        tail, key = self._tail, (key, editor.heat, self.show_heat)
        if editor.size_in_characters > MOST_INLINE:
            self.post_message(self.TooLong(MOST_INLINE))
        elif tail is None or not editor.has_tail or key != self._tail_key or count < tail.count:
            start = editor.size_in_characters
            tail = Tail(editor.heat, coloured=self.show_heat, start=start)
            self._tail, self._tail_key = tail, key
            editor.show_tail(*tail.extend(tokens[:count]))
        elif count > tail.count:
            editor.extend_tail(*tail.extend(tokens[tail.count : count]))
        if tail is not None and tail.end > MOST_INLINE:
            self.post_message(self.TooLong(MOST_INLINE))
