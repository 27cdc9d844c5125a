"""What a person does with a chat: turns to it, changes a message, says what it begins with.

Law: a conversation that was left stays a branch. Functions return whether they did anything.
"""

from __future__ import annotations

from qwen_tui.tui.studio import chat
from qwen_tui.tui.studio.announcement import Announcement
from qwen_tui.tui.studio.workspace import Workspace


def turn(work: Workspace) -> bool:
    """Turn to the chat, or back to the document; each remembers where it stood."""
    chatting = not work.text.chatting
    refusal = chat.refusal(work.session.vocab, work.model) if chatting else None
    if refusal is not None:
        work.tell(Announcement.of(refusal))
        return False
    work.text.turn_to(chatting=chatting)
    if chatting and not work.instruct:
        work.tell(Announcement(chat.BASE, kind="mild"))
    return True


def take_back_message(work: Workspace) -> bool:
    """Take the last message back into the box; what is sent then is a branch from there."""
    if work.text.take_back_message():
        return True
    work.tell(Announcement("There is no message before this."))
    return False


def set_system_message(work: Workspace, text: str) -> bool:
    """Let conversations of the session begin with `text`; empty: as the template begins them."""
    if text == chat.system_message(work.session):
        return False
    work.session.remember(**{chat.SYSTEM: text})
    work.text.begin_chat()
    work.tell(Announcement("The next message begins a conversation with it."))
    return True
