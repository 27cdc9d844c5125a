"""The sampling stages against transformers' own, the draw against its formula, and the shortcuts
against the full row.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as hf

from qwen_tui.backends.local.decoding import repetition, truncation
from qwen_tui.backends.local.decoding import sampling as ours
from qwen_tui.backends.local.decoding.candidates import Candidates
from qwen_tui.backends.local.decoding.history import History, PenaltyWindow
from qwen_tui.backends.local.decoding.logprobs import token_from, top_logits
from qwen_tui.backends.local.decoding.random_draw import philox, uniform
from qwen_tui.backends.local.decoding.sampling import AllBanned, SamplerChain
from qwen_tui.types import Sampling

NEUTRAL = Sampling(min_p=0.0, repeat_last_n=-1)


def row(size: int = 500, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    """One row of logits [V] float32."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * spread


def whole(logits: torch.Tensor) -> Candidates:
    """All of a row as sorted candidates."""
    values, ids = logits.double().sort(descending=True, stable=True)
    return Candidates(values, ids)


def seen(last_n: int = 0, ids: Sequence[int] = ()) -> History:
    """A history of which the penalties see the last `last_n` ids."""
    return History(Sampling(repeat_last_n=last_n), ids)


def survivors(processed: torch.Tensor) -> set[int]:
    """What a transformers processor left."""
    return set(torch.nonzero(processed[0] > -math.inf).flatten().tolist())


# -- each stage against transformers ---------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("k", [1, 7, 40, 499, 500, 900])
def test_top_k_keeps_what_transformers_keeps(seed: int, k: int) -> None:
    logits = row(seed=seed)
    expected = survivors(hf.TopKLogitsWarper(k)(None, logits[None]))
    assert set(truncation.top_k(whole(logits), k).ids.tolist()) == expected


def test_top_k_keeps_what_ties_with_the_last() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0, 0.0])
    expected = survivors(hf.TopKLogitsWarper(2)(None, logits[None]))
    assert set(truncation.top_k(whole(logits), 2).ids.tolist()) == expected == {1, 2, 3, 4}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("mass", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_top_p_keeps_what_transformers_keeps(seed: int, mass: float) -> None:
    logits = row(seed=seed)
    expected = survivors(hf.TopPLogitsWarper(mass)(None, logits.double()[None]))
    assert set(truncation.top_p(whole(logits), mass).ids.tolist()) == expected


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 1.0])
def test_min_p_keeps_what_transformers_keeps(seed: int, share: float) -> None:
    logits = row(seed=seed)
    expected = survivors(hf.MinPLogitsWarper(share)(None, logits[None]))
    assert set(truncation.min_p(whole(logits), share).ids.tolist()) == expected


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("mass", [0.05, 0.2, 0.5, 0.9, 0.999])
def test_typical_keeps_what_transformers_keeps(seed: int, mass: float) -> None:
    logits = row(seed=seed)
    expected = survivors(hf.TypicalLogitsWarper(mass)(None, logits.double()[None]))
    assert set(truncation.typical_p(whole(logits), mass).ids.tolist()) == expected


@pytest.mark.parametrize("penalty", [0.7, 1.1, 2.0])
def test_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    logits, ids = row(), [3, 3, 7, 11, 499]
    processor = hf.RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor([ids]), logits[None].clone())[0]
    found = repetition.penalised(logits, Counter(ids), replace(NEUTRAL, repetition_penalty=penalty))
    torch.testing.assert_close(found, expected)


def test_presence_and_frequency_follow_their_formula() -> None:
    logits = row()
    values = replace(NEUTRAL, presence_penalty=0.5, frequency_penalty=0.25)
    found = repetition.penalised(logits, Counter([3, 3, 3, 7]), values)
    assert found[3] == pytest.approx(float(logits[3]) - 0.5 - 0.75)
    assert found[7] == pytest.approx(float(logits[7]) - 0.5 - 0.25)
    untouched = [each for each in range(500) if each not in (3, 7)]
    assert torch.equal(found[untouched], logits[untouched])


