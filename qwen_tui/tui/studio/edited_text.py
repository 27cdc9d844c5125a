"""The text a person edits and the session it belongs to: typing, and every move of the head.

Law: it knows no Textual. Nothing a person typed is lost: before the head moves, typing that waits
is kept in the tree. Commands return whether the head moved.
"""

from __future__ import annotations

from typing import Protocol

from qwen_tui.session import drafts
from qwen_tui.session.drafts import Drafts
from qwen_tui.session.opening import OpenSession
from qwen_tui.session.session import Session
from qwen_tui.session.tree import Place
from qwen_tui.tui.studio import chat
from qwen_tui.types import Trouble
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
        self._other = (Place(None, 0), "")
        """Where the document stands during a chat, or the chat otherwise, and the text there."""
        self._shown = ""
        """The document as it was last put into the buffer; what differs from it is typing."""

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
        """Something goes on from the document, and more than an eos that ended it."""
        id, at = self.session.head
        return id is not None and self.session.accept_end(id) > at

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
        return self._other[1] if self.chatting else self.buffer.text

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
            opened.drafts = Drafts(session.id)
        if beginning and not session.text:
            self._put(beginning)

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
        self.session.commit(self.buffer.text)
        self._put(self.session.text)
        self.keep_draft()
        return True

    def keep_typing(self) -> None:
        """Before the head moves elsewhere: what was typed stays in the tree, as a branch."""
        if self.dirty:
            self.session.commit(self.buffer.text)
            self.session.undo()
            self.keep_draft()

    def keep_draft(self) -> None:
        """Hand what stands in the buffer to the draft journal."""
        if self.opened.drafts is not None:
            text = self.buffer.text
            before = "" if self.chatting else self.session.text
            caret = min(self.buffer.caret, len(text))
            self.opened.drafts.note(self.session.head, before, text, caret)

    def keep(self) -> None:
        """Before the session is left: typing waits in its draft, and a session that has no file yet
        gets one, for nobody would find the draft of a session that is in no list.
        """
        if self.dirty and not len(self.session.tree):
            self.commit_typing()
        self.keep_draft()

    # -- a chat ------------------------------------------------------------------------------------

    def turn_to(self, *, chatting: bool) -> None:
        """Turn to the conversation, or to the document; where the other one stands is kept."""
        session = self.session
        here, (there, text) = (session.head, self.buffer.text), self._other
        self._other = here
        self.chatting = chatting
        session.go(there.node, there.at)
        self._put(text)

    def send(self) -> None:
        """Say what was typed; with nothing typed the model goes on with its answer. Raises
        Trouble.
        """
        session, text = self.session, self.buffer.text
        if session.vocab is None:
            raise Trouble("the model is not open yet", hint="what you typed stays here")
        if text:
            chat.say(session, session.vocab, text)
        elif not chat.is_chat(session):
            raise Trouble("nothing is said yet", hint="type a message first")
        else:
            session.accept()
        self._put("")
        self.keep_draft()

    # -- moves of the head -------------------------------------------------------------------------

    def accept(self) -> bool:
        """Move the whole completion into the document."""
        return self._moved(self.session.accept())

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
        return self._moved(session.accept(session.head.node, before + count))

    def accept_word(self) -> bool:
        """Move the completion's next word into the document."""
        return self._moved(self.session.accept_word())

    def undo(self) -> bool:
        """Take back typing first, then the last move of the head."""
        if (self.dirty or self.chatting) and self.buffer.can_undo:
            self.buffer.undo()
            return False
        if self.dirty:
            self.keep_typing()
            return self._moved(True)
        return self._moved(self.session.undo())

    def redo(self) -> bool:
        """Do again what was taken back."""
        if self.buffer.can_redo:
            self.buffer.redo()
            return False
        return self._moved(self.session.redo())

    def next(self) -> bool:
        """Show the next completion of the same text."""
        self.keep_typing()
        return self._moved(self.session.next())

    def previous(self) -> bool:
        """Show the one before."""
        self.keep_typing()
        return self._moved(self.session.previous())

    def show_sibling(self, place: int) -> bool:
        """Show the completion at that place among its siblings."""
        completions = self.session.completions()
        if place >= len(completions):
            return False
        self.keep_typing()
        self.session.show(completions[place])
        return self._moved(True)

    def parent(self) -> bool:
        """Back to where this text forked."""
        self.keep_typing()
        return self._moved(self.session.parent())

    def child(self) -> bool:
        """On along the newest branch."""
        self.keep_typing()
        return self._moved(self.session.child())

    def go(self, node: str, at: int) -> bool:
        """Make the document end after `at` tokens of a node's path."""
        self.keep_typing()
        self.session.go(node, at)
        return self._moved(True)

    def hide(self, node: str) -> bool:
        """Hide a node and what follows from it; nothing is erased."""
        self.keep_typing()
        self.session.hide(node)
        return self._moved(True)

    def fork(self, at: int, choice: int) -> bool:
        """Take alternative `choice` in place of token `at` of the completion. Raises Trouble."""
        session = self.session
        self.keep_typing()
        try:
            node, index = session.locate(session.head.at + at)
            alternative = session.tree[node].tokens[index].choices[choice]
        except IndexError:
            raise Trouble("that token is gone") from None
        session.fork(node, index, alternative)
        return self._moved(True)

    def _moved(self, moved: bool) -> bool:
        if moved:
            self.show()
        return moved
