"""From logits to tokens with logprobs: one top-k and one logsumexp for a whole step.

Law: a token's logprob is the natural log of its softmax probability over the raw logits, before any
sampling stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qwen_tui.types import Choice, Token


@dataclass(frozen=True, slots=True)
class TopLogits:
    """The most probable candidates of some rows, on the host.

    `values` [B, K] float32, descending; `ids` [B, K] int64; `log_mass` [B] float64, the logsumexp
    of each whole row.
    """

    values: Tensor
    ids: Tensor
    log_mass: Tensor

    def row(self, index: int) -> TopLogits:
        """The candidates of one row, still with a batch dimension."""
        one = slice(index, index + 1)
        return TopLogits(self.values[one], self.ids[one], self.log_mass[one])

    def finite(self, index: int) -> bool:
        """Whether the row can be sampled: a NaN or +Inf in it makes its logsumexp NaN or +Inf."""
        return math.isfinite(float(self.log_mass[index]))


def top_logits(logits: Tensor, count: int) -> TopLogits:
    """The `count` largest of each row of `logits` [B, V] float32, and each row's mass."""
    count = min(count, logits.shape[-1])
    values, ids = torch.topk(logits, count)
    mass = logits.logsumexp(-1)
    if logits.device.type == "cpu":
        return TopLogits(values, ids, mass.double())
    # One copy, so that a device is waited for once. float32 is exact for ids below 2²⁴.
    found = torch.cat((values, ids.float(), mass[:, None]), dim=1).cpu()
    return TopLogits(found[:, :count], found[:, count:-1].long(), found[:, -1].double())


def as_float64(row: Tensor) -> Tensor:
    """A row in float64; on the host if its device has no float64 (Apple's)."""
    try:
        return row.double()
    except TypeError:
        return row.cpu().double()


def token_from(
    logits: Tensor, chosen: int, top: TopLogits, choices: int, data: Callable[[int], bytes]
) -> Token:
    """The token `chosen` from one row `logits` [V], with its logprob and the best alternatives.

    `top` has this row's candidates (at least `choices`); equal ones are in order of id.
    """
    mass = float(top.log_mass[0])
    pairs = sorted(
        zip(top.values[0].tolist(), top.ids[0].tolist(), strict=True),
        key=lambda pair: (-pair[0], pair[1]),
    )
    logit = next((value for value, token_id in pairs if token_id == chosen), None)
    if logit is None:
        logit = float(logits[chosen])
    alternatives = tuple(
        Choice(token_id, data(token_id), value - mass)
        for value, token_id in pairs[:choices]
        if value > -math.inf
    )
    return Token(chosen, data(chosen), logit - mass, alternatives)
