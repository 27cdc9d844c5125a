"""Messages from widgets to the screen; each says what happened, not what to do."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message


@dataclass
class TakeChoice(Message):
    """A person takes alternative `choice` of token `at` and continues from there."""

    at: int
    choice: int


@dataclass
class GoTo(Message):
    """A person wants the head after `at` tokens of `node`."""

    node: str
    at: int


@dataclass
class ShowSibling(Message):
    """A person wants to see the sibling at this place of the tabs."""

    place: int
