"""The commands for chats: switch to the chat, change a message, set the system message.

Law: a conversation that was left stays a branch. Functions return whether they did anything.
"""

from __future__ import annotations

from dataclasses import replace

from qwen_tui import presets
from qwen_tui.tui.sampling_controls import Controls
from qwen_tui.tui.studio import chat
from qwen_tui.tui.studio.announcement import Announcement
from qwen_tui.tui.studio.remembered import controls_set
from qwen_tui.tui.studio.workspace import Workspace
from qwen_tui.types import text_of


def turn(work: Workspace) -> bool:
    """Switch to the chat, or back to the document; each keeps its place."""
    chatting = not work.text.chatting
    refusal = chat.refusal(work.session.vocab, work.model) if chatting else None
    if refusal is not None:
        work.tell(Announcement.of(refusal))
        return False
    work.text.turn_to(chatting=chatting)
    work.controls = _controls(work)
    if chatting and not work.instruct:
        work.tell(Announcement(chat.BASE, kind="mild"))
    return True


def _controls(work: Workspace) -> Controls:
    """The default controls if a person chose no sampling: the recommended values in a chat with a
    model that was tuned to answer, else the settings'.
    """
    now, given = work.controls, controls_set(work.settings)
    names = ("preset", *(f"sampling.{name}" for name in presets.NAMES if name != "seed"))
    if work.checkpoint is None or not work.instruct or any(map(work.settings.explicit, names)):
        return now
    makers = replace(given, sampling=work.checkpoint, preset=presets.CHECKPOINT)
    was, then = (given, makers) if work.text.chatting else (makers, given)
    seed = now.sampling.seed
    if (now.preset, now.sampling) != (was.preset, replace(was.sampling, seed=seed)):
        return now
    return replace(now, sampling=replace(then.sampling, seed=seed), preset=then.preset)


def take_back_message(work: Workspace) -> bool:
    """Put the last message back into the box, and the head before it: sending it again begins a
    branch there. Words in the box that were never sent stay.
    """
    session, box = work.session, work.text.buffer
    found = chat.last_message(session) if work.text.chatting else None
    if found is None:
        work.tell(Announcement("There is no message before this."))
        return False
    sent = (node for node in session.tree.nodes.values() if node.role == "user")
    if box.text and all(text_of(node.tokens) != box.text for node in sent):
        work.tell(Announcement("Send or clear the message in the box first."))
        return False
    place, text = found
    session.go(*place)
    box.replace_all(text)
    return True


def set_system_message(work: Workspace, text: str) -> bool:
    """Set the session's system message; "" uses the template's own."""
    if text == chat.system_message(work.session):
        return False
    work.session.remember(**{chat.SYSTEM: text})
    work.text.begin_chat()
    work.tell(Announcement("The next message begins a conversation with it."))
    return True