def test_bias_is_that_of_transformers_and_minus_infinity_bans() -> None:
    logits = row()
    biases = {(4,): 2.5, (9,): -1.0}
    expected = hf.SequenceBiasLogitsProcessor(biases)(torch.tensor([[1]]), logits[None].clone())[0]
    found = repetition.biased(logits, ((4, 2.5), (9, -1.0), (10_000, 5.0), (-1, 5.0)))
    torch.testing.assert_close(found, expected)
    assert repetition.biased(logits, ((4, -math.inf),))[4] == -math.inf


def test_temperature_scales_as_transformers() -> None:
    logits = row()
    expected = hf.TemperatureLogitsWarper(0.7)(None, logits[None])[0].softmax(-1)
    found = ours.tempered(whole(logits), 0.7)
    probs = torch.zeros(500, dtype=torch.float64).index_copy(0, found.ids, found.logprobs().exp())
    torch.testing.assert_close(probs.float(), expected)


# -- the window ------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(-1, 12))
@settings(max_examples=60, deadline=None)
def test_a_window_counts_the_last_n(ids: list[int], last_n: int) -> None:
    start = len(ids) // 2
    window = PenaltyWindow(last_n, ids[:start])
    for each in ids[start:]:
        window.push(each)
    assert window.counts == Counter(ids if last_n < 0 else ids[len(ids) - min(last_n, len(ids)) :])
    assert window.copy().counts == window.counts


# -- the draw --------------------------------------------------------------------------------------


