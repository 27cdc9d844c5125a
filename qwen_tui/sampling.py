"""The sampling values of a request; the mathematics is the backend's.

Law: a neutral value switches its stage off; a stage that `order` does not name does not run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEFAULT_ORDER: Final = (
    "bias", "penalties", "dry", "no_repeat_ngram", "top_n_sigma", "top_k", "tfs", "typical_p",
    "top_p", "min_p", "top_a", "epsilon", "eta", "top_h", "xtc", "smoothing", "temperature",
    "mirostat", "adaptive_p",
)  # fmt: skip
"""llama.cpp's order; stages it lacks come beside similar ones."""
DRY_BREAKERS: Final = ("\n", ":", '"', "*")


@dataclass(frozen=True, slots=True)
class Sampling:
    """Every sampling value of a request.

    `repeat_last_n` is the window of the three penalties in tokens (-1: the whole context, 0: off),
    `dry_penalty_last_n` that of DRY. `order` names the stages that run, in order. `seed` None asks
    for a fresh 64-bit seed. `adaptive_target` below 0 is off.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.05
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int = 64
    logit_bias: tuple[tuple[int, float], ...] = ()
    order: tuple[str, ...] = DEFAULT_ORDER
    seed: int | None = None
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = DRY_BREAKERS
    no_repeat_ngram: int = 0
    top_n_sigma: float = 0.0
    tfs: float = 1.0
    top_a: float = 0.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    top_h: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    smoothing_factor: float = 0.0
    smoothing_curve: float = 1.0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
