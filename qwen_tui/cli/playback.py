"""`replay`: prints the text of a stored session, each completion at its recorded speed.

Law: no model is loaded and no file written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from qwen_tui.backends.replay import paced
from qwen_tui.cli.signals import die, stopping
from qwen_tui.cli.stderr import Reporter
from qwen_tui.cli.stdout import BranchPrinter, opened
from qwen_tui.session.session import Session
from qwen_tui.session.tree import PathPart
from qwen_tui.types import DONE, NO_INPUT, Emitted, Happened, Token, Trouble, joined


def play(name: str, *, speed: float, max_gap: float | None, raw: bool, quiet: bool) -> int:
    """Play the session of that name on standard output; returns the exit code."""
    from qwen_tui.cli.arguments import stored_session

    session = stored_session(name)
    pieces = session.tree.chain(session.head.node)
    if not pieces:
        raise Trouble("this session holds no text to play back", code=NO_INPUT)
    rhythm = rhythms(session)
    with Reporter(quiet=quiet) as reporter, stopping() as stopped, opened(None, raw=raw) as output:
        reporter.say(f"replay of {session.title or session.id} (playback of what was stored)")
        printer = BranchPrinter(output)
        for piece in pieces:
            for data in steps(piece, rhythm, stopped.cancel, speed=speed, max_gap=max_gap):
                printer.feed(0, data)
            if stopped.by is not None:
                break
        printer.finish()
    if stopped.by is not None:
        die(stopped.by)
    return DONE


def rhythms(session: Session) -> dict[str, list[Emitted]]:
    """The recorded steps of every model node."""
    found: dict[str, list[Emitted]] = {}
    for entry in session.entries:
        if isinstance(entry, Happened) and isinstance(entry.event, Emitted):
            run = session.generations.get(entry.generation)
            if run is not None and entry.event.branch in run.by_number:
                node = run.by_number[entry.event.branch].node
                found.setdefault(node, []).append(entry.event)
    return found


def steps(
    piece: PathPart,
    rhythm: dict[str, list[Emitted]],
    cancel: threading.Event,
    *,
    speed: float,
    max_gap: float | None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[bytes]:
    """The bytes of one part of the path; a completion's come step by step, each at its time."""
    if piece.node.folded:
        return
    recorded = rhythm.get(piece.node.id)
    if recorded is None:
        yield joined(piece.tokens)
        return
    left: list[Token] = list(piece.tokens)
    if piece.node.reason == "eos" and len(left) == len(piece.node.tokens):
        left.pop()
    for event in paced(recorded, cancel, speed=speed, max_gap=max_gap, clock=clock):
        assert isinstance(event, Emitted)
        now, left = left[: len(event.tokens)], left[len(event.tokens) :]
        yield joined(now)
        if not left:
            return
