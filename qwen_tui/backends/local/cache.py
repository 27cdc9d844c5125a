"""Which ids a model's cache holds, and what of them the next request can use.

Law: `ids` are exactly the positions the model holds, after every generation, however it ended.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwen_tui.backends.local.model import Model


class Held:
    """The ids behind a model's cache (of its first row)."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def keep(self, model: Model, ids: Sequence[int]) -> int:
        """Rewind `model` to the longest prefix it shares with `ids`; returns how long that is.

        At most len(ids) - 1: at least one id must be run, or there would be no logits.
        """
        shared = min(common(self.ids, ids), max(0, len(ids) - 1))
        self.ids = self.ids[: model.rewind(shared)]
        return len(self.ids)


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return place
    return min(len(left), len(right))
