"""What widgets and the engine tell the screen; each says what happened, none says what to do."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message

from qwen_tui.types import Backend, Progress, Trouble


class Loading(Message):
    """How far opening the model is. Only the newest one counts."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress

    def can_replace(self, message: Message) -> bool:
        """A newer report makes an unread one worthless."""
        return isinstance(message, Loading)


@dataclass
class Ready(Message):
    """The model is open."""

    opened: Backend


@dataclass
class Failed(Message):
    """The model could not be opened."""

    trouble: Trouble


class Saved(Message):
    """The store's word changed: saved, saving or failing. Only the newest one counts."""

    def can_replace(self, message: Message) -> bool:
        """The screen asks the store itself, so one word is as good as ten."""
        return isinstance(message, Saved)


@dataclass
class TakeChoice(Message):
    """A person takes alternative `choice` of token `at` and wants to go on from there."""

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
