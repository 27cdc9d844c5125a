"""The stages that change single logits: biases, penalties, and what would repeat the text.

Law: only what was seen, or is named, is changed; ids outside the row are ignored.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from qwen_tui.backends.local.decoding.history import History
from qwen_tui.types import Sampling

_LARGEST_LOG: Final = 88.7228391
"""The natural logarithm of the largest float32."""


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
    return logits.index_copy(0, ids, penalty(logits[ids], count, sampling))


def penalty(values: Tensor, count: Tensor, sampling: Sampling) -> Tensor:
    """The penalised logits of ids that were seen `count` times; both [n]."""
    theta = sampling.repetition_penalty
    if theta != 1.0:
        values = torch.where(values > 0, values / theta, values * theta)
    present = (count > 0).to(values.dtype)
    return values - sampling.presence_penalty * present - sampling.frequency_penalty * count


def lowered(logits: Tensor, amounts: Mapping[int, float]) -> Tensor:
    """[V] → [V]: l_v − the amount of each id; infinity bans."""
    return biased(logits, [(each, -amount) for each, amount in amounts.items()])


def dry(history: History, sampling: Sampling) -> dict[int, float]:
    """What DRY takes off which ids: for each id that would continue a repetition of length n ≥
    allowed, multiplier · base^(n − allowed), n the longest; the repeated text holds no breaker.

    As llama.cpp and text-generation-webui, but breakers are found in the text, not in its tokens.
    """
    allowed, base = sampling.dry_allowed_length, sampling.dry_base
    ids = history.last(sampling.dry_penalty_last_n)
    most = len(ids) if history.breakers is None else min(len(ids), history.breakers.since)
    if most < allowed:
        return {}
    steps = _LARGEST_LOG / math.log(base) if base > 1.000001 else 0.0
    text = ids.tolist()
    lengths: dict[int, int] = {}
    for place in (ids[:-1] == ids[-1]).nonzero()[:, 0].tolist():
        # A longer repetition than the exponent's cap is as good as one at the cap.
        length = _common(text, place, min(most, allowed + int(steps)))
        if length >= allowed:
            follows = text[place + 1]
            lengths[follows] = max(length, lengths.get(follows, 0))
    return {
        each: sampling.dry_multiplier * base ** (length - allowed)
        for each, length in lengths.items()
    }


def _common(text: Sequence[int], place: int, most: int) -> int:
    """How many ids up to `place` are the last ones of the text, at most `most`."""
    length = 0
    while length < most and length <= place and text[place - length] == text[-1 - length]:
        length += 1
    return length


def repeated_ngrams(history: History, size: int) -> dict[int, float]:
    """Infinity for each id that would complete `size` ids that stood in a row before
    (transformers).
    """
    ids = history.last(-1)
    if len(ids) < size:
        return {}
    windows = ids.unfold(0, size, 1)
    last = ids[len(ids) - size + 1 :]
    same = (windows[:, :-1] == last).all(1)
    return dict.fromkeys(windows[same, -1].tolist(), math.inf)
