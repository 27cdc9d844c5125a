"""What an action of the interface is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Where: TypeAlias = Literal["studio", "inspector", "dials", "branches", "app"]


@dataclass(frozen=True, slots=True)
class Action:
    """One action.

    `id` also names the method, `action_<id>`. `name` is shown in the footer, `help` is one
    sentence. `rank` orders the footer, lowest first; 0 keeps it out. An action without keys is in
    the palette only. `where` is where its keys work: the studio, one focused panel, the app.
    """

    id: str
    name: str
    keys: tuple[str, ...]
    help: str
    rank: int = 0
    where: Where = "studio"
    group: str = ""

    @property
    def priority(self) -> bool:
        """Whether its keys are asked before the focused widget sees them."""
        return self.where in ("studio", "app")
