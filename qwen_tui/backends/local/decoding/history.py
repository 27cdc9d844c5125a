"""The samplers' state for a branch: its ids, and the probabilities of those that were drawn.

Law: it follows from the tokens of the branch alone, so undo, a sibling and a reopened session have
the same state.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import torch
from torch import Tensor

from qwen_tui.numeric_settings import idle
from qwen_tui.types import Sampling, Token

_STRETCH: Final = 256
"""Number of the last ids that are first searched for a sequence breaker."""


class PenaltyWindow:
    """Counts of the last `last_n` ids of a context: -1 counts all of them, 0 none."""

    def __init__(self, last_n: int, ids: Sequence[int] = ()) -> None:
        self.last_n = last_n
        self._ids: deque[int] = deque()
        self.counts: Counter[int] = Counter()
        for each in ids if last_n < 0 else ids[len(ids) - min(last_n, len(ids)) :]:
            self.push(each)

    def push(self, token_id: int) -> None:
        """Append an id; the oldest one leaves when the window is full."""
        if self.last_n == 0:
            return
        self._ids.append(token_id)
        self.counts[token_id] += 1
        if 0 < self.last_n < len(self._ids):
            oldest = self._ids.popleft()
            self.counts[oldest] -= 1
            if not self.counts[oldest]:
                del self.counts[oldest]

    def copy(self) -> PenaltyWindow:
        """An independent window with the same counts."""
        other = PenaltyWindow(self.last_n)
        other._ids, other.counts = self._ids.copy(), self.counts.copy()
        return other


class Breakers:
    """How many ids follow the last sequence breaker. A breaker is found in the exact bytes of the
    ids, however it was tokenised; an id with a byte of it does not count.
    """

    def __init__(self, texts: Sequence[str], data: Callable[[int], bytes]) -> None:
        self._texts = [each.encode("utf-8", "surrogatepass") for each in texts]
        self._data = data
        self._reach = max(map(len, self._texts), default=1) - 1
        self._tail = b""
        self.since = 0

    def read(self, ids: Sequence[int]) -> None:
        """Read a context backwards from its end, as far as necessary."""
        size = _STRETCH
        while True:
            part = ids[-size:]
            self._tail, self.since = b"", 0
            for each in part:
                self.push(each)
            if self.since < len(part) or len(part) == len(ids):
                return
            size *= 8

    def push(self, token_id: int) -> None:
        """Append an id."""
        text = self._tail + self._data(token_id)
        ended = max(
            (text.rfind(each) + len(each) for each in self._texts if each in text), default=0
        )
        self.since = 0 if ended > len(self._tail) else self.since + 1
        self._tail = text[-self._reach :] if self._reach else b""

    def copy(self) -> Breakers:
        """An independent one in the same state."""
        other = Breakers((), self._data)
        other._texts, other._reach = self._texts, self._reach
        other._tail, other.since = self._tail, self.since
        return other


class Steering:
    """The state of mirostat and adaptive-p, from the `share` of each token they drew.

    `mu` is mirostat's bound on surprise, in bits; `mean` adaptive-p's mean of probabilities.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._tau, self._eta = sampling.mirostat_tau, sampling.mirostat_eta
        self._decay = sampling.adaptive_decay
        self.mu = 2 * self._tau
        # As if the target had been met for ever, so that the first tokens do not overshoot.
        self._weight = 1 / (1 - self._decay)
        self._sum = sampling.adaptive_target * self._weight

    @property
    def mean(self) -> float:
        """The exponentially weighted mean of the shares so far."""
        return self._sum / self._weight

    def push(self, share: float) -> None:
        """Append the share of the next token."""
        self.mu -= self._eta * (-math.log2(share) - self._tau)
        self._sum = share + self._decay * self._sum
        self._weight = 1 + self._decay * self._weight

    def copy(self) -> Steering:
        """An independent one in the same state."""
        other = object.__new__(Steering)
        other._tau, other._eta, other._decay = self._tau, self._eta, self._decay
        other.mu, other._weight, other._sum = self.mu, self._weight, self._sum
        return other


class History:
    """The state of one branch. `ids` are kept only if a stage looks for repetitions, `steering`
    only for mirostat and adaptive-p.
    """

    def __init__(self, sampling: Sampling, ids: Sequence[int] = ()) -> None:
        self.window = PenaltyWindow(sampling.repeat_last_n, ids)
        self.ids: array[int] | None = None
        self.breakers: Breakers | None = None
        self.steering: Steering | None = None
        if not idle(sampling, "dry_multiplier") or sampling.no_repeat_ngram:
            self.ids = array("q", ids)
        if sampling.mirostat or sampling.adaptive_target >= 0:
            self.steering = Steering(sampling)

    @classmethod
    def of(
        cls, sampling: Sampling, tokens: Iterable[Token], data: Callable[[int], bytes]
    ) -> History:
        """The state after `tokens`, whose exact bytes `data` knows."""
        tokens = tuple(tokens)
        ids = [token.id for token in tokens]
        history = cls(sampling, ids)
        if not idle(sampling, "dry_multiplier"):
            history.breakers = Breakers(sampling.dry_sequence_breakers, data)
            history.breakers.read(ids)
        if history.steering is not None:
            for token in tokens:
                if token.share is not None:
                    history.steering.push(token.share)
        return history

    def push(self, token_id: int, share: float | None = None) -> None:
        """Append an id, and its probability among the candidates of an adaptive sampler."""
        self.window.push(token_id)
        if self.ids is not None:
            self.ids.append(token_id)
        if self.breakers is not None:
            self.breakers.push(token_id)
        if self.steering is not None and share is not None:
            self.steering.push(share)

    def copy(self) -> History:
        """An independent one in the same state."""
        other = object.__new__(History)
        other.window = self.window.copy()
        other.ids = self.ids[:] if self.ids is not None else None
        other.breakers = self.breakers.copy() if self.breakers is not None else None
        other.steering = self.steering.copy() if self.steering is not None else None
        return other

    def last(self, count: int) -> Tensor:
        """The last `count` ids [n] int64 (-1: all)."""
        ids = self.ids if self.ids is not None else array("q")
        part = ids if count < 0 else ids[max(0, len(ids) - count) :]
        return torch.tensor(part, dtype=torch.int64) if len(part) else torch.zeros(0).long()
