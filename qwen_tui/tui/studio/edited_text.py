"""The text a person edits and the session it belongs to: typing, and every move of the head.

Law: it knows no Textual. Nothing a person typed is lost: before the head moves, typing that waits
is kept in the tree. Commands return whether the head moved.
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
    """Holds the text while it is edited, as the studio's editor does.

    `caret` counts the characters before the cursor. `set_text` shows another text and forgets the
    steps of undo; `replace_all` is one such step.
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
    """The document of one session, or during a chat the message, as it stands in `buffer`."""

    def __init__(self, opened: OpenSession, buffer: Buffer) -> None:
        self.opened = opened
        self.buffer = buffer
        self.chatting = chat.is_chat(opened.session)
        """The buffer holds a message, and the head stands in the conversation."""
        self.count = 0
        """Tokens of the context as the text stands; an estimate without a tokenizer."""
        self.composed = True
        """The text is NFC, as what models learned from is."""
        self.revision = 0
        """Grows whenever another text is put into the buffer."""
        self._other = Place(None, 0)
        """Where the document stands during a chat, or the chat otherwise."""
        self._waiting = ""
        """The text there: the document during a chat, or the message otherwise."""
        self._shown = ""
        """The document as it was last put into the buffer; what differs from it is typing."""
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
        """There is typing that is not committed; a message that is not sent is none."""
        return not self.chatting and self.buffer.text != self.session.text

    @property
    def has_tail(self) -> bool:
        """The model went on from the document, and with more than an eos that ended it."""
        id, at = self.session.head
        shown = self.session.completion is not None
        return id is not None and shown and self.session.accept_end(id) > at

    @property
    def tentative(self) -> bool:
        """There is a completion to take, and it belongs to the text as it stands."""
        return self.has_tail and not self.chatting and not self.dirty

    @property
    def regenerates(self) -> bool:
        """There is a completion, shown or just accepted, that can be asked for again."""
        session = self.session
        last = session.tree.resolve(*session.head).node
        return session.completion is not None or (
            last is not None and session.tree[last].source == "model"
        )

    @property
    def document(self) -> str:
        """The document with its typing, also while the buffer holds a message."""
        return self._waiting if self.chatting else self.buffer.text

    def measure(self) -> None:
        """Count the tokens of the text as it stands in the buffer."""
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
        """Put the document into the buffer, in place of typing that waits."""
        if not self.chatting:
            self._put(self.session.text)
            self._shown = self.session.text

    def restore(self, beginning: str = "") -> None:
        """Put in what stood there when the session was left: the document, and typing that was not
        committed. `beginning` stands in an empty document.
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
        """Where the buffer holds nothing of its own, it shows the document, wherever that went."""
        text = self.session.text
        if self.chatting or text == self._shown:
            return
        if self.buffer.text == self._shown:
            self._put(text)
        self._shown = text

    def replace(self, text: str) -> bool:
        """Take a text that was edited elsewhere: as the document, or in a chat as the message."""
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
        """Make what was typed the document; False when nothing was."""
        if not self.dirty:
            return False
        self.session.commit_typing(self.buffer.text)
        self._put(self.session.text)
        self.keep_draft()
        return True

    def keep_typing(self) -> None:
        """Before the head moves elsewhere: what was typed stays in the tree as a branch, and undo
        leads back to it.
        """
        if self.dirty:
            here = self.session.head
            self.session.commit(self.buffer.text)
            self.session.go(here.node, here.at)
            self.keep_draft()

    def keep_draft(self) -> None:
        """Hand what stands in the buffer to the draft journal."""
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
        """Before the session is left: typing waits in its draft, and a session that has no file yet
        gets one, for nobody would find the draft of a session that is in no list. A chat in which
        nothing was said is no place to find again.
        """
        if self.unsaid and not self.buffer.text:
            self.turn_to(chatting=False)
        if self.dirty and not len(self.session.tree):
            self.commit_typing()
        self.keep_draft()

    # -- a chat ------------------------------------------------------------------------------------

    def turn_to(self, *, chatting: bool) -> None:
        """Turn to the conversation, or to the document; each is found again where it stood."""
        self.commit_typing()
        here, there = self.session.head, self._other
        self.session.go(there.node, there.at)
        self._change_sides(here, chatting)
        self.show()

    def _change_sides(self, here: Place, chatting: bool) -> None:
        """Put the other side's text into the buffer; this one is found again at `here`."""
        waiting = self._waiting
        self._other, self._waiting, self.chatting = here, self.buffer.text, chatting
        if chatting:
            self._put(waiting)

    @property
    def unsaid(self) -> bool:
        """It is a chat in which nothing was said yet."""
        return self.chatting and not chat.is_chat(self.session)

    def send(self) -> None:
        """Say what was typed; with nothing typed the model goes on with its answer. Raises
        Trouble.
        """
        session, text = self.session, self.buffer.text
        if session.vocab is None:
            raise Trouble("the model is not open yet", hint="what you typed stays here")
        if text:
            chat.say(session, session.vocab, text)
        else:
            session.accept()
        self._put("")
        self.keep_draft()

    def take_back_message(self) -> bool:
        """Put the person's last message into the box, and the head before it: what is sent then is
        a branch from there.
        """
        found = chat.last_message(self.session) if self.chatting else None
        if found is None:
            return False
        place, text = found
        self.session.go(*place)
        self.buffer.replace_all(text)
        return True

    def begin_chat(self) -> None:
        """Stand before the first turn: what is said next begins another conversation."""
        if self.chatting:
            self.session.go(None, 0)
        else:
            self._other = Place(None, 0)

    # -- moves of the head -------------------------------------------------------------------------

    def accept(self) -> bool:
        """Move the whole completion into the document."""
        return self._move(self.session.accept)

    def accept_to(self, at: int) -> bool:
        """Move the completion up to its token `at`, and the rest of a character that it begins,
        into the document.
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
        """Take back typing first, then the last move of the head."""
        if (self.dirty or self.chatting) and self.buffer.can_undo:
            self.buffer.undo()
            return False
        if self.dirty:
            self.keep_typing()
            self.show()
            return True
        return self._move(self.session.undo)

    def redo(self) -> bool:
        """Do again what was taken back."""
        if self.buffer.can_redo:
            self.buffer.redo()
            return False
        return self._move(self.session.redo)

    def next(self) -> bool:
        """Show the next completion of the same text."""
        self.keep_typing()
        return self._move(self.session.next)

    def previous(self) -> bool:
        """Show the one before."""
        self.keep_typing()
        return self._move(self.session.previous)

    def show_sibling(self, place: int) -> bool:
        """Show the completion at that place among its siblings."""
        completions = self.session.completions()
        if place >= len(completions):
            return False
        self.keep_typing()
        return self._move(self.session.show, completions[place])

    def parent(self) -> bool:
        """Back to where this text forked."""
        self.keep_typing()
        return self._move(self.session.parent)

    def child(self) -> bool:
        """On along the newest branch."""
        self.keep_typing()
        return self._move(self.session.child)

    def go(self, node: str, at: int) -> bool:
        """Make the document end after `at` tokens of a node's path."""
        self.keep_typing()
        return self._move(self.session.go, node, at)

    def hide(self, node: str) -> bool:
        """Hide a node and what follows from it; nothing is erased."""
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
        """Move the head, and show the document there. A move may lead from the document into a
        conversation, or out of it: then the buffer changes sides, too.
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
