"""Which panes are shown at a terminal's size.

Law: at every size the pane a person works in is shown, and every other one is a key press away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

Pane: TypeAlias = Literal["document", "completion", "sampling", "alternatives", "branches"]

PANES: Final[tuple[Pane, ...]] = ("document", "completion", "sampling", "alternatives", "branches")
LEFT: Final[tuple[Pane, ...]] = ("document", "completion")
RIGHT: Final[tuple[Pane, ...]] = ("sampling", "alternatives")
TWO_COLUMNS: Final = 72
"""Width from which there are two columns."""
STACKED_LEFT: Final = 13
"""Height from which the document and the completion are shown together."""
STACKED_RIGHT: Final = 18
"""Height from which the controls and the inspector are shown together."""
WIDE: Final = 104
"""Width from which the right column is wider."""
ROOMY: Final = 32
"""Height from which all sampling controls are visible beside the inspector."""
BORDERED: Final = 9
"""Height from which panes have borders."""


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
    `inline`: the completion is in the document, and its own pane is shown only while its tokens are
    inspected. `inspected`: the pane whose tokens the inspector walks.
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
    """The next pane, cyclically."""
    there = [each for each in PANES if each != "branches" or branches]
    there = [each for each in there if not branches or each not in RIGHT]
    return there[(there.index(pane) + 1) % len(there)] if pane in there else there[0]
