"""Sampling values on their way to a server: which are set, which it knows, how they are written.

Law: a value that changes something is sent as it stands, or named as unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from qwen_tui import presets
from qwen_tui.numeric_settings import NUMERIC_SETTING, idle
from qwen_tui.types import Sampling

PENALTIES: Final = ("repetition_penalty", "presence_penalty", "frequency_penalty")
CUTS: Final = ("top_k", "top_p", "min_p", "typical_p")
"""The values that leave candidates out and that servers have in common."""
DRAWN: Final = (
    *CUTS, "top_n_sigma", "tfs", "top_a", "epsilon_cutoff", "eta_cutoff", "top_h",
    "xtc_probability", "xtc_threshold", "smoothing_factor", "smoothing_curve", "dynatemp_range",
    "dynatemp_exponent", "mirostat", "mirostat_tau", "mirostat_eta", "adaptive_target",
    "adaptive_decay",
)  # fmt: skip
"""The values that change nothing of greedy decoding."""


def changing(sampling: Sampling) -> tuple[str, ...]:
    """The names of the values that change something, the seed left out.

    Greedy decoding is not changed by what only leaves out unlikely candidates; the penalties'
    window changes something only where there is a penalty, a setting only where its sampler is on;
    the order only as `misordered` says.
    """
    names = [
        name
        for name in presets.NAMES
        if name not in ("seed", "order", "repeat_last_n")
        and not (
            idle(sampling, name) if name in NUMERIC_SETTING else presets.is_neutral(sampling, name)
        )
    ]
    if "dry_multiplier" not in names and "dry_sequence_breakers" in names:
        names.remove("dry_sequence_breakers")
    if sampling.temperature <= 0:
        names = [name for name in names if name not in DRAWN]
    if any(name in names for name in PENALTIES):
        names.append("repeat_last_n")
    if misordered(sampling):
        names.append("order")
    return tuple(names)


def misordered(sampling: Sampling) -> bool:
    """Whether other candidates stay in the draw where the temperature is applied before any are
    left out, as vLLM and most servers do it; or a value is set whose stage does not run here.
    """
    place = {stage: at for at, stage in enumerate(sampling.order)}
    cuts = [name for name in CUTS if not presets.is_neutral(sampling, name)]
    stages = {"bias"} if sampling.logit_bias else set()
    if any(not presets.is_neutral(sampling, name) for name in PENALTIES):
        stages.add("penalties")
    if not stages <= place.keys():
        return True
    if sampling.temperature <= 0:
        return False
    if any(name not in place for name in (*cuts, "temperature")):
        return True
    by_probability = [place[name] for name in cuts if name != "top_k"]
    return sampling.temperature != 1 and min(by_probability, default=99) < place["temperature"]


def biases(sampling: Sampling, least: float) -> dict[str, float]:
    """`logit_bias` as a JSON object; a ban (-inf, which JSON cannot say) is `least`."""
    return {str(id): least if math.isinf(value) else value for id, value in sampling.logit_bias}


def given(sampling: Sampling, names: Mapping[str, str]) -> dict[str, Any]:
    """Those values under a server's own names for them, neutral ones too: a server fills in what is
    not sent from its model's generation_config.json or from defaults of its own.
    """
    return {theirs: getattr(sampling, ours) for ours, theirs in names.items()}
