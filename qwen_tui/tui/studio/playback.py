"""Plays a stored session back: commands at once, generations at their recorded speed.

Law: the played session is rebuilt from the recorded entries alone, and is never saved.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import zip_longest
from typing import Literal, TypeAlias

from qwen_tui.session.session import Session
from qwen_tui.types import Entry, Happened, Moved, Request, Started

Outcome: TypeAlias = Literal["played", "stopped", "failed"]


def request_of(session: Session, started: Started) -> Request:
    """The request by whose prompt the replay backend finds a recorded generation."""
    run = session.generations[started.generation]
    path = tuple(session.tree.path(*run.place))
    prompt = run.prompt(path)
    return Request(
        path if prompt is None else prompt, max_tokens=-1, branches=max(1, len(started.nodes))
    )


async def play(
    entries: Sequence[Entry],
    session: Session,
    generate: Callable[[str, Request], Awaitable[Outcome]],
    moved: Callable[[], None],
) -> None:
    """Apply `entries` to a fresh `session`; each generation's events come from `generate`.

    A generation that cannot be played, and everything after a person stopped, is applied at once. A
    last completion that was accepted is shown as a completion. `moved` is called before each
    generation, to show the text it continues, and at the end.
    """
    played: set[str] = set()
    stopped = False
    for entry, following in zip_longest(entries, entries[1:]):
        if isinstance(entry, Happened) and entry.generation in played:
            continue
        session.apply(entry)
        if isinstance(entry, Started) and entry.nodes and not stopped:
            if isinstance(following, Moved) and following.node == entry.nodes[0]:
                session.apply(following)
            moved()
            outcome = await generate(entry.generation, request_of(session, entry))
            stopped = outcome == "stopped"
            if outcome == "played":
                played.add(entry.generation)
    _show_last_completion(session)
    moved()


def _show_last_completion(session: Session) -> None:
    """Move the head before the completion that ends the document, so that its tokens can be
    inspected.
    """
    node, at = session.head
    if node is None or session.generation_of(node) is None:
        return
    if at == session.accept_end(node):
        session.apply(Moved(node, session.tree[node].at))
