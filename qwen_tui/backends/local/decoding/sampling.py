"""From logits to one token id: the stages, the order they run in, and the inverse CDF.

Law: the same logits, values and random number give the same id, however rows were batched. The most
probable candidates are tried first; the whole row is sorted only where they cannot decide, and then
the very same code runs.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from qwen_tui.backends.local.decoding.logprobs import TopLogits, as_float64, top_logits
from qwen_tui.types import Sampling

HEADS: Final = (64, 1024)
"""How many of the most probable candidates are tried before the whole row is sorted."""

MIN_P_MARGIN: Final = 1e-3
"""Nats below the min-p border that are looked at with it: more than float32 rounds a logit by."""

_CUTS: Final = ("top_k", "typical_p", "top_p", "min_p")


class AllBanned(ValueError):
    """No candidate is left: every token has logit -inf."""


class _Undecided(Exception):
    """The head does not hold enough candidates to decide a stage."""


# -- what the penalties see ------------------------------------------------------------------------


class PenaltyWindow:
    """Counts of the last `last_n` ids of a context: -1 counts all of them, 0 none."""

    def __init__(self, last_n: int, ids: Sequence[int] = ()) -> None:
        self.last_n = last_n
        self._ids: deque[int] = deque()
        self.counts: Counter[int] = Counter()
        for each in ids if last_n < 0 else ids[len(ids) - min(last_n, len(ids)) :]:
            self.push(each)

    def push(self, token_id: int) -> None:
        """Take in the next id; the oldest leaves when the window is full."""
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


# -- stages that change single logits --------------------------------------------------------------


def biased(logits: Tensor, logit_bias: Sequence[tuple[int, float]]) -> Tensor:
    """[V] → [V]: l_v + b_v; -inf bans. Ids outside the row are ignored."""
    known = [(token_id, bias) for token_id, bias in logit_bias if 0 <= token_id < len(logits)]
    if not known:
        return logits
    ids = torch.tensor([token_id for token_id, _ in known], device=logits.device)
    bias = torch.tensor([bias for _, bias in known], dtype=logits.dtype, device=logits.device)
    return logits.index_add(0, ids, bias)


def penalised(logits: Tensor, counts: Counter[int], sampling: Sampling) -> Tensor:
    """[V] → [V]: for each id seen in the window, l > 0 → l/θ else l·θ (as transformers), then
    l - presence - frequency · count (as llama.cpp).
    """
    seen = [token_id for token_id in counts if 0 <= token_id < len(logits)]
    if not seen:
        return logits
    ids = torch.tensor(seen, device=logits.device)
    count = torch.tensor([counts[each] for each in seen], dtype=logits.dtype, device=logits.device)
    return logits.index_copy(0, ids, _penalty(logits[ids], count, sampling))


def _penalty(values: Tensor, count: Tensor, sampling: Sampling) -> Tensor:
    theta = sampling.repetition_penalty
    if theta != 1.0:
        values = torch.where(values > 0, values / theta, values * theta)
    present = (count > 0).to(values.dtype)
    return values - sampling.presence_penalty * present - sampling.frequency_penalty * count


# -- stages that cut candidates --------------------------------------------------------------------


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


def top_k(found: Candidates, k: int) -> Candidates:
    """Keep the k largest, and what ties with the last of them (as transformers)."""
    if k >= len(found.logits):
        return _need_whole(found)
    return found.kept(found.logits >= found.logits[k - 1])


def top_p(found: Candidates, mass: float) -> Candidates:
    """Keep the shortest sorted run whose probability is at least `mass`, at least one."""
    total = found.logprobs().exp().cumsum(0)
    enough = int((total < mass).sum()) + 1
    if enough > len(total):
        return _need_whole(found)
    return found.first(enough)


def min_p(found: Candidates, share: float) -> Candidates:
    """Keep p ≥ share · p_max (llama.cpp, transformers)."""
    floor = float(found.logits[0]) + math.log(share)
    if not found.whole and float(found.logits[-1]) >= floor:
        raise _Undecided
    return found.kept(found.logits >= floor)


def typical_p(found: Candidates, mass: float) -> Candidates:
    """Keep, by |−ln p − H| ascending, the shortest run whose probability exceeds `mass` (Meister et
    al. 2022, as transformers: ties with the last are kept).

    Candidates beyond the head surprise more than its last; as long as they also lie farther from H
    than the run reaches, the head decides.
    """
    logprobs = found.logprobs()
    probs = logprobs.exp()
    entropy = found.entropy()
    surprise = (-logprobs - entropy).abs()
    ordered, order = surprise.sort(stable=True)
    last = int((probs[order].cumsum(0) < mass).sum())
    if not found.whole and (
        last >= len(ordered) or float(ordered[last]) >= -float(logprobs[-1]) - entropy
    ):
        raise _Undecided
    return found.kept(surprise <= ordered[min(last, len(ordered) - 1)])


def tempered(found: Candidates, temperature: float) -> Candidates:
    """l / T; T ≤ 0 keeps the most probable alone (of several, the lowest id)."""
    if temperature <= 0:
        return found.first(1)
    _need_whole(found)
    return Candidates((found.logits - found.logits[0]) / temperature, found.ids)


def _need_whole(found: Candidates) -> Candidates:
    if not found.whole:
        raise _Undecided
    return found


def _sorted(logits: Tensor, ids: Tensor) -> Candidates:
    """Candidates from values in any order."""
    by_id = ids.argsort()
    logits, ids = logits[by_id], ids[by_id]
    logits, order = logits.sort(descending=True, stable=True)
    return Candidates(logits, ids[order])


# -- the chain -------------------------------------------------------------------------------------


def active(stage: str, sampling: Sampling) -> bool:
    """Whether a stage's values make it do anything."""
    return {
        "bias": bool(sampling.logit_bias),
        "penalties": sampling.repeat_last_n != 0
        and (
            sampling.repetition_penalty != 1.0
            or sampling.presence_penalty != 0.0
            or sampling.frequency_penalty != 0.0
        ),
        "top_k": sampling.top_k > 0,
        "typical_p": sampling.typical_p < 1.0,
        "top_p": sampling.top_p < 1.0,
        "min_p": sampling.min_p > 0.0,
        "temperature": sampling.temperature != 1.0,
    }[stage]


