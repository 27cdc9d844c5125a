"""Probability as a style."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tui.paths import themes_dir
from qwen_tui.tui.theme import themes
from qwen_tui.tui.theme.heat import LEVEL_FLOORS, Heat, bits, level_of, percent


def ember() -> Heat:
    return Heat.of(themes.load([themes_dir()]).themes["ember"])


def test_each_level_begins_at_its_own_probability() -> None:
    for level, floor in enumerate(LEVEL_FLOORS):
        assert level_of(math.log(floor)) == level
        assert level_of(math.log(floor * 0.999)) == level + 1
    assert level_of(0.0) == 0
    assert level_of(-math.inf) == len(LEVEL_FLOORS)


@given(st.floats(-60, 0), st.floats(-60, 0))
def test_less_probable_is_never_cooler(one: float, other: float) -> None:
    low, high = sorted((one, other))
    first, second = level_of(low), level_of(high)
    assert first is not None
    assert second is not None
    assert first >= second


@pytest.mark.parametrize("unknown", [None, math.nan])
def test_what_is_not_known_has_no_colour(unknown: float | None) -> None:
    assert ember().style(unknown) is None
    assert percent(unknown) == ""
    assert bits(unknown) is None


def test_the_same_chance_has_the_same_style_object() -> None:
    heat = ember()
    assert heat.style(-0.02) is heat.style(-0.03)
    assert heat.style(-0.02) != heat.style(-8)


def test_the_legend_names_every_level() -> None:
    labels = [label for label, _ in ember().legend()]
    assert labels == ["≥90%", "70", "50", "25", "10", "3", "0.5", "rarer"]


def test_without_colour_there_are_styles_but_no_colours() -> None:
    heat = Heat.of(themes.load([themes_dir()]).themes["ember"], colour=False)
    assert {style.color for style in heat.levels} == {None}
    assert heat.style(-20) != heat.style(0)


@pytest.mark.parametrize(
    ("probability", "said"),
    [(1.0, "100%"), (0.998, "99.8%"), (0.42, "42%"), (0.00031, "0.031%"), (1e-9, "<0.001%")],
)
def test_a_probability_for_a_person(probability: float, said: str) -> None:
    assert percent(math.log(probability)) == said


def test_surprisal_is_in_bits() -> None:
    assert bits(math.log(0.25)) == pytest.approx(2)
