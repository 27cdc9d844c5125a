"""What the workspace tells a person, as a value; the screen decides where it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from qwen_tui.types import Trouble

Offer: TypeAlias = Literal["", "fork", "models"]


@dataclass(frozen=True, slots=True)
class Announcement:
    """A message to the person from a command or an event.

    A "passing" one disappears by itself; "trouble" and "mild" notices stay until they are closed,
    and one without text removes the notice. `offer` is what the screen offers with it: to fork a
    session that cannot be written, to choose another model.
    """

    text: str
    hint: str = ""
    kind: Literal["passing", "mild", "trouble"] = "passing"
    seconds: float = 3.0
    offer: Offer = ""

    @classmethod
    def of(cls, trouble: Trouble) -> Announcement:
        """A Trouble as a notice that stays."""
        return cls(trouble.message, trouble.hint, "trouble")


NOTHING: Final = Announcement("", kind="mild")
"""Removes the notice."""
