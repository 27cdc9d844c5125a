"""Figures: a measured quantity with its value in each round, its median and spread.

Law: a figure keeps every value; only this module decides how it is written for a person.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from qwen_tui.backends.local.benchmark.bandwidth import Host
from qwen_tui.backends.local.benchmark.quality import QualityLoss


@dataclass(frozen=True, slots=True)
class BenchProtocol:
    """How much is measured: rounds, decoded tokens in a block, tokens of the long prompt and of the
    passage that is rewritten.
    """

    rounds: int = 5
    tokens: int = 64
    prompt: int = 1024
    passage: int = 200
    siblings: int = 4
    seed: int = 0


QUICK: Final = BenchProtocol(rounds=2, tokens=16, prompt=256, passage=32)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity: a value for each round."""

    label: str
    unit: str
    values: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    def record(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "label": self.label,
            "unit": self.unit,
            "median": self.median,
            "low": min(self.values),
            "high": max(self.values),
            "values": list(self.values),
            **({"note": self.note} if self.note else {}),
        }


@dataclass(frozen=True, slots=True)
class Result:
    """All figures of one run, by name, in the order of display."""

    model: dict[str, Any]
    machine: Host
    protocol: BenchProtocol
    why: tuple[str, ...]
    figures: dict[str, Figure] = field(default_factory=dict)
    gate: tuple[QualityLoss, ...] = ()

    def record(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "model": self.model,
            "machine": self.machine.record(),
            "protocol": asdict(self.protocol),
            "why": list(self.why),
            "figures": {name: figure.record() for name, figure in self.figures.items()},
            **({"gate": [each.record() for each in self.gate]} if self.gate else {}),
        }

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Rows of the table: label, median, spread over the rounds, note."""
        for figure in self.figures.values():
            yield (figure.label, *figure_text(figure), figure.note)


def figure_text(figure: Figure) -> tuple[str, str]:
    """Median with its unit, and lowest – highest, with as many decimals as the median."""
    digits = decimals(figure.median)
    gap = "" if figure.unit in ("", "×") else " "
    low, high = (f"{value:,.{digits}f}" for value in (min(figure.values), max(figure.values)))
    spread = f"{low} – {high}" if len(figure.values) > 1 else ""
    return f"{figure.median:,.{digits}f}{gap}{figure.unit}", spread


def decimals(value: float) -> int:
    """Decimal places that show three significant digits of a value (four at most)."""
    size = abs(value)
    return next((digits for digits, least in enumerate((100, 10, 1, 0.1)) if size >= least), 4)


def memory(label: str, count: int, note: str = "") -> Figure:
    """A size in bytes as a figure in MiB or GiB."""
    unit, power = ("GiB", 30) if count >= 1 << 30 else ("MiB", 20)
    return Figure(label, unit, (count / (1 << power),), note)
