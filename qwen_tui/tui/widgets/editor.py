"""The prompt editor: the document a person writes, byte for byte what the model is sent.

Law: nothing is normalised: `text` returns what was set, typed or pasted; a paste is one undo step.
A tentative completion may be shown after the text; it is never part of `text`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from textual import events
from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.document._document import EditResult, Location, Selection
from textual.document._edit import Edit
from textual.document._history import EditHistory
from textual.message import Message
from textual.timer import Timer
from textual.widgets import TextArea

from qwen_tui.tui.text import indentation
from qwen_tui.tui.text.editor_document import Span
from qwen_tui.tui.widgets.exact_text_area import ExactTextArea

PASTE_MOST: Final = 4 << 20
"""Characters of one paste that go in without asking."""
EDITED_AFTER_S: Final = 0.12
"""Seconds from the first edit until `Edited` is posted."""
UNDO_STEPS: Final = 1000


class WordHistory(EditHistory):
    """Steps of undo that also end where a word ends."""

    def record(self, edit: Edit) -> None:
        """Note an edit; see `EditHistory.record`."""
        last = self._undo_stack[-1][-1].text if self._undo_stack else ""
        if edit.text.isspace() and last and not last.isspace():
            self.checkpoint()
        super().record(edit)


class Editor(ExactTextArea):
    """The exact text area with gathered `Edited` messages, whole pastes and a tentative tail.

    Enter always writes a newline. Ctrl+Z, Ctrl+Y and Ctrl+C go on to the screen when the editor has
    nothing to undo, redo or copy; keys it does not bind always do.
    """

    DEFAULT_CSS = """
    Editor {
        border: none;
        padding: 0 0 0 1;
        scrollbar-size-vertical: 1;
        &:focus { border: none; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+home", "document_edge(-1)", "Start of the document", show=False),
        Binding("ctrl+end", "document_edge(1)", "End of the document", show=False),
        Binding("ctrl+shift+home", "document_edge(-1, True)", "Select to the start", show=False),
        Binding("ctrl+shift+end", "document_edge(1, True)", "Select to the end", show=False),
        Binding("alt+left", "cursor_word_left", "Word left", show=False),
        Binding("alt+right", "cursor_word_right", "Word right", show=False),
        Binding("shift+tab", "outdent", "Less indentation", show=False),
        Binding("ctrl+f", "find", "Find", show=False),
    ]

    @dataclass
    class Edited(Message):
        """The text changed; posted once per `EDITED_AFTER_S`, with its length in characters."""

        editor: Editor
        size: int

    @dataclass
    class PasteCut(Message):
        """A paste was longer than `PASTE_MOST`: `rest` was left out; `paste_more(rest)` adds it."""

        editor: Editor
        kept: int
        rest: str

    @dataclass
    class FindAsked(Message):
        """A person asks for the find bar."""

        editor: Editor

    _own: str | None = None
    """The text before the tail, while one is shown."""
    _invitation: str | Content = ""
    """The placeholder, kept here while a tail is shown in its place."""

    def __init__(
        self,
        text: str = "",
        *,
        tab_behavior: Literal["focus", "indent"] = "focus",
        placeholder: str = "",
        paste_most: int = PASTE_MOST,
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        """`tab_behavior` "focus" lets Tab move the focus, "indent" indents as the text does."""
        super().__init__(
            "",
            soft_wrap=True,
            tab_behavior=tab_behavior,
            highlight_cursor_line=False,
            placeholder=placeholder,
            name=name,
            id=id,
            classes=classes,
        )
        self.match_cursor_bracket = False
        self.history = WordHistory(
            max_checkpoints=UNDO_STEPS, checkpoint_timer=2.0, checkpoint_max_characters=100
        )
        self.paste_most = paste_most
        self._tail_spans: list[Span] = []
        self.take_tail: Callable[[], object] = self.drop_tail
        """Called before an edit in the tail: makes the tail part of the text, or drops it. A
        callback, not a message, because the edit needs it done."""
        self._edited_timer: Timer | None = None
        if text:
            self._set_document(text, None)

    # -- the document -----------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The exact text, without a tentative tail."""
        return self.document.text if self._own is None else self._own

    @text.setter
    def text(self, value: str) -> None:
        self.load_text(value)

    def _set_document(self, text: str, language: str | None) -> None:
        self._forget_tail()
        super()._set_document(text, language)

    def set_text(self, text: str, *, keep_cursor: bool = True) -> None:
        """Show another text, without a tail; see `ExactTextArea.set_text`."""
        self._forget_tail()
        super().set_text(text, keep_cursor=keep_cursor)

    def _replace_from(self, start: int, text: str) -> None:
        super()._replace_from(start, text)
        self._note_edit()

    def paint(self, spans: Iterable[Span]) -> None:
        """Style these characters only; the tail keeps its styles."""
        super().paint(spans)
        self.document.mark(self._tail_spans)

    # -- editing ----------------------------------------------------------------------------------

    def edit(self, edit: Edit) -> EditResult:
        """Do one edit; see `TextArea.edit`."""
        if self._own is not None:
            self._leave_tail(edit)
        result = super().edit(edit)
        self._note_edit()
        return result

    def _note_edit(self) -> None:
        """Post `Edited` soon, once for all edits until then."""
        self._matches = None
        if self._edited_timer is None and self.is_mounted:
            self._edited_timer = self.set_timer(EDITED_AFTER_S, self._post_edited)

    def _post_edited(self) -> None:
        self._edited_timer = None
        self.post_message(self.Edited(self, self.size_in_characters))

    @property
    def can_undo(self) -> bool:
        """Whether there is typing to undo."""
        return bool(self.history._undo_stack)

    @property
    def can_redo(self) -> bool:
        """Whether there is typing to redo."""
        return bool(self.history._redo_stack)

    def undo(self) -> None:
        """Take back the last step."""
        self.drop_tail()
        super().undo()
        self._note_edit()

    def redo(self) -> None:
        """Do the last step again."""
        self.drop_tail()
        super().redo()
        self._note_edit()

    def action_undo(self) -> None:
        """Undo the last step; without one the screen gets the key."""
        if not self.can_undo:
            raise SkipAction
        self.undo()

    def action_redo(self) -> None:
        """Redo the last step; without one the screen gets the key."""
        if not self.can_redo:
            raise SkipAction
        self.redo()

    def check_consume_key(self, key: str, character: str | None = None) -> bool:
        """Whether a key is typing; Tab is not, so that the screen may bind it."""
        return key != "tab" and super().check_consume_key(key, character)

    async def _on_key(self, event: events.Key) -> None:
        """Shift+Enter is Enter (some terminals report them differently); Tab indents, and Esc never
        moves the focus.
        """
        tab = event.key == "tab" and self.tab_behavior == "indent"
        if (tab or event.key == "shift+enter") and not self.read_only:
            event.stop()
            event.prevent_default()
            self._restart_blink()
            if tab:
                self.indent()
            else:
                self._replace_via_keyboard("\n", *self.selection)
        elif event.key == "escape":
            event.prevent_default()
        else:
            await super()._on_key(event)

    def indent(self) -> None:
        """One step of indentation at the cursor, or for every line that is selected."""
        step = indentation.step_of(self.text)
        (row, column), (last, _) = sorted(self.selection)
        if row == last:
            before = self.document.get_line(row)[:column]
            self._replace_via_keyboard(indentation.indent(before, step), *self.selection)
        else:
            self._replace_lines([step + line if line else line for line in self._selected_lines()])

    def action_outdent(self) -> None:
        """Remove one step of indentation from the cursor's or selected lines; without any the
        screen gets the key.
        """
        step = indentation.step_of(self.text)
        lines = self._selected_lines()
        less = [line[indentation.outdent(line, step) :] for line in lines]
        if self.tab_behavior != "indent" or self.read_only or less == lines:
            raise SkipAction
        self._replace_lines(less)

    def _selected_lines(self) -> list[str]:
        (row, _), (last, _) = sorted(self.selection)
        return [self.document.get_line(at) for at in range(row, last + 1)]

    def _replace_lines(self, lines: list[str]) -> None:
        """Replace the selected lines, as one undo step; the same characters stay selected."""
        start, end = self.selection
        (first, _), (last, _) = sorted(self.selection)
        old = self._selected_lines()
        grown = {first: len(lines[0]) - len(old[0]), last: len(lines[-1]) - len(old[-1])}
        self.history.checkpoint()
        self.replace("\n".join(lines), (first, 0), (last, len(old[-1])))
        places = [(row, max(0, column + grown.get(row, 0))) for row, column in (start, end)]
        self.selection = Selection(*places)

    async def _on_paste(self, event: events.Paste) -> None:
        """Insert pasted text in one step. Beyond `paste_most` it is cut, and `PasteCut` posted."""
        event.stop()
        event.prevent_default()
        if self.read_only or not event.text:
            return
        kept, rest = event.text[: self.paste_most], event.text[self.paste_most :]
        self.paste_more(kept)
        self.focus()
        if rest:
            self.post_message(self.PasteCut(self, len(kept), rest))

    def paste_more(self, text: str) -> None:
        """Replace the selection by text of any length, as one undo step."""
        self.history.checkpoint()
        if result := self._replace_via_keyboard(text, *self.selection):
            self.move_cursor(result.end_location)

    def replace_all(self, text: str) -> None:
        """Replace the whole text, as one undo step."""
        self.select(0, self.size_in_characters)
        self.paste_more(text)

    # -- a tentative tail -------------------------------------------------------------------------

    @property
    def at_end(self) -> bool:
        """Whether the cursor is at the end of the text or of the tail, with nothing selected."""
        start, end = self.selection
        if start != end or end == self.document.end:
            return start == end
        return self._own is not None and self.caret == len(self._own)

    @property
    def has_tail(self) -> bool:
        """Whether a tail is shown."""
        return self._own is not None

    def show_tail(self, text: str, spans: Iterable[Span]) -> None:
        """Show a tail after the text, in place of an earlier one. A cursor at the end stays there.

        An edit of the text removes it; one in the tail or at its end calls `take_tail` first.
        """
        own = self.text
        self._own = own
        self._tail_spans = []
        self._put_tail(self.document.get_location_from_index(len(own)), text, spans)

    def extend_tail(self, text: str, spans: Iterable[Span]) -> None:
        """Append to the tail; the cost depends on the appended text only."""
        self._put_tail(self.document.end, text, spans)

    def drop_tail(self) -> None:
        """Remove the tail; the text stays."""
        if self._own is not None:
            size = len(self._own)
            self._forget_tail()
            self._put(self.document.get_location_from_index(size), "")

    def to_the_end(self) -> None:
        """Move the cursor to the end of all that is shown, the tail too."""
        self.move_cursor(self.document.end)

    def _forget_tail(self) -> None:
        self._own, self._tail_spans = None, []
        if self._invitation:
            self.placeholder, self._invitation = self._invitation, ""

    def _put_tail(self, begin: Location, text: str, spans: Iterable[Span]) -> None:
        if text and not self._own and self.placeholder:
            self._invitation, self.placeholder = self.placeholder, ""
        self._put(begin, text)
        fresh = list(spans)
        self._tail_spans += fresh
        self.document.mark(fresh)

    def _leave_tail(self, edit: Edit) -> None:
        """Before an edit: if it is before the tail remove the tail, otherwise take it."""
        assert self._own is not None
        if self.document.get_index_from_location(edit.bottom) <= len(self._own):
            self.drop_tail()
            return
        behind = edit.top == self.document.end
        self.take_tail()
        if behind:
            edit.from_location = edit.to_location = self.document.end

    def _put(self, begin: Location, text: str) -> None:
        """Replace everything from `begin` on, without an undo step; a cursor at the end stays
        there, and in view if it was.
        """
        index = self.document.get_index_from_location
        locate = self.document.get_location_from_index
        start, end = self.selection
        riding = start == end == self.document.end
        low, high = index(start), index(end)
        rows = self.scrollable_content_region.height
        seen = 0 <= self._cursor_offset[1] - self.scroll_offset.y < max(1, rows)
        bottom = self.document.end
        result = self.document.replace_range(begin, bottom, text)
        self.wrapped_document.wrap_range(begin, bottom, result.end_location)
        self._build_highlight_map()
        self._refresh_size()
        self.refresh()
        place = (
            Selection.cursor(self.document.end) if riding else Selection(locate(low), locate(high))
        )
        if seen or not self.is_mounted:
            self.selection = place
        else:
            self.set_reactive(TextArea.selection, place)
        self._cursor_offset = self.wrapped_document.location_to_offset(self.cursor_location)

    def action_find(self) -> None:
        """Ask the screen for its find bar."""
        self.post_message(self.FindAsked(self))
