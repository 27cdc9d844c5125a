"""Prefix constraint: the first tokens must spell given bytes (those cut off the prompt's last
word).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import torch
from torch import Tensor


class Spellings:
    """The ordinary tokens of a vocabulary, indexed by their bytes; built once per vocabulary."""

    def __init__(
        self, size: int, data: Callable[[int], bytes], is_added: Callable[[int], bool]
    ) -> None:
        pairs = [(data(each), each) for each in range(size) if not is_added(each)]
        self._pairs = sorted(pair for pair in pairs if pair[0])
        self._bytes = [spelled for spelled, _ in self._pairs]

    def allowed(self, beginning: bytes) -> Tensor:
        """Ids, int64, of the tokens whose bytes begin with `beginning` or are a beginning of it."""
        start = bisect_left(self._bytes, beginning)
        ids = []
        for spelled, token_id in self._pairs[start:]:
            if not spelled.startswith(beginning):
                break
            ids.append(token_id)
        for size in range(1, len(beginning)):
            part = beginning[:size]
            place = bisect_left(self._bytes, part)
            while place < len(self._bytes) and self._bytes[place] == part:
                ids.append(self._pairs[place][1])
                place += 1
        return torch.tensor(sorted(ids), dtype=torch.int64)


def rest_of(beginning: bytes, spelled: bytes) -> bytes:
    """The part of `beginning` that is still to be spelled after a token of bytes `spelled`."""
    return beginning[len(spelled) :]
