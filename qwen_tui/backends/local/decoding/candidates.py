"""What is still in the running for a position: the most probable candidates of a row, or all.

Law: a stage that needs to see more than is there raises `Undecided`, and is asked again with more.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from qwen_tui.backends.local.decoding.logprobs import as_float64


class Undecided(Exception):
    """There are not enough candidates to decide a stage."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What is still in the running: float64 `logits` and `ids`, sorted by (-logit, id).

    `whole` is False while less probable candidates exist beyond these; `log_mass` is then the
    logsumexp over them all, and `row` [V] float32 holds them all.
    """

    logits: Tensor
    ids: Tensor
    whole: bool = True
    log_mass: float = 0.0
    row: Tensor | None = None

    def logprobs(self) -> Tensor:
        """Log-probabilities among all that are still in the running."""
        if self.whole:
            return self.logits.log_softmax(0)
        return self.logits - self.log_mass

    def entropy(self) -> float:
        """−Σ p ln p over all that are still in the running, in nats."""
        logprobs = self.logprobs()
        if self.row is not None:
            logprobs = as_float64(self.row) - self.log_mass
        probs = logprobs.exp()
        return -float((probs * logprobs.masked_fill(probs == 0, 0.0)).sum())

    def kept(self, keep: Tensor) -> Candidates:
        """Those where `keep` is true; nothing beyond them is left."""
        return Candidates(self.logits[keep], self.ids[keep])

    def first(self, count: int) -> Candidates:
        """The `count` most probable; nothing beyond them is left."""
        return Candidates(self.logits[:count], self.ids[:count])


def need_whole(found: Candidates) -> Candidates:
    """`found`, if nothing is beyond it; else `Undecided`."""
    if not found.whole:
        raise Undecided
    return found


def sorted_candidates(logits: Tensor, ids: Tensor) -> Candidates:
    """Candidates from values in any order."""
    by_id = ids.argsort()
    logits, ids = logits[by_id], ids[by_id]
    logits, order = logits.sort(descending=True, stable=True)
    return Candidates(logits, ids[order])
