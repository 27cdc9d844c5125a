"""What a person does with a chat: turns to it, changes a message, says what it begins with.

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


def turn(work: Workspace) -> bool:
    """Turn to the chat, or back to the document; each remembers where it stood."""
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
    """The controls, where a person chose no sampling: a chat with a model that was tuned to answer
    has its makers' values, a document those of the settings.
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
