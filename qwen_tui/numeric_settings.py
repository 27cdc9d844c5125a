"""The table of numeric sampling values: name, range, step, neutral value, help.

Law: the interface's controls, the command line's help and every check of a value read this table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from qwen_tui.types import Sampling


@dataclass(frozen=True, slots=True)
class NumericSetting:
    """One numeric sampling value: its range, the step of a key press, and the value that switches
    it off.

    `low` and `high` are the accepted limits, both included; a slider ends at `usual`. `on` is the
    value with which a sampler starts that is hidden until it is switched on; `of` names the setting
    without which this one has no effect.
    """

    name: str
    label: str
    low: float
    high: float
    usual: float
    step: float
    neutral: float
    integer: bool
    help: str
    on: float | None = None
    of: str = ""

    @property
    def range(self) -> str:
        """The accepted range in words: `0 to 1`."""
        return f"{self.low:g} to {self.high:g}"

    def check(self, value: object) -> int | float:
        """`value` as this setting's type; ValueError says why if it is invalid."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{self.label} is a number from {self.range}, not {value!r}")
        if not math.isfinite(value) or not self.low <= value <= self.high:
            raise ValueError(f"{self.label} goes from {self.range}, not {value:g}")
        if not self.integer:
            return float(value)
        if value != int(value):
            raise ValueError(f"{self.label} is a whole number, not {value:g}")
        return int(value)

    def read(self, text: str) -> int | float:
        """A typed value, checked; ValueError as `check`."""
        try:
            value = float(text.strip())
        except ValueError:
            raise ValueError(f"{self.label} is a number from {self.range}, not {text!r}") from None
        return self.check(value)

    def show(self, value: float) -> str:
        """The shortest text from which `read` returns the same value."""
        return str(int(value)) if self.integer else f"{value:.6g}"

    def moved(self, value: float, steps: int) -> int | float:
        """`value` moved by `steps` steps, onto the grid of steps, kept inside the range."""
        grid = round(value / self.step) + steps
        return self.check(min(self.high, max(self.low, round(grid * self.step, 6))))


