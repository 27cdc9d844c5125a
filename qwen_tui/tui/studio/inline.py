"""The inline layout: the completion stands in the document itself, tentative until it is accepted.

Law: tentative text is never a person's: what the editor calls its text ends before it, and the
session alone makes it part of the document. A batch of tokens costs what it adds.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Final

from qwen_tui.session.tree import Place
from qwen_tui.tui.context import StudioContext
from qwen_tui.tui.studio import layout
from qwen_tui.tui.studio.picture import Picture
from qwen_tui.tui.text.editor_document import Span
from qwen_tui.tui.text.wording import END_MARKS
from qwen_tui.tui.theme.heat import Heat
from qwen_tui.types import Token

MOST_INLINE: Final = 200_000
"""Characters of text and completion that are written inline; more stand in panes."""
_TOO_LONG: Final = "More than {:,} characters: completions stand beside the text."


class Tail:
    """A tentative completion as text and spans, grown as it grows; `start` characters precede it.

    Only whole characters are given: bytes of a begun one wait for the rest.
    """

    def __init__(self, heat: Heat, *, coloured: bool, start: int) -> None:
        self.count = 0
        """Tokens taken in."""
        self.end = start
        """Characters before its end."""
        self._heat = heat
        self._coloured = coloured
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def extend(self, tokens: Iterable[Token]) -> tuple[str, list[Span]]:
        """What some more tokens add."""
        texts, spans = [], []
        for token in tokens:
            self.count += 1
            text = self._decoder.decode(token.data)
            if not text:
                continue
            style = self._heat.palette.tentative
            warm = self._heat.style(token.logprob) if self._coloured else None
            spans.append(Span(self.end, self.end + len(text), style + warm if warm else style))
            self.end += len(text)
            texts.append(text)
        return "".join(texts), spans


class Inline(Picture):
    """Writes the completion into the editor, where that is the layout."""

    def __init__(self, doors: StudioContext, heat: Heat) -> None:
        super().__init__(doors, heat)
        self.inline = self.settings.layout == "inline"
        """A person wants the completion in the document."""
        self.within = False
        """It stands there: no conversation, not too long, and no character is split."""
        self._tail: Tail | None = None
        self._tail_key: tuple[Place, Heat, bool] | None = None
        self._titled = ""

    # -- the panes ---------------------------------------------------------------------------------

    def panes(self) -> frozenset[layout.Pane]:
        """The output is shown only while a person looks at its tokens."""
        width, height = self.size
        return layout.shown(width, height, self.pane, roads=self.roads_open, inline=self.within)

    def panes_in_all(self) -> int:
        """One stands in another's place."""
        return super().panes_in_all() - self.within

    def _choose(self) -> None:
        """Settle where the completion stands, and fold the panes when that changed."""
        if self._too_long():
            self.inline = False
            self.notice.tell(_TOO_LONG.format(MOST_INLINE), mood="mild")
        within = self.inline and not self.chatting and not self._inseparable()
        if within != self.within:
            self.within = within
            self.fold()

    def _too_long(self) -> bool:
        end = self._tail.end if self._tail else 0
        return self.inline and max(end, self.editor.size_in_characters) > MOST_INLINE

    def _inseparable(self) -> bool:
        """The document's end and the completion share a character, or a template parts them."""
        session = self.desk.session
        id, at = session.head
        return session.text.endswith("\ufffd") or any(
            part.node.folded and part.stop > at for part in session.tree.chain(id)
        )

    def action_inline(self) -> None:
        """Write completions into the document, or beside it."""
        self.inline = not self.inline
        self.output.cursor = None
        self.sync()
        if self.within:
            self.say("Completions are written into the text.")
        self.go_to_pane("editor")

    # -- the tail ----------------------------------------------------------------------------------

    def wear(self, heat: Heat) -> None:
        """The completion in the document wears the styles, too."""
        super().wear(heat)
        self.show_tail()

    def sync(self) -> None:
        """Everything, and the completion in the document."""
        super().sync()
        if self.built:
            self._choose()
            self.show_tail()
            if self._too_long():
                self._choose()
                self.show_tail()
            self.title_document()

    def paint(self) -> None:
        """After a batch of tokens: only what grew."""
        super().paint()
        if self.within:
            self.show_tail()
            if self.document_title() != self._titled:
                self.title_document()
            if self._too_long():
                self.sync()

    def show_tail(self) -> None:
        """Make the editor show the completion behind the document, while that is what it holds."""
        session, editor = self.desk.session, self.editor
        id, at = session.head
        if id is None or not self.within or not self.has_tail or self.dirty:
            editor.drop_tail()
            self._tail = None
            return
        tokens = self.output.tokens
        count = min(session.accept_end(id) - at, len(tokens))
        key = (session.head, editor.heat, self.output.show_heat)
        tail = self._tail
        if tail is None or not editor.has_tail or key != self._tail_key or count < tail.count:
            start = editor.size_in_characters
            tail = Tail(editor.heat, coloured=self.output.show_heat, start=start)
            self._tail, self._tail_key = tail, key
            editor.show_tail(*tail.extend(tokens[:count]))
        elif count > tail.count:
            editor.extend_tail(*tail.extend(tokens[tail.count : count]))

    def take_tail(self) -> None:
        """Accept the completion as it stands, so that a person can write on in it or after it."""
        self.desk.session.accept()
        self.show_document()

    def title_document(self) -> None:
        """Write the title, and remember it: it is not written again at every batch."""
        self._titled = self.document_title()
        super().title_document()

    def document_title(self) -> str:
        """What is written, and inline how the completion stands."""
        title = super().document_title()
        words = self._standing() if self.within else ""
        return f"{title} · {words}" if words else title

    def _standing(self) -> str:
        writer = self.writer
        if self.dirty and writer.running:
            return "the completion goes on beside it"
        if writer.waiting or (writer.running and not self.has_tail):
            return self.output.hint.partition("\n")[0]
        if self.dirty:
            return ""
        node = self._shown_node()
        if node is None:
            return ""
        mark = END_MARKS[node.reason] if node.reason else ""
        return f"{self.completion_title} {mark}".rstrip()