def test_philox_gives_the_published_words() -> None:
    """Known answers of Random123 1.14, philox4x32-10."""
    assert philox((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    ones = 0xFFFFFFFF
    assert philox((ones,) * 4, (ones,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    counter = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    answer = (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)
    assert philox(counter, (0xA4093822, 0x299F31D0)) == answer


def test_a_draw_depends_on_seed_branch_and_position_alone() -> None:
    draws = {
        (seed, branch, position): uniform(seed, branch, position)
        for seed in (0, 1, 2**63 + 5)
        for branch in range(3)
        for position in (0, 1, 131_071)
    }
    assert len(set(draws.values())) == len(draws)
    assert all(0 <= each < 1 for each in draws.values())
    assert draws == {key: uniform(*key) for key in reversed(draws)}


@pytest.mark.parametrize(
    "values",
    [
        replace(NEUTRAL, temperature=1.0),
        replace(NEUTRAL, temperature=0.7),
        replace(NEUTRAL, temperature=1.6, top_k=12, top_p=0.9),
        replace(NEUTRAL, typical_p=0.8),
    ],
    ids=["raw", "cool", "cut", "typical"],
)
def test_drawn_ids_follow_the_distribution(values: Sampling) -> None:
    """Chi-square over 4,000 draws at the 0.1 % level, against transformers' processors."""
    logits, chain, window = row(40, seed=5, spread=1.5), SamplerChain.of(values), seen()
    processed = logits[None]
    if values.top_k:
        processed = hf.TopKLogitsWarper(values.top_k)(None, processed)
    if values.typical_p < 1:
        processed = hf.TypicalLogitsWarper(values.typical_p)(None, processed)
    if values.top_p < 1:
        processed = hf.TopPLogitsWarper(values.top_p)(None, processed)
    expected = (processed / values.temperature).double().softmax(-1)[0] * 4000
    drawn = Counter(chain.sample(logits, window, uniform(7, 0, place)).id for place in range(4000))
    live = [each for each in range(40) if expected[each] >= 5]
    assert set(drawn) <= set(torch.nonzero(expected).flatten().tolist())
    statistic = sum((drawn[each] - expected[each]) ** 2 / expected[each] for each in live)
    freedom = len(live) - 1
    critical = freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
    assert float(statistic) < critical


def test_the_inverse_cdf_runs_over_probabilities_sorted_by_p_then_id() -> None:
    logits = torch.tensor([0.25, 0.5, 0.125, 0.125]).log()
    chain = SamplerChain.of(NEUTRAL)
    picks = [chain.sample(logits, seen(), u).id for u in (0.0, 0.49, 0.51, 0.74, 0.76, 0.87, 0.88)]
    assert picks == [1, 1, 0, 0, 2, 2, 3]


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    logits = torch.zeros(3000)
    logits[[70, 2000, 2999]] = 1.0
    assert SamplerChain.of(Sampling(temperature=0.0)).sample(logits, seen(), 0.99).id == 70
    assert (
        SamplerChain.of(replace(NEUTRAL, temperature=0.0)).sample(torch.zeros(3000), seen(), 0.9).id
        == 0
    )


# -- order, constraints, and what is neutral -------------------------------------------------------


def test_neutral_values_make_no_stage() -> None:
    chain = SamplerChain.of(NEUTRAL)
    assert chain.edits == chain.cuts == ()
    logits = row()
    assert chain.edited(logits, seen(-1, [1, 2])) is logits


def test_temperature_first_keeps_more_than_temperature_last() -> None:
    logits = row(2000, seed=1, spread=2.0)
    last = replace(NEUTRAL, temperature=1.5, min_p=0.1)
    first = replace(last, order=("temperature", "min_p"))
    reach = {}
    for name, values in (("last", last), ("first", first)):
        chain = SamplerChain.of(values)
        reach[name] = {chain.sample(logits, seen(), u / 400).id for u in range(400)}
    hot = hf.MinPLogitsWarper(0.1)(None, hf.TemperatureLogitsWarper(1.5)(None, logits[None]))
    assert reach["last"] < reach["first"] <= survivors(hot)
    assert reach["last"] <= survivors(hf.MinPLogitsWarper(0.1)(None, logits[None]))


def test_a_stage_that_the_order_leaves_out_does_not_run() -> None:
    logits = row()
    values = Sampling(top_k=1, min_p=0.0, order=("temperature",))
    assert len({SamplerChain.of(values).sample(logits, seen(), u / 50).id for u in range(50)}) > 1


def test_penalties_after_a_cut_reorder_the_survivors() -> None:
    logits = torch.tensor([5.0, 4.0, 3.0, -1.0])
    values = Sampling(
        top_k=2, min_p=0.0, temperature=0.0, frequency_penalty=1.5,
        order=("top_k", "penalties", "temperature"),
    )  # fmt: skip
    assert SamplerChain.of(values).sample(logits, seen(-1, [0]), 0.5).id == 1
    assert SamplerChain.of(values).sample(logits, seen(-1, [0, 1]), 0.5).id == 0


def test_allowed_ids_bound_the_choice() -> None:
    logits, allowed = row(3000), torch.tensor([17, 2500])
    for values in (Sampling(), NEUTRAL, Sampling(temperature=0.0)):
        chain = SamplerChain.of(values)
        top = top_logits(logits[None], 64)
        ids = {chain.sample(logits, seen(), u / 20, top=top, allowed=allowed).id for u in range(20)}
        assert ids <= {17, 2500}


def test_all_banned_is_said_and_not_drawn() -> None:
    values = Sampling(logit_bias=tuple((each, -math.inf) for each in range(8)))
    with pytest.raises(AllBanned):
        SamplerChain.of(values).sample(torch.zeros(8), seen(), 0.5)
    late = replace(values, order=("min_p", "bias"))
    with pytest.raises(AllBanned):
        SamplerChain.of(late).sample(torch.zeros(8), seen(), 0.5)


def test_a_tiny_temperature_is_greedy_and_not_nan() -> None:
    logits = row(2000)
    for order in (("temperature",), ("top_k", "temperature")):
        values = Sampling(temperature=1e-30, top_k=50, order=order)
        assert SamplerChain.of(values).sample(logits, seen(), 0.999).id == int(logits.argmax())


# -- shortcuts are exact ---------------------------------------------------------------------------


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 30, 64, 65, 800]),
    top_p=st.sampled_from([0.05, 0.8, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.001, 0.05, 0.5]),
    typical_p=st.sampled_from([1.0, 1.0, 0.6]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.8]),
    repeat_last_n=st.sampled_from([-1, 0, 4]),
    logit_bias=st.sampled_from([(), ((3, 4.0), (5, -math.inf))]),
    order=st.permutations(Sampling().order).map(tuple),
)