NUMERIC_SETTINGS: Final = (
    NumericSetting(
        "temperature", "temperature", 0, 5, 2, 0.05, 1.0, False,
        "flattens (above 1) or sharpens (below 1) the distribution; 0 always takes the likeliest",
    ),
    NumericSetting(
        "top_k", "top-k", 0, 200_000, 200, 1, 0, True, "keeps the k likeliest tokens; 0 is off",
    ),
    NumericSetting(
        "top_p", "top-p", 0, 1, 1, 0.01, 1.0, False,
        "keeps the likeliest tokens whose probabilities add up to p; 1 is off",
    ),
    NumericSetting(
        "min_p", "min-p", 0, 1, 1, 0.01, 0.0, False,
        "keeps tokens at least this fraction as likely as the likeliest; 0 is off",
    ),
    NumericSetting(
        "typical_p", "typical-p", 0, 1, 1, 0.01, 1.0, False,
        "keeps tokens whose surprise is nearest the average, up to this mass; 1 is off",
    ),
    NumericSetting(
        "repetition_penalty", "repetition penalty", 0.01, 10, 2, 0.01, 1.0, False,
        "divides the scores of tokens already in the window; 1 is off",
    ),
    NumericSetting(
        "presence_penalty", "presence penalty", -2, 2, 2, 0.05, 0.0, False,
        "lowers the score of every token already in the window; 0 is off",
    ),
    NumericSetting(
        "frequency_penalty", "frequency penalty", -2, 2, 2, 0.05, 0.0, False,
        "lowers a token's score for each time it stands in the window; 0 is off",
    ),
    NumericSetting(
        "repeat_last_n", "repeat last n", -1, 10_000_000, 1024, 16, 64, True,
        "the penalties' window in tokens; -1 is the whole context, 0 switches them off",
    ),
    NumericSetting(
        "dry_multiplier", "DRY", 0, 100, 5, 0.05, 0.0, False,
        "lowers what would continue a repetition, the more the longer it is; 0 is off", on=0.8,
    ),
    NumericSetting(
        "dry_base", "DRY base", 1, 10, 4, 0.05, 1.75, False,
        "how much more each further repeated token is lowered (1.75)", of="dry_multiplier",
    ),
    NumericSetting(
        "dry_allowed_length", "DRY allowed length", 1, 10_000, 20, 1, 2, True,
        "repetitions shorter than this are free (2)", of="dry_multiplier",
    ),
    NumericSetting(
        "dry_penalty_last_n", "DRY last n", -1, 10_000_000, 4096, 64, -1, True,
        "how far back DRY looks, in tokens; -1 is the whole context", of="dry_multiplier",
    ),
    NumericSetting(
        "no_repeat_ngram", "no repeat n-gram", 0, 1000, 10, 1, 0, True,
        "bans what would complete n tokens that stood in a row before; 0 is off", on=4,
    ),
    NumericSetting(
        "top_n_sigma", "top-nσ", 0, 100, 5, 0.1, 0.0, False,
        "keeps logits within n standard deviations of the highest; 0 is off", on=1.0,
    ),
    NumericSetting(
        "tfs", "tail-free", 0, 1, 1, 0.01, 1.0, False,
        "cuts the tail where the sorted probabilities stop bending; 1 is off", on=0.95,
    ),
    NumericSetting(
        "top_a", "top-a", 0, 1, 1, 0.01, 0.0, False,
        "keeps probabilities of at least a times the square of the highest; 0 is off", on=0.2,
    ),
    NumericSetting(
        "epsilon_cutoff", "epsilon cutoff", 0, 1, 0.01, 0.0001, 0.0, False,
        "keeps probabilities of at least this; 0 is off", on=0.0003,
    ),
    NumericSetting(
        "eta_cutoff", "eta cutoff", 0, 1, 0.01, 0.0001, 0.0, False,
        "as epsilon cutoff, lower where the model is unsure; 0 is off", on=0.0003,
    ),
    NumericSetting(
        "top_h", "top-H", 0, 1, 1, 0.01, 0.0, False,
        "keeps the likeliest tokens up to this share of the entropy; 0 is off", on=0.4,
    ),
    NumericSetting(
        "xtc_probability", "XTC", 0, 1, 1, 0.05, 0.0, False,
        "how often all likely tokens but the least likely of them are left out; 0 is off", on=0.5,
    ),
    NumericSetting(
        "xtc_threshold", "XTC threshold", 0, 1, 0.5, 0.01, 0.1, False,
        "from which probability on a token is likely (0.1); above 0.5 is off",
        of="xtc_probability",
    ),
    NumericSetting(
        "smoothing_factor", "smoothing", 0, 10, 2, 0.05, 0.0, False,
        "bends the logits quadratically around the highest; 0 is off", on=0.2,
    ),
    NumericSetting(
        "smoothing_curve", "smoothing curve", 1, 10, 5, 0.05, 1.0, False,
        "adds a cubic part to smoothing (1: none)", of="smoothing_factor",
    ),
    NumericSetting(
        "dynatemp_range", "dynamic temp.", 0, 5, 2, 0.05, 0.0, False,
        "lets the temperature go this far down and up, by entropy; 0 is off", on=0.5,
    ),
    NumericSetting(
        "dynatemp_exponent", "dynamic exponent", 0.01, 10, 4, 0.05, 1.0, False,
        "the exponent from entropy to dynamic temperature (1)", of="dynatemp_range",
    ),
    NumericSetting(
        "mirostat", "mirostat", 0, 2, 2, 1, 0, True,
        "holds the surprise of the text at tau: version 1 or 2; 0 is off", on=2,
    ),
    NumericSetting(
        "mirostat_tau", "mirostat tau", 0, 20, 10, 0.1, 5.0, False,
        "mirostat's surprise, in bits a token (5)", of="mirostat",
    ),
    NumericSetting(
        "mirostat_eta", "mirostat eta", 0, 1, 1, 0.01, 0.1, False,
        "how fast mirostat learns (0.1)", of="mirostat",
    ),
    NumericSetting(
        "adaptive_target", "adaptive-p", -1, 1, 1, 0.01, -1.0, False,
        "prefers tokens of about this probability, on the average; below 0 is off", on=0.5,
    ),
    NumericSetting(
        "adaptive_decay", "adaptive decay", 0, 0.99, 0.99, 0.01, 0.9, False,
        "how much of the past adaptive-p keeps in mind (0.9)", of="adaptive_target",
    ),
)  # fmt: skip
"""Every numeric sampling value, in the order of display."""


NUMERIC_SETTING: Final[Mapping[str, NumericSetting]] = {
    setting.name: setting for setting in NUMERIC_SETTINGS
}


def idle(sampling: Sampling, name: str) -> bool:
    """Whether a setting has no effect: it is neutral, or the setting it belongs to is."""
    setting = NUMERIC_SETTING[name]
    return bool(getattr(sampling, name) == setting.neutral) or bool(
        setting.of and idle(sampling, setting.of)
    )


SWITCHES: Final[Mapping[str, str]] = {
    "dry": "dry_multiplier",
    "no_repeat_ngram": "no_repeat_ngram",
    "top_n_sigma": "top_n_sigma",
    "top_k": "top_k",
    "tfs": "tfs",
    "typical_p": "typical_p",
    "top_p": "top_p",
    "min_p": "min_p",
    "top_a": "top_a",
    "epsilon": "epsilon_cutoff",
    "eta": "eta_cutoff",
    "top_h": "top_h",
    "xtc": "xtc_probability",
    "smoothing": "smoothing_factor",
    "mirostat": "mirostat",
    "adaptive_p": "adaptive_target",
}
"""The setting that switches a stage on; `bias`, `penalties` and `temperature` have several."""
