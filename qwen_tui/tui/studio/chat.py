"""Chat in the studio: turns from typed messages, and the conversation as text.

Law: a turn is written by the tokenizer's own template or not at all; turns in the tree are never
rendered again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qwen_tui import chat
from qwen_tui.session.session import Session
from qwen_tui.session.tree import Place
from qwen_tui.types import Backend, Trouble, text_of

if TYPE_CHECKING:
    from qwen_tui.vocab import Vocab

SYSTEM: Final = "system"
"""The key of a session's system message among its remembered values."""
SPEAKERS: Final = {"user": "You", "assistant": "Model", "system": "System"}
"""Names of roles on the screen."""
NO_TEMPLATE: Final = Trouble(
    "This model has no chat template: it goes on with a text and does not answer.",
    hint="An Instruct checkpoint chats: choose another model.",
)
NO_TOKENIZER: Final = Trouble(
    "The tokenizer is on the server alone, and with it the template that a chat needs.",
    hint="tokenizer = under [engines.NAME] names a model of this machine that has the same one.",
)
BASE: Final = (
    "A base model: it was not trained to answer. It goes on with the conversation as with any "
    "text, and may speak for you, too."
)

NO_DOCUMENT: Final = Trouble(
    "there is no document beside this conversation", hint="nothing was written"
)
NOTHING_SAID: Final = Trouble("nothing is said yet", hint="type a message first")


def refusal(vocab: Vocab | None, model: Backend | None) -> Trouble | None:
    """Why chat is not possible now; None if it is."""
    if vocab is not None:
        return NO_TEMPLATE if vocab.chat_template is None else None
    waits = model is None or model.abilities.token_ids
    return Trouble("the model is not open yet") if waits else NO_TOKENIZER


def is_chat(session: Session) -> bool:
    """Whether the head is in a conversation."""
    return any(part.node.role in SPEAKERS for part in session.parts())


def transcript(session: Session) -> str:
    """The conversation before the shown answer, with that answer's heading if none of it is part of
    the conversation yet.
    """
    turns, shown = session.turns(), session.completion
    blocks = [_heading(role) + f"{text.rstrip()}\n\n" for role, text in turns]
    if turns and shown is not None and not session.is_empty(shown):
        role, text = turns[-1]
        if role == "assistant":
            blocks[-1] = _heading(role) + text
        else:
            blocks.append(_heading("assistant"))
    return "".join(blocks)


def _heading(role: str) -> str:
    return f"── {SPEAKERS.get(role, role or 'Text')} ──\n"


def say(session: Session, vocab: Vocab, text: str, role: str = "user") -> None:
    """Add a person's turn and open the answer; a shown answer is accepted first. A conversation
    begins with the session's system message.

    Raises Trouble if there is no template or it fails.
    """
    session.accept()
    turns, path = [turn for turn in session.turns() if turn[0]], session.tokens
    system = system_message(session)
    first = None
    if system and not turns:
        first = chat.tail(vocab, (), ("system", system), path=path, reply=False)
        turns, path = [("system", system)], [*path, *first.before, *first.tokens]
    tail = chat.tail(vocab, turns, (role, text), path=path)
    if first is not None:
        session.add_turn("system", first.tokens, before=first.before)
    session.add_turn(role, tail.tokens, before=tail.before, after=tail.after)


def system_message(session: Session) -> str:
    """The system message of the session's conversations; "" for the template's own."""
    system = session.remembered.get(SYSTEM)
    return system if isinstance(system, str) else ""


def last_message(session: Session) -> tuple[Place, str] | None:
    """The person's last message before the head, and the place before the template's tokens around
    it; None if there is none.
    """
    parts = session.parts()
    end = next((at for at in range(len(parts), 0, -1) if parts[at - 1].node.role == "user"), 0)
    if not end:
        return None
    start = end - 1
    while start and parts[start - 1].node.role == "user":
        start -= 1
    before = start
    while before and parts[before - 1].node.folded:
        before -= 1
    text = text_of(token for part in parts[start:end] for token in part.tokens)
    return session.tree.resolve(session.head.node, parts[before].start), text
