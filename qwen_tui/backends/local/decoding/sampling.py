"""From logits to one token id: the order of the stages, and the inverse CDF.

Law: the same logits, values, history and random numbers give the same id, however rows were
batched. Stages run on the most probable candidates first, and again on the whole sorted row only if
those cannot decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from qwen_tui.backends.local.decoding import truncation
from qwen_tui.backends.local.decoding.candidates import (
    Candidates,
    Undecided,
    need_whole,
    sorted_candidates,
)
from qwen_tui.backends.local.decoding.history import History
from qwen_tui.backends.local.decoding.logprobs import TopLogits, as_float64, top_logits
from qwen_tui.backends.local.decoding.repetition import (
    biased,
    dry,
    lowered,
    penalised,
    penalty,
    repeated_ngrams,
)
from qwen_tui.numeric_settings import NUMERIC_SETTING, SWITCHES
from qwen_tui.types import Sampling

HEADS: Final = (64, 1024)
"""How many of the most probable candidates are tried before the whole row is sorted."""

MIN_P_MARGIN: Final = 1e-3
"""Nats below the min-p threshold that are kept for the exact comparison: more than float32 rounds a
logit by."""

_SAMPLED: Final = ("xtc", "smoothing", "mirostat", "adaptive_p")
"""The stages that greedy decoding skips."""
_STEERING: Final = ("mirostat", "adaptive_p")
_ADAPTIVE: Final = (5.0, 10.0, 0.3)
"""Adaptive-p's highest logit, sharpness and width (llama.cpp)."""


class AllBanned(ValueError):
    """No candidate is left: every token has logit -inf."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The drawn token. `share`: its probability among the candidates of an adaptive stage
    (mirostat, adaptive-p); None without one.
    """

    id: int
    share: float | None = None


# -- stages that change all logits -----------------------------------------------------------------


def tempered(found: Candidates, temperature: float) -> Candidates:
    """l / T; T ≤ 0 keeps the most probable alone (of several, the lowest id)."""
    if temperature <= 0:
        return found.first(1)
    need_whole(found)
    return Candidates((found.logits - found.logits[0]) / temperature, found.ids)


def dynamic_temperature(found: Candidates, sampling: Sampling) -> float:
    """T from the entropy of the n remaining candidates: least + (most − least) · (H / ln
    n)^exponent (llama.cpp); the plain temperature if one remains.
    """
    if len(found.logits) < 2:
        return sampling.temperature
    least = max(0.0, sampling.temperature - sampling.dynatemp_range)
    most = sampling.temperature + sampling.dynatemp_range
    part = min(1.0, max(0.0, found.entropy() / math.log(len(found.logits))))
    return float(least + (most - least) * part**sampling.dynatemp_exponent)


def smoothed(logits: Tensor, sampling: Sampling) -> Tensor:
    """−k·f·d² + s·f·d³ + l_max, d = l − l_max, k = (3 − c) / 2, s = (c − 1) / 2
    (text-generation-webui); -inf stays.
    """
    factor, curve = sampling.smoothing_factor, sampling.smoothing_curve
    best = logits.max()
    d = logits - best
    bent = -(3 - curve) / 2 * factor * d**2 + (curve - 1) / 2 * factor * d**3 + best
    return torch.where(logits > -math.inf, bent, logits)


def adapted(found: Candidates, target: float) -> Candidates:
    """Adaptive-p: peak − sharpness · d² / (1 + d), d = |p − target| / width (llama.cpp)."""
    peak, sharpness, width = _ADAPTIVE
    d = (need_whole(found).logprobs().exp() - target).abs() / width
    return sorted_candidates(peak - sharpness * d**2 / (1 + d), found.ids)


# -- the chain -------------------------------------------------------------------------------------


_CUTS: Final[Mapping[str, Callable[[Candidates, Sampling], Candidates]]] = {
    "top_n_sigma": lambda found, values: truncation.top_n_sigma(found, values.top_n_sigma),
    "top_k": lambda found, values: truncation.top_k(found, values.top_k),
    "tfs": lambda found, values: truncation.tail_free(found, values.tfs),
    "typical_p": lambda found, values: truncation.typical_p(found, values.typical_p),
    "top_p": lambda found, values: truncation.top_p(found, values.top_p),
    "min_p": lambda found, values: truncation.min_p(found, min(values.min_p, 1.0)),
    "top_a": lambda found, values: truncation.top_a(found, values.top_a),
    "epsilon": lambda found, values: truncation.epsilon(found, values.epsilon_cutoff),
    "eta": lambda found, values: truncation.eta(found, values.eta_cutoff),
    "top_h": lambda found, values: truncation.top_h(found, values.top_h),
}
"""The stages that depend on the candidates alone."""
_EDITS: Final = ("bias", "penalties", "dry", "no_repeat_ngram", "smoothing", "temperature")
"""The stages that can run on the unsorted row."""