@dataclass(frozen=True, slots=True)
class SamplerChain:
    """The active stages of one `Sampling`, in its order.

    `edits` run on the dense row, up to the first stage that cuts; `cuts` on sorted candidates.
    """

    sampling: Sampling
    edits: tuple[str, ...]
    cuts: tuple[str, ...]

    @classmethod
    def of(cls, sampling: Sampling) -> SamplerChain:
        """Split the order; a temperature of 0 cuts, since it leaves one candidate."""
        stages = [stage for stage in sampling.order if active(stage, sampling)]
        cutting = (*_CUTS, "temperature") if sampling.temperature <= 0 else _CUTS
        first = next((at for at, stage in enumerate(stages) if stage in cutting), len(stages))
        return cls(sampling, tuple(stages[:first]), tuple(stages[first:]))

    def sample(
        self,
        logits: Tensor,
        window: PenaltyWindow,
        u: float,
        *,
        top: TopLogits | None = None,
        allowed: Tensor | None = None,
    ) -> int:
        """The id drawn from one row.

        `logits` [V] float32, finite but for bans, not changed. `u` in [0, 1) decides. `top` may
        hold the row's best candidates, if already known. `allowed` [m] int64 ids restricts the
        choice. Raises `AllBanned`.
        """
        row = self.edited(logits, window, allowed)
        if row is not logits:
            top = None
        for width in HEADS:
            if width >= len(row):
                break
            if top is None or top.ids.shape[1] < width:
                top = top_logits(row[None], width)
            try:
                return self._decide(row, _head(row, top, width), window, u)
            except _Undecided:
                top = None
        values, ids = self._ranked(row)
        live = int((values > -math.inf).sum())
        if not live:
            raise AllBanned
        return self._decide(row, Candidates(values[:live], ids[:live]), window, u)

    def _ranked(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """What may still come of the whole row [V], sorted by (-logit, id): float64 values and ids.

        Where min-p cuts first, only what it may keep is sorted: comparing is cheap, sorting 152k is
        not. The margin leaves the borderline to the exact rule.
        """
        if self.cuts[:1] != ("min_p",):
            values, ids = row.sort(descending=True, stable=True)
            return values.cpu().double(), ids.cpu()
        floor = row.max() + math.log(min(self.sampling.min_p, 1.0)) - MIN_P_MARGIN
        near = (row >= floor).nonzero()[:, 0]
        values, order = row[near].sort(descending=True, stable=True)
        return values.cpu().double(), near[order].cpu()

    def edited(
        self, logits: Tensor, window: PenaltyWindow, allowed: Tensor | None = None
    ) -> Tensor:
        """[V] → [V]: the stages before the first cut; the input itself when there are none."""
        row = logits
        if allowed is not None:
            row = torch.full_like(logits, -math.inf)
            row[allowed] = logits[allowed]
        for stage in self.edits:
            if stage == "bias":
                row = biased(row, self.sampling.logit_bias)
            elif stage == "penalties":
                row = penalised(row, window.counts, self.sampling)
            else:
                row = (row - row.max()) / self.sampling.temperature
        return row

    def cut(self, found: Candidates, window: PenaltyWindow) -> Candidates:
        """The stages from the first cut on."""
        values = self.sampling
        for stage in self.cuts:
            if stage == "top_k":
                found = top_k(found, values.top_k)
            elif stage == "top_p":
                found = top_p(found, values.top_p)
            elif stage == "min_p":
                found = min_p(found, min(values.min_p, 1.0))
            elif stage == "typical_p":
                found = typical_p(found, values.typical_p)
            elif stage == "temperature":
                found = tempered(found, values.temperature)
            else:
                found = self._edit_found(stage, _need_whole(found), window)
        return found

    def _edit_found(self, stage: str, found: Candidates, window: PenaltyWindow) -> Candidates:
        ids = found.ids.tolist()
        if stage == "bias":
            bias: dict[int, float] = {}
            for token_id, value in self.sampling.logit_bias:
                bias[token_id] = bias.get(token_id, 0.0) + value
            change = torch.tensor([bias.get(each, 0.0) for each in ids], dtype=torch.float64)
            logits = found.logits + change
        else:
            count = torch.tensor([window.counts[each] for each in ids], dtype=torch.float64)
            changed = _penalty(found.logits, count, self.sampling)
            logits = torch.where(count > 0, changed, found.logits)
        live = logits > -math.inf
        if not bool(live.any()):
            raise AllBanned
        return _sorted(logits[live], found.ids[live])

    def _decide(self, row: Tensor, found: Candidates, window: PenaltyWindow, u: float) -> int:
        found = self.cut(found, window)
        best = found.logits[0]
        total = (found.logits - best).exp().cumsum(0)
        if found.whole:
            target = u * float(total[-1])
        else:
            target = u * float((as_float64(row) - float(best)).exp().sum())
            if target >= float(total[-1]):
                raise _Undecided
        at = int(torch.searchsorted(total, target, right=True))
        return int(found.ids[min(at, len(found.ids) - 1)])


def _head(row: Tensor, top: TopLogits, width: int) -> Candidates:
    """All candidates above the `width`-th value: which of several equal ones a top-k returns is not
    defined, so those that tie with the last are left out.
    """
    values, ids = top.values[0, :width].double(), top.ids[0, :width]
    sure = values > values[-1]
    if not bool(sure.any()):
        raise _Undecided
    found = _sorted(values[sure], ids[sure])
    if float(values[-1]) == -math.inf:
        return found
    return Candidates(found.logits, found.ids, False, float(top.log_mass[0]), row)
