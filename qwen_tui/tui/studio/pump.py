"""Frame by frame: take a batch of events, apply each to the session, paint the batch once.

Law: every event is applied exactly once, in order; the first token is painted at once, later ones
at most once a frame, so that a fast model costs the screen no more than a slow one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from qwen_tui.engine.channel import Channel
from qwen_tui.types import Emitted, Event

FRAME_S: Final = 1 / 30
"""Shortest time in seconds between two paints."""


async def pump(
    channel: Channel,
    apply: Callable[[Event], None],
    paint: Callable[[Sequence[Event]], None],
    *,
    frame_s: float = FRAME_S,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Carry one generation from its channel to the screen until every branch has finished.

    `apply` is called for each event, then `paint` with the batch. Events within a frame's time wait
    in the channel, whose limit slows the engine down, not the screen.
    """
    painted = -frame_s
    begun = False
    while batch := await channel.take():
        for event in batch:
            apply(event)
        first = not begun and any(isinstance(event, Emitted) for event in batch)
        begun = begun or first
        paint(batch)
        painted = clock()
        if not first and not channel.closed:
            await asyncio.sleep(max(0.0, painted + frame_s - clock()))
