"""The stages that leave candidates out, each as the paper or program it comes from.

Law: candidates come and go sorted by (-logit, id), and the most probable is kept by all but XTC.
"""

from __future__ import annotations

import math
from typing import Final

from qwen_tui.backends.local.decoding.candidates import Candidates, Undecided, need_whole
from qwen_tui.backends.local.decoding.logprobs import as_float64

TOP_H_CANDIDATES: Final = 100
"""How many of the most probable candidates top-H looks at (transformers)."""
MIROSTAT_CANDIDATES: Final = 100
"""How many of the most probable candidates mirostat 1 estimates its exponent from (llama.cpp)."""


def top_k(found: Candidates, k: int) -> Candidates:
    """Keep the k largest, and what ties with the last of them (as transformers)."""
    if k >= len(found.logits):
        return need_whole(found)
    return found.kept(found.logits >= found.logits[k - 1])


def top_p(found: Candidates, mass: float) -> Candidates:
    """Keep the shortest sorted run whose probability is at least `mass`, at least one."""
    total = found.logprobs().exp().cumsum(0)
    enough = int((total < mass).sum()) + 1
    if enough > len(total):
        return need_whole(found)
    return found.first(enough)


def min_p(found: Candidates, share: float) -> Candidates:
    """Keep p ≥ share · p_max (llama.cpp, transformers)."""
    return _from(found, float(found.logits[0]) + math.log(share))


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
        raise Undecided
    return found.kept(surprise <= ordered[min(last, len(ordered) - 1)])


def top_n_sigma(found: Candidates, n: float) -> Candidates:
    """Keep l ≥ l_max − n·σ, σ the standard deviation of all logits in the running (arXiv
    2411.07641, as llama.cpp).
    """
    logits = found.logits
    if found.row is not None:
        logits = as_float64(found.row)
        logits = logits[logits > -math.inf]
    return _from(found, float(found.logits[0]) - n * float(logits.std(correction=0)))


def top_a(found: Candidates, share: float) -> Candidates:
    """Keep p ≥ share · p_max² (KoboldCpp)."""
    best = float(found.logprobs()[0])
    return _at_least(found, math.log(share) + 2 * best)


def epsilon(found: Candidates, least: float) -> Candidates:
    """Keep p ≥ least (transformers)."""
    return _at_least(found, math.log(least))


def eta(found: Candidates, least: float) -> Candidates:
    """Keep p ≥ min(least, √least · e^−H) (Hewitt et al. 2022, as transformers)."""
    return _at_least(found, min(math.log(least), math.log(least) / 2 - found.entropy()))


def top_h(found: Candidates, share: float) -> Candidates:
    """Of the 100 most probable keep the longest run with Σ −p ln p ≤ share · H (arXiv 2509.02510,
    as transformers: p and H are of those 100).
    """
    if len(found.logits) < TOP_H_CANDIDATES:
        need_whole(found)
    logprobs = found.logits[:TOP_H_CANDIDATES].log_softmax(0)
    total = -(logprobs.exp() * logprobs).cumsum(0)
    return found.first(max(1, int((total <= share * float(total[-1])).sum())))


def tail_free(found: Candidates, z: float) -> Candidates:
    """Sorted p; the magnitudes of its second differences, normalised; keep while their sum is at
    most z, the first always (Phénix & Egan 2019, as text-generation-webui and KoboldCpp).
    """
    need_whole(found)
    bends = found.logprobs().exp().diff().diff().abs()
    total = float(bends.sum()) if len(bends) else 0.0
    if total == 0.0:
        return found
    kept = int((bends.cumsum(0) / total <= z).sum())
    # The first bend belongs to the second candidate, and the last candidate has none.
    return found.first(kept + 1)


def without_likely(found: Candidates, threshold: float) -> Candidates:
    """XTC: of those with p ≥ threshold drop all but the least likely (llama.cpp)."""
    likely = int((found.logprobs() >= math.log(threshold)).sum()) if threshold > 0 else -1
    if not found.whole and not 0 <= likely < len(found.logits):
        raise Undecided
    likely = len(found.logits) if likely < 0 else likely
    if likely < 2:
        return found
    need_whole(found)
    return Candidates(found.logits[likely - 1 :], found.ids[likely - 1 :])


def below_surprise(found: Candidates, most: float) -> Candidates:
    """Mirostat 2: keep −log₂ p ≤ most, at least one (Basu et al. 2021, as llama.cpp)."""
    return _at_least(found, -most * math.log(2))


def mirostat_k(found: Candidates, most: float) -> Candidates:
    """Mirostat 1: a top-k whose k is that of a Zipf distribution with the exponent of the most
    probable candidates and a surprise of `most` bits (Basu et al. 2021, as llama.cpp).
    """
    logprobs = need_whole(found).logprobs()[:MIROSTAT_CANDIDATES].tolist()
    if len(logprobs) < 2:
        return found
    steps = [math.log((i + 2) / (i + 1)) for i in range(len(logprobs) - 1)]
    falls = [logprobs[i] - logprobs[i + 1] for i in range(len(steps))]
    exponent = sum(map(lambda t, b: t * b, steps, falls)) / sum(t * t for t in steps)
    excess = exponent - 1
    if exponent <= 0 or excess == 0:
        return found
    size = len(found.logits)
    try:
        k = (excess * 2**most / (1 - size**-excess)) ** (1 / exponent)
    except OverflowError:
        return found
    return found.first(max(1, min(size, int(min(k, size)))))


def _at_least(found: Candidates, logprob: float) -> Candidates:
    """Those with a log-probability of at least `logprob`, and what ties with the best."""
    logprobs = found.logprobs()
    keep = logprobs >= min(logprob, float(logprobs[0]))
    if not found.whole and bool(keep[-1]):
        raise Undecided
    return found.kept(keep)


def _from(found: Candidates, floor: float) -> Candidates:
    """Those with a logit of at least `floor`."""
    if not found.whole and float(found.logits[-1]) >= floor:
        raise Undecided
    return found.kept(found.logits >= floor)
