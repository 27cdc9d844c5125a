"""Numeric settings and presets: one table says what a value may be, and every preset obeys it."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_tui import presets
from qwen_tui.numeric_settings import NUMERIC_SETTING, NUMERIC_SETTINGS, SWITCHES, NumericSetting
from qwen_tui.presets import PRESETS
from qwen_tui.types import BAD_DATA, DEFAULT_ORDER, USAGE, Sampling, Trouble


def test_every_sampling_value_is_known() -> None:
    assert set(presets.NAMES) == {each.name for each in fields(Sampling)}
    assert set(presets.STAGES) == set(DEFAULT_ORDER)
    others = {"logit_bias", "order", "seed", "dry_sequence_breakers"}
    assert set(NUMERIC_SETTING) | others == set(presets.NAMES)
    assert all(
        getattr(presets.RAW, setting.name) == setting.neutral for setting in NUMERIC_SETTINGS
    )
    assert set(SWITCHES) < set(DEFAULT_ORDER)
    assert all(
        NUMERIC_SETTING[setting.of].on is not None for setting in NUMERIC_SETTINGS if setting.of
    )


@pytest.mark.parametrize("setting", NUMERIC_SETTINGS, ids=lambda setting: setting.name)
def test_a_dial_takes_its_ends_and_refuses_beyond(setting: NumericSetting) -> None:
    for value in (setting.low, setting.high, setting.neutral, setting.usual):
        assert setting.check(value) == value
        assert setting.read(setting.show(value)) == value
    for value in (setting.low - 1, setting.high + 1, math.nan, math.inf, True, "x", None):
        with pytest.raises(ValueError, match=setting.label):
            setting.check(value)
    with pytest.raises(ValueError, match=setting.label):
        setting.read("abc")
    if setting.integer:
        with pytest.raises(ValueError, match="whole"):
            setting.check(setting.low + 0.5)


@given(st.sampled_from(NUMERIC_SETTINGS), st.floats(0, 1), st.integers(-300, 300))
def test_moving_a_dial_never_leaves_its_range_and_comes_back(
    setting: NumericSetting, where: float, steps: int
) -> None:
    start = setting.moved(setting.low + where * (setting.usual - setting.low), 0)
    there = setting.moved(start, steps)
    assert setting.low <= there <= setting.high
    assert setting.read(setting.show(there)) == there
    if setting.low < there < setting.high:
        assert setting.moved(there, -steps) == pytest.approx(start, abs=1e-9)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_every_preset_is_within_the_numeric_settings(preset: presets.Preset) -> None:
    sampling = preset.sampling or Sampling()
    for name in presets.NAMES:
        assert presets.checked(name, getattr(sampling, name)) == getattr(sampling, name)
    assert sampling.seed is None
    assert presets.named(preset.name) is preset
    assert presets.named(preset.label.upper()) is preset


def test_the_default_preset_is_the_default_sampling() -> None:
    assert presets.named(presets.DEFAULT_PRESET).sampling == Sampling()
    assert presets.matching(Sampling(seed=7)) is presets.named("balanced")
    assert presets.matching(Sampling(temperature=0.123)) is None


def test_raw_and_neutralise_switch_everything_off() -> None:
    assert all(presets.is_neutral(presets.RAW, name) for name in presets.NAMES)
    busy = Sampling(0.3, 5, 0.5, 0.2, 0.7, 1.3, 1.0, 1.0, 12, ((3, -1.0),), ("top_k",), 99)
    off = presets.neutralise(busy)
    assert off == replace(presets.RAW, seed=99, order=("top_k",))


def test_a_wrong_preset_names_the_nearest() -> None:
    with pytest.raises(Trouble, match="did you mean creative") as caught:
        presets.named("creatif")
    assert caught.value.code == USAGE


@pytest.mark.parametrize(
    ("typed", "order"),
    [
        ("top_k;top-p;temp", ("top_k", "top_p", "temperature")),
        ("penalties,min_p", ("penalties", "min_p")),
        (["temperature", "typ_p"], ("temperature", "typical_p")),
        ("", ()),
    ],
)
def test_orders_are_read_in_the_spellings_people_use(typed: object, order: tuple[str, ...]) -> None:
    assert presets.checked("order", typed) == order


@pytest.mark.parametrize("typed", ["top_q", "top_k;top_k", 7, [1]])
def test_a_bad_order_is_refused(typed: object) -> None:
    with pytest.raises(ValueError, match=r"sampler|order"):
        presets.checked("order", typed)


@pytest.mark.parametrize(
    ("typed", "biases"),
    [
        ("198=-1.5", ((198, -1.5),)),
        (["7=2", "3=-inf"], ((3, -math.inf), (7, 2.0))),
        ("15043+1", ((15043, 1.0),)),
        ("15043-1", ((15043, -1.0),)),
        ({"5": 1}, ((5, 1.0),)),
        ([(5, 1.0)], ((5, 1.0),)),
    ],
)
def test_logit_biases_are_read(typed: object, biases: object) -> None:
    assert presets.checked("logit_bias", typed) == biases


@pytest.mark.parametrize(
    ("typed", "breakers"),
    [
        ("###", ("###",)),
        (["\n", "a b"], ("\n", "a b")),
        (["none"], ()),
        ([], ()),
    ],
)
def test_sequence_breakers_are_read(typed: object, breakers: object) -> None:
    assert presets.checked("dry_sequence_breakers", typed) == breakers
    for wrong in ([""], 5, [5]):
        with pytest.raises(ValueError, match="breaker"):
            presets.checked("dry_sequence_breakers", wrong)


@pytest.mark.parametrize("typed", ["x=1", "5=nan", "5=inf", "-5=1", "5", [3], 7])
def test_a_bad_bias_is_refused(typed: object) -> None:
    with pytest.raises(ValueError, match="ID=VALUE"):
        presets.checked("logit_bias", typed)


def test_seeds_go_over_64_bits_and_minus_one_is_a_fresh_one() -> None:
    assert presets.checked("seed", 2**64 - 1) == 2**64 - 1
    assert presets.checked("seed", "0x10") == 16
    for fresh in (-1, "random", None, ""):
        assert presets.checked("seed", fresh) is None
    for wrong in (2**64, -2, 1.5, True, "seven"):
        with pytest.raises(ValueError, match="seed"):
            presets.checked("seed", wrong)


def test_the_checkpoints_preset_reads_its_file_as_transformers_would(tmp_path: Path) -> None:
    file = tmp_path / "generation_config.json"
    hf = presets.named("hf").sampling
    assert presets.checkpoint(tmp_path) == hf
    file.write_text(json.dumps({"do_sample": False, "max_new_tokens": 2048}))
    assert presets.checkpoint(tmp_path).temperature == 0
    # Qwen2.5-7B-Instruct's own file.
    asked = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
    file.write_text(json.dumps(asked | {"repetition_penalty": 1.05}))
    found = presets.checkpoint(tmp_path)
    assert (found.temperature, found.top_p, found.top_k) == (0.7, 0.8, 20)
    assert (found.repetition_penalty, found.repeat_last_n, found.min_p) == (1.05, -1, 0)
    assert found.order.index("temperature") < found.order.index("top_k")


@pytest.mark.parametrize("broken", ["[1]", "{", '{"do_sample": true, "top_p": 7}', "[" * 9999])
def test_a_broken_generation_config_is_named(tmp_path: Path, broken: str) -> None:
    (tmp_path / "generation_config.json").write_text(broken)
    with pytest.raises(Trouble, match=r"generation_config\.json") as caught:
        presets.checkpoint(tmp_path)
    assert caught.value.code == BAD_DATA
