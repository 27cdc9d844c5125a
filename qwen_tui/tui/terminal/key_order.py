"""Makes keys take effect in the order they were pressed.

Textual runs a priority binding at once, while keys typed before it still wait in the focused
widget's queue: when text and Ctrl+J arrive in one burst, it would generate from half the text.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any, Final, TypeVar

from textual import events
from textual.app import App

LONGEST_WAIT_S: Final = 0.5
"""Longest delay of a key in seconds, whatever the widget does."""

Returned = TypeVar("Returned")


class OrderedKeys(App[Returned]):
    """An app whose priority keys wait until earlier input was handled.

    Law: waiting keys are released one at a time, each after all input before it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._late: deque[events.Key] = deque()
        self._let_through: events.Key | None = None
        self._turn = 0

    async def on_event(self, event: events.Event) -> None:
        """Delay a key, or let it take effect."""
        if not isinstance(event, events.Key) or event.is_forwarded:
            await super().on_event(event)
        elif event is self._let_through:
            self._let_through = None
            await super().on_event(event)
            if self._late:
                self._wait()
        elif self._late or self._let_through is not None or self._overtakes(event):
            self._late.append(event)
            if len(self._late) == 1 and self._let_through is None:
                self._wait()
        else:
            await super().on_event(event)

    def _overtakes(self, event: events.Key) -> bool:
        """Whether this key would take effect before older input."""
        focused = self.focused
        if focused is None or not focused.message_queue_size:
            return False
        chain = self.screen._binding_chain
        found = (bound for _, map in chain for bound in map.key_to_bindings.get(event.key, ()))
        return any(bound.priority for bound in found)

    def _wait(self) -> None:
        """Release the next key when the focused widget has emptied its queue; a widget that is
        removed meanwhile never does.
        """
        self._turn += 1
        release = partial(self._release, self._turn)
        (self.focused or self).call_later(release)
        self.set_timer(LONGEST_WAIT_S, release)

    def _release(self, turn: int) -> None:
        if turn == self._turn and self._late and self._let_through is None:
            self._let_through = self._late.popleft()
            self.post_message(self._let_through)
