"""The edited text and its session: typing, and every move of the head.

Law: it knows no Textual. No typing is lost: before the head moves, uncommitted typing is kept in
the tree. Commands return whether the head moved.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from copy import copy
from typing import Any, Protocol

from qwen_tui.session import drafts
from qwen_tui.session.drafts import Drafts
from qwen_tui.session.identity import ulid
from qwen_tui.session.opening import OpenSession
from qwen_tui.session.session import Session
from qwen_tui.session.tree import Place
from qwen_tui.tui.studio import chat
from qwen_tui.types import Added, Entry, Trouble
from qwen_tui.vocab import is_nfc, to_nfc
from qwen_tui.vocab.decoder import Decoder


class Buffer(Protocol):
    """The edited text's buffer, as the studio's editor implements it.

    `caret` counts the characters before the cursor. `set_text` shows another text and forgets the
    undo steps; `replace_all` is one undo step.
    """

    caret: int

    @property
    def text(self) -> str: ...
    @property
    def can_undo(self) -> bool: ...
    @property
    def can_redo(self) -> bool: ...
    def set_text(self, text: str, *, keep_cursor: bool = True) -> None: ...
    def replace_all(self, text: str) -> None: ...
    def undo(self) -> None: ...
    def redo(self) -> None: ...


class EditedText:
    """The document of one session, or in a chat the message, as edited in `buffer`."""

    def __init__(self, opened: OpenSession, buffer: Buffer) -> None:
        self.opened = opened
        self.buffer = buffer
        self.chatting = chat.is_chat(opened.session)
        """Whether the buffer has a message, and the head is in the conversation."""
        self.count = 0
        """Tokens in the context with the current text; an estimate without a tokenizer."""
        self.composed = True
        """Whether the text is NFC, as models' training texts are."""
        self.revision = 0
        """Increases whenever another text is put into the buffer."""
        self._other = Place(None, 0)
        """The document's place during a chat, else the chat's."""
        self._waiting = ""
        """The text at that place: the document during a chat, else the message."""
        self._shown = ""
        """The document as last put into the buffer; a difference from it is typing."""
        self._unwritten: list[Entry] = []
        """What a person did to a session that cannot be written."""
        if opened.read_only and opened.session.sink is None:
            opened.session.sink = self._unwritten.append

    @property
    def unwritten(self) -> bool:
        """Text stands here that no file of the session will hold."""
        typed = any(isinstance(entry, Added) and entry.tokens for entry in self._unwritten)
        return bool(self.opened.read_only) and (self.dirty or typed)

    @property
    def session(self) -> Session:
        """The session the text belongs to."""
        return self.opened.session

    @property
    def dirty(self) -> bool:
        """Whether there is uncommitted typing; an unsent message does not count."""
        return not self.chatting and self.buffer.text != self.session.text

    @property
    def has_tail(self) -> bool:
        """Whether the document has a completion with more than a final eos."""
        id, at = self.session.head
        shown = self.session.completion is not None
        return id is not None and shown and self.session.accept_end(id) > at

    @property
    def tentative(self) -> bool:
        """Whether there is a completion to accept that belongs to the current text."""
        return self.has_tail and not self.chatting and not self.dirty

    @property
    def regenerates(self) -> bool:
        """Whether there is a completion, shown or just accepted, that can be requested again."""
        session = self.session
        last = session.tree.resolve(*session.head).node
        return session.completion is not None or (
            last is not None and session.tree[last].source == "model"
        )

    @property
    def document(self) -> str:
        """The document with its typing, also while the buffer has a message."""
        return self._waiting if self.chatting else self.buffer.text

    def measure(self) -> None:
        """Count the tokens of the buffer's text."""
        session, text = self.session, self.buffer.text
        self.composed = is_nfc(text)
        if session.vocab is None:
            self.count = max(session.head.at, (len(text) + 3) // 4)
        elif self.chatting:
            self.count = session.head.at + len(session.vocab.encode(text))
        else:
            self.count = session.measure(text)

    # -- the buffer --------------------------------------------------------------------------------

    def _put(self, text: str, *, keep_cursor: bool = True) -> None:
        self.buffer.set_text(text, keep_cursor=keep_cursor)
        self.revision += 1

    def show(self) -> None:
        """Put the document into the buffer, replacing uncommitted typing."""
        if not self.chatting:
            self._put(self.session.text)
            self._shown = self.session.text

    def restore(self, beginning: str = "") -> None:
        """Restore the document and its uncommitted typing into the buffer. `beginning` is the text
        of an empty document.
        """
        opened, session = self.opened, self.session
        before = "" if self.chatting else session.text
        self._put(before, keep_cursor=False)
        if opened.drafts is None and opened.store is not None:
            draft = drafts.restore(session.id, session.head, before)
            if draft is not None:
                self.buffer.replace_all(draft[0])
                self.buffer.caret = draft[1]
        self._begin_drafts()
        if beginning and not session.text:
            self._put(beginning)

    def over(self, opened: OpenSession) -> EditedText:
        """The same text, as it stands in the buffer, over a session that holds the same tree."""
        text = copy(self)
        text.opened = opened
        text._begin_drafts()
        text.keep_draft()
        return text

    def _begin_drafts(self) -> None:
        if self.opened.drafts is None and self.opened.store is not None:
            self.opened.drafts = Drafts(self.session.id)
        elif self.opened.drafts is None and self.opened.read_only:
            # the session's own draft is another program's: a killed one leaves this as a text alone
            self.opened.drafts = Drafts(ulid(int(time.time() * 1000), secrets.randbits(80)))

    def follow_head(self) -> None:
        """If the buffer has no typing, show the document at the head."""
        text = self.session.text
        if self.chatting or text == self._shown:
            return
        if self.buffer.text == self._shown:
            self._put(text)
        self._shown = text

    def replace(self, text: str) -> bool:
        """Use a text edited in another program, as the document or in a chat as the message."""
        if self.chatting:
            self.buffer.replace_all(text)
            return False
        self.session.commit(text)
        self.show()
        return True

    def normalise(self) -> None:
        """Compose the characters as the model's training text was (Unicode NFC)."""
        text = to_nfc(self.buffer.text)
        if text != self.buffer.text:
            self.buffer.replace_all(text)

    # -- typing ------------------------------------------------------------------------------------

    def commit_typing(self) -> bool:
        """Commit the typing to the session; False if there is none."""
        if not self.dirty:
            return False
        self.session.commit_typing(self.buffer.text)
        self._put(self.session.text)
        self.keep_draft()
        return True

    def keep_typing(self) -> None:
        """Before the head moves: keep the typing in the tree as a branch, to which undo
        leads back.
        """
        if self.dirty:
            here = self.session.head
            self.session.commit(self.buffer.text)
            self.session.go(here.node, here.at)
            self.keep_draft()

    def keep_draft(self) -> None:
        """Pass the buffer's text to the drafts."""
        draft, text = self.opened.drafts, self.buffer.text
        if draft is None:
            return
        caret = min(self.buffer.caret, len(text))
        if self.opened.store is not None:
            before = "" if self.chatting else self.session.text
            draft.note(self.session.head, before, text, caret)
        elif self.dirty or draft.path.exists():
            draft.note(Place(None, 0), "", text if self.dirty else "", caret)

    def keep(self) -> None:
        """Before the session is left: typing is kept in its draft, and a session without a file
        gets one, or its draft could not be found again. A chat without messages is not a place to
        return to.
        """
        if self.unsaid and not self.buffer.text:
            self.turn_to(chatting=False)
        if self.dirty and not len(self.session.tree):
            self.commit_typing()
        self.keep_draft()

    # -- a chat ------------------------------------------------------------------------------------

    def turn_to(self, *, chatting: bool) -> None:
        """Switch to the conversation or to the document; each keeps its place."""
        self.commit_typing()
        here, there = self.session.head, self._other
        self.session.go(there.node, there.at)
        self._change_sides(here, chatting)
        self.show()

    def _change_sides(self, here: Place, chatting: bool) -> None:
        """Put the other text into the buffer; the current one is found again at `here`."""
        waiting = self._waiting
        self._other, self._waiting, self.chatting = here, self.buffer.text, chatting
        if chatting:
            self._put(waiting)

    @property
    def unsaid(self) -> bool:
        """Whether it is a chat without messages."""
        return self.chatting and not chat.is_chat(self.session)

    def send(self) -> None:
        """Send the message; without one the model continues its answer. Raises Trouble."""
        session, text = self.session, self.buffer.text
        if session.vocab is None:
            raise Trouble("the model is not open yet", hint="what you typed stays here")
        if text:
            chat.say(session, session.vocab, text)
        else:
            session.accept()
        self._put("")
        self.keep_draft()

    def begin_chat(self) -> None:
        """Move before the first turn: the next message begins another conversation."""
        if self.chatting:
            self.session.go(None, 0)
        else:
            self._other = Place(None, 0)

    # -- moves of the head -------------------------------------------------------------------------

    def accept(self) -> bool:
        """Move the whole completion into the document."""
        return self._move(self.session.accept)

    def accept_to(self, at: int) -> bool:
        """Move the completion up to its token `at` into the document, with the rest of a character
        that begins there.
        """
        session, decoder, count = self.session, Decoder(), 0
        if not self.tentative or session.head.node is None:
            return False
        for token in session.tail:
            decoder.feed(token.data)
            count += 1
            if count > at and not decoder.pending:
                break
        before = session.head.at - session.tree[session.head.node].at
        return self._move(session.accept, session.head.node, before + count)

    def accept_word(self) -> bool:
        """Move the completion's next word into the document."""
        return self._move(self.session.accept_word)

    def undo(self) -> bool:
        """Undo typing first, then the last move of the head."""
        if self.buffer.can_undo:
            self.buffer.undo()
            return False
        if self.dirty:
            self.keep_typing()
            self.show()
            return True
        if self.session.can_undo and not self.chatting:
            self._keep_undone()
        return self._move(self.session.undo)

    def _keep_undone(self) -> None:
        """Keep typing that undo took out of the buffer: redo leads to it again."""
        here = self.session.head
        while self.buffer.can_redo:
            self.buffer.redo()
        self.session.commit_typing(self.buffer.text)
        while self.session.head != here and self.session.undo():
            pass

    def redo(self) -> bool:
        """Redo what was undone."""
        if self.buffer.can_redo:
            self.buffer.redo()
            return False
        return self._move(self.session.redo)

    def next(self) -> bool:
        """Show the next completion of the same text; False if the text was written on."""
        return self._turn(self.session.next)

    def previous(self) -> bool:
        """Show the previous completion."""
        return self._turn(self.session.previous)

    def _turn(self, command: Callable[[], bool]) -> bool:
        if self.dirty and not self.has_tail:
            return False
        self.keep_typing()
        return self._move(command)

    def show_sibling(self, place: int) -> bool:
        """Show the completion at that place among its siblings."""
        completions = self.session.completions()
        if place >= len(completions):
            return False
        self.keep_typing()
        return self._move(self.session.show, completions[place])

    def parent(self) -> bool:
        """Move back to where this text forked."""
        self.keep_typing()
        return self._move(self.session.parent)

    def child(self) -> bool:
        """Move forward along the newest branch."""
        self.keep_typing()
        return self._move(self.session.child)

    def go(self, node: str, at: int) -> bool:
        """Make the document end after `at` tokens of a node's path."""
        self.keep_typing()
        return self._move(self.session.go, node, at)

    def hide(self, node: str) -> bool:
        """Hide a node and its descendants; nothing is erased."""
        self.keep_typing()
        return self._move(self.session.hide, node)

    def fork(self, at: int, choice: int) -> bool:
        """Take alternative `choice` in place of token `at`, counted from the document's end: 0 is
        the completion's first, −1 the document's last. Raises Trouble.
        """
        session = self.session
        self.keep_typing()
        try:
            node, index = session.locate(session.head.at + at)
            alternative = session.tree[node].tokens[index].choices[choice]
        except IndexError:
            raise Trouble("that token is gone") from None
        return self._move(session.fork, node, index, alternative)

    def _move(self, command: Callable[..., object], *args: Any) -> bool:
        """Move the head, and show the document there. If the move leads into a conversation or out
        of it, the buffer switches too.
        """
        here = self.session.head
        if command(*args) is False:
            return False
        said = chat.is_chat(self.session)
        beginning = self.chatting and self.session.head.node is None
        if said != self.chatting and not beginning:
            self._change_sides(here, said)
        self.show()
        return True
