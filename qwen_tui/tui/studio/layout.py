"""Which panes stand on the screen at a terminal's size.

Law: at every size the pane a person works in is there, and every other one is a key press away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

Pane: TypeAlias = Literal["document", "completion", "sampling", "alternatives", "branches"]

PANES: Final[tuple[Pane, ...]] = ("document", "completion", "sampling", "alternatives", "branches")
LEFT: Final[tuple[Pane, ...]] = ("document", "completion")
RIGHT: Final[tuple[Pane, ...]] = ("sampling", "alternatives")
TWO_COLUMNS: Final = 72
"""From this width on both columns stand side by side."""
STACKED_LEFT: Final = 13
"""From this height on the document and the completion stand above each other."""
STACKED_RIGHT: Final = 18
"""From this height on the controls and the inspector stand above each other."""
WIDE: Final = 104
"""From this width on the right column has room to spare."""
ROOMY: Final = 32
"""From this height on all sampling controls are in view beside the inspector."""
BORDERED: Final = 9
"""From this height on panes have borders."""


def shown(
    width: int,
    height: int,
    pane: Pane,
    *,
    branches: bool,
    inline: bool = False,
    inspected: Pane = "completion",
) -> frozenset[Pane]:
    """The panes to show; `pane` is the one a person works in, `branches` whether the tree is open.
    `inline`: the completion stands in the document, its own pane only while its tokens are looked
    at. `inspected`: the pane whose tokens the inspector walks.
    """
    left: Sequence[Pane]
    right: Sequence[Pane]
    if inline:
        read = inspected if pane == "alternatives" else pane
        left = ["completion" if read == "completion" else "document"]
    else:
        left = LEFT if height >= STACKED_LEFT else [pane if pane in LEFT else inspected]
    if branches:
        right = ["branches"]
    else:
        right = RIGHT if height >= STACKED_RIGHT else [pane if pane in RIGHT else "alternatives"]
    if width >= TWO_COLUMNS:
        return frozenset((*left, *right))
    return frozenset(left if pane in LEFT else right)


def after(pane: Pane, *, branches: bool) -> Pane:
    """The next pane, around and around."""
    there = [each for each in PANES if each != "branches" or branches]
    there = [each for each in there if not branches or each not in RIGHT]
    return there[(there.index(pane) + 1) % len(there)] if pane in there else there[0]