@given(
    values=SAMPLINGS,
    seed=st.integers(0, 50),
    spread=st.sampled_from([0.01, 1.0, 4.0]),
    coarse=st.booleans(),
    u=st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=250, deadline=None)
def test_looking_at_the_best_first_draws_what_the_whole_row_draws(
    values: Sampling, seed: int, spread: float, coarse: bool, u: float
) -> None:
    """`coarse` logits tie by the hundred, as bf16 ones do."""
    logits = row(2000, seed=seed, spread=spread)
    if coarse:
        logits = (logits * 4).round() / 4
    chain, window = (
        SamplerChain.of(values),
        seen(values.repeat_last_n, [3, 5, 7, 7, 7, 900]),
    )
    found = chain.sample(logits, window, u, top=top_logits(logits[None], 64)).id
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "HEADS", ())
        assert chain.sample(logits, window, u).id == found
        patch.setattr(ours, "MIN_P_MARGIN", math.inf)
        assert chain.sample(logits, window, u).id == found, "min-p saw less than the whole row"


# -- ranking ---------------------------------------------------------------------------------------


class OnMetal(torch.Tensor):
    """As on Apple's GPUs: another device, and no float64 there."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # the signature that torch calls
        if func is torch.Tensor.double:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        found = super().__torch_function__(func, types, args, kwargs or {})
        if func is torch.Tensor.cpu:
            return found.as_subclass(torch.Tensor)
        if func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return torch.device("mps")
        return found


@pytest.mark.parametrize("spread", [0.1, 8.0])
@pytest.mark.parametrize(
    "values",
    [
        Sampling(),
        Sampling(temperature=0.0),
        Sampling(min_p=0.0, temperature=0.7),
        Sampling(min_p=0.0, top_p=0.9, top_k=40),
        Sampling(min_p=0.0, typical_p=0.6),
    ],
)
def test_a_device_without_float64_draws_what_the_host_draws(
    values: Sampling, spread: float
) -> None:
    chain, window = SamplerChain.of(values), seen()
    logits = row(5000, spread=spread)
    there = logits.as_subclass(OnMetal)
    for position in range(20):
        u = uniform(3, 0, position)
        top = top_logits(there[None], 64)
        assert chain.sample(there, window, u, top=top).id == chain.sample(logits, window, u).id
    right, found = top_logits(logits[None], 64), top_logits(there[None], 64)
    for name in ("values", "ids", "log_mass"):
        assert torch.equal(getattr(found, name), getattr(right, name))


def test_a_tokens_logprob_is_raw_and_its_rivals_are_sorted() -> None:
    logits = row(300)
    expected = logits.double().log_softmax(0)
    order = sorted(range(300), key=lambda each: (-float(logits[each]), each))
    for chosen in (order[0], order[3], order[200]):
        token = token_from(
            logits, chosen, top_logits(logits[None], 64), 5, lambda each: b"%d" % each
        )
        assert token.id == chosen
        assert token.data == b"%d" % chosen
        assert token.logprob == pytest.approx(float(expected[chosen]), abs=1e-5)
        assert [each.id for each in token.choices] == order[:5]
        assert [each.logprob for each in token.choices] == pytest.approx(
            expected[order[:5]].tolist(), abs=1e-5
        )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_logit_shows(bad: float) -> None:
    logits = row(300)
    assert top_logits(logits[None], 8).finite(0)
    logits[123] = bad
    assert not top_logits(logits[None], 8).finite(0)