def active(stage: str, sampling: Sampling) -> bool:
    """Whether a stage has any effect with these values."""
    if sampling.temperature <= 0 and stage in _SAMPLED:
        return False
    if stage == "bias":
        return bool(sampling.logit_bias)
    if stage == "penalties":
        penalties = (
            sampling.repetition_penalty - 1, sampling.presence_penalty, sampling.frequency_penalty,
        )  # fmt: skip
        return sampling.repeat_last_n != 0 and any(penalties)
    if stage == "temperature":
        return sampling.temperature != 1.0 or sampling.dynatemp_range > 0
    if stage == "adaptive_p":
        return sampling.adaptive_target >= 0 and not active("mirostat", sampling)
    if stage == "xtc" and sampling.xtc_threshold > 0.5:
        return False
    name = SWITCHES[stage]
    return bool(getattr(sampling, name) != NUMERIC_SETTING[name].neutral)


@dataclass(frozen=True, slots=True)
class SamplerChain:
    """The active stages of one `Sampling`, in its order.

    `edits` change logits of the unsorted row, up to the first stage that removes candidates; `cuts`
    are the stages from there on, over sorted candidates.
    """

    sampling: Sampling
    edits: tuple[str, ...]
    cuts: tuple[str, ...]

    @classmethod
    def of(cls, sampling: Sampling) -> SamplerChain:
        """Split the order; a temperature is a cut if it leaves one candidate or needs the entropy
        of the remaining ones.
        """
        stages = [stage for stage in sampling.order if active(stage, sampling)]
        plain = sampling.temperature > 0 and sampling.dynatemp_range <= 0
        editing = _EDITS if plain else _EDITS[:-1]
        first = next((at for at, stage in enumerate(stages) if stage not in editing), len(stages))
        return cls(sampling, tuple(stages[:first]), tuple(stages[first:]))

    @property
    def tosses(self) -> bool:
        """Whether a second random number is needed (by XTC)."""
        return "xtc" in self.cuts

    def sample(
        self,
        logits: Tensor,
        history: History,
        u: float,
        *,
        toss: float = 1.0,
        top: TopLogits | None = None,
        allowed: Tensor | None = None,
    ) -> Drawn:
        """The id drawn from one row.

        `logits` [V] float32, finite but for bans, not changed. `u` in [0, 1) decides, and `toss`
        in [0, 1) whether XTC runs. `top` may hold the row's best candidates, if already known.
        `allowed` [m] int64 ids restricts the choice. Raises `AllBanned`.
        """
        row = self.edited(logits, history, allowed)
        if row is not logits:
            top = None
        for width in HEADS:
            if width >= len(row):
                break
            if top is None or top.ids.shape[1] < width:
                top = top_logits(row[None], width)
            try:
                return self._decide(row, _head(row, top, width), history, u, toss)
            except Undecided:
                top = None
        values, ids = self._ranked(row)
        live = int((values > -math.inf).sum())
        if not live:
            raise AllBanned
        return self._decide(row, Candidates(values[:live], ids[:live]), history, u, toss)

    def _ranked(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """The whole row [V] as float64 values and ids, sorted by (-logit, id).

        If the first cut is min-p, only values above its threshold (less a margin for rounding) are
        sorted: comparing 152k values is cheap, sorting them is not.
        """
        if self.cuts[:1] != ("min_p",):
            values, ids = row.sort(descending=True, stable=True)
            return values.cpu().double(), ids.cpu()
        floor = row.max() + math.log(min(self.sampling.min_p, 1.0)) - MIN_P_MARGIN
        near = (row >= floor).nonzero()[:, 0]
        values, order = row[near].sort(descending=True, stable=True)
        return values.cpu().double(), near[order].cpu()

    def edited(self, logits: Tensor, history: History, allowed: Tensor | None = None) -> Tensor:
        """[V] → [V]: the stages before the first cut; the input itself when there are none."""
        row = logits
        if allowed is not None:
            row = torch.full_like(logits, -math.inf)
            row[allowed] = logits[allowed]
        for stage in self.edits:
            if stage == "bias":
                row = biased(row, self.sampling.logit_bias)
            elif stage == "penalties":
                row = penalised(row, history.window.counts, self.sampling)
            elif stage == "smoothing":
                row = smoothed(row, self.sampling)
            elif stage == "temperature":
                row = (row - row.max()) / self.sampling.temperature
            else:
                row = lowered(row, self._amounts(stage, history))
        return row

    def cut(
        self, found: Candidates, history: History, toss: float = 1.0
    ) -> tuple[Candidates, Candidates | None]:
        """Run the stages from the first cut on; returns the remaining candidates, and those of an
        adaptive stage.
        """
        weighed: Candidates | None = None
        for stage in self.cuts:
            before, found = found, self._run(stage, found, history, toss)
            if stage in _STEERING:
                weighed = found if stage == "mirostat" else before
        return found, weighed

    def _run(self, stage: str, found: Candidates, history: History, toss: float) -> Candidates:
        values = self.sampling
        if stage in _CUTS:
            return _CUTS[stage](found, values)
        if stage == "temperature":
            if values.temperature > 0 and values.dynatemp_range > 0:
                return tempered(found, dynamic_temperature(need_whole(found), values))
            return tempered(found, values.temperature)
        if stage == "xtc":
            if toss >= values.xtc_probability:
                return found
            return truncation.without_likely(found, values.xtc_threshold)
        if stage == "smoothing":
            return sorted_candidates(smoothed(need_whole(found).logits, values), found.ids)
        if stage in _STEERING:
            return self._steered(stage, found, history)
        return self._edit_found(stage, need_whole(found), history)

    def _steered(self, stage: str, found: Candidates, history: History) -> Candidates:
        steering = history.steering
        assert steering is not None
        if stage == "adaptive_p":
            target = 2 * self.sampling.adaptive_target - steering.mean
            return adapted(found, min(1.0, max(0.0, target)))
        if self.sampling.mirostat == 1:
            return truncation.mirostat_k(found, steering.mu)
        return truncation.below_surprise(found, steering.mu)

    def _amounts(self, stage: str, history: History) -> dict[int, float]:
        if stage == "dry":
            return dry(history, self.sampling)
        return repeated_ngrams(history, self.sampling.no_repeat_ngram)

    def _edit_found(self, stage: str, found: Candidates, history: History) -> Candidates:
        ids = found.ids.tolist()
        if stage == "penalties":
            counts = history.window.counts
            count = torch.tensor([counts[each] for each in ids], dtype=torch.float64)
            changed = penalty(found.logits, count, self.sampling)
            logits = torch.where(count > 0, changed, found.logits)
        else:
            change: dict[int, float] = {}
            for each, value in self.sampling.logit_bias if stage == "bias" else ():
                change[each] = change.get(each, 0.0) + value
            if stage != "bias":
                change = {each: -value for each, value in self._amounts(stage, history).items()}
            amounts = torch.tensor([change.get(each, 0.0) for each in ids], dtype=torch.float64)
            logits = found.logits + amounts
        live = logits > -math.inf
        if not bool(live.any()):
            raise AllBanned
        return sorted_candidates(logits[live], found.ids[live])

    def _decide(
        self, row: Tensor, found: Candidates, history: History, u: float, toss: float
    ) -> Drawn:
        found, weighed = self.cut(found, history, toss)
        best = found.logits[0]
        total = (found.logits - best).exp().cumsum(0)
        if found.whole:
            target = u * float(total[-1])
        else:
            target = u * float((as_float64(row) - float(best)).exp().sum())
            if target >= float(total[-1]):
                raise Undecided
        at = int(torch.searchsorted(total, target, right=True))
        chosen = int(found.ids[min(at, len(found.ids) - 1)])
        return Drawn(chosen, _share(weighed, chosen) if weighed is not None else None)


def _share(weighed: Candidates, chosen: int) -> float:
    """The probability of an id, rounded to six digits as in a session file."""
    probs = weighed.logprobs().exp()
    return float(f"{float(probs[weighed.ids == chosen][0]):.6g}")


def _head(row: Tensor, top: TopLogits, width: int) -> Candidates:
    """All candidates above the `width`-th value. Which of several equal ones a top-k returns is
    undefined, so those equal to the last are left out.
    """
    values, ids = top.values[0, :width].double(), top.ids[0, :width]
    sure = values > values[-1]
    if not bool(sure.any()):
        raise Undecided
    found = sorted_candidates(values[sure], ids[sure])
    if float(values[-1]) == -math.inf:
        return found
    return Candidates(found.logits, found.ids, False, float(top.log_mass[0]), row)
