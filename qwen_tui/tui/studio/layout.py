"""Which panes stand on the screen at a terminal's size.

Law: at every size the pane a person works in is there, and every other one is a key press away.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Pane: TypeAlias = Literal["editor", "output", "dials", "choices", "branches"]

PANES: Final[tuple[Pane, ...]] = ("editor", "output", "dials", "choices", "branches")
LEFT: Final[tuple[Pane, ...]] = ("editor", "output")
RIGHT: Final[tuple[Pane, ...]] = ("dials", "choices")
TWO_COLUMNS: Final = 72
"""From this width on both columns stand side by side."""
STACKED_LEFT: Final = 13
"""From this height on the editor and the output stand above each other."""
STACKED_RIGHT: Final = 18
"""From this height on the controls and the inspector stand above each other."""
WIDE: Final = 104
"""From this width on the right column has room to spare."""
ROOMY: Final = 32
"""From this height on all sampling controls are in view beside the inspector."""
BORDERED: Final = 9
"""From this height on panes have borders."""


def shown(
    width: int, height: int, pane: Pane, *, roads: bool, inline: bool = False
) -> frozenset[Pane]:
    """The panes to show; `pane` is the one a person works in, `roads` whether the tree is open.
    `inline`: the completion stands in the editor; the output is there only to look at its tokens.
    """
    if inline:
        left: frozenset[Pane] = frozenset(["output" if pane in ("output", "choices") else "editor"])
    else:
        left = frozenset(LEFT if height >= STACKED_LEFT else [pane if pane in LEFT else "output"])
    if roads:
        right: frozenset[Pane] = frozenset(["branches"])
    else:
        both = height >= STACKED_RIGHT
        right = frozenset(RIGHT if both else [pane if pane in RIGHT else "choices"])
    if width >= TWO_COLUMNS:
        return left | right
    return left if pane in LEFT else right


def after(pane: Pane, *, roads: bool) -> Pane:
    """The next pane, around and around."""
    there = [each for each in PANES if each != "branches" or roads]
    there = [each for each in there if not roads or each not in RIGHT]
    return there[(there.index(pane) + 1) % len(there)] if pane in there else there[0]
