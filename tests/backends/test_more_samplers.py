"""The samplers that are off by default: each against transformers' processor where it has one, else
against its rule written down once more, plainly, over all logits.
"""

from __future__ import annotations

import math
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
from qwen_tui.backends.local.decoding.history import History
from qwen_tui.backends.local.decoding.logprobs import top_logits
from qwen_tui.backends.local.decoding.sampling import SamplerChain
from qwen_tui.backends.remote.dialects.llamacpp import LlamaCpp
from qwen_tui.backends.remote.dialects.vllm import Vllm
from qwen_tui.types import Request, Sampling, Token

RAW = Sampling(min_p=0.0)
SPELLED = [b"a", b" b", b"\n", b"xy", b"z:", b"#", b"##", b" end"]


def row(seed: int, size: int = 400, spread: float = 3.0) -> torch.Tensor:
    """One row of logits [V] float32."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * spread


def whole(logits: torch.Tensor) -> Candidates:
    """All of a row as sorted candidates."""
    values, ids = logits.double().sort(descending=True, stable=True)
    return Candidates(values, ids)


def kept(found: Candidates) -> set[int]:
    """The ids that are left."""
    return set(found.ids.tolist())


def left(processed: torch.Tensor) -> set[int]:
    """What a transformers processor left."""
    return set(torch.nonzero(processed[0] > -math.inf).flatten().tolist())


def history(values: Sampling, ids: list[int]) -> History:
    """The state after ids that are spelled as in SPELLED, over and over."""
    tokens = [Token(each, SPELLED[each % len(SPELLED)]) for each in ids]
    return History.of(values, tokens, lambda each: SPELLED[each % len(SPELLED)])


# -- against transformers --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize("cutoff", [1e-4, 3e-3, 0.05, 0.5])
def test_epsilon_and_eta_keep_what_transformers_keeps(
    seed: int, spread: float, cutoff: float
) -> None:
    logits = row(seed, spread=spread)
    wanted = left(hf.EpsilonLogitsWarper(cutoff)(None, logits.double()[None]))
    assert kept(truncation.epsilon(whole(logits), cutoff)) == wanted
    wanted = left(hf.EtaLogitsWarper(cutoff)(None, logits.double()[None]))
    assert kept(truncation.eta(whole(logits), cutoff)) == wanted


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [3, 90, 400])
@pytest.mark.parametrize("share", [0.01, 0.4, 0.9])
def test_top_h_keeps_what_transformers_keeps(seed: int, size: int, share: float) -> None:
    logits = row(seed, size)
    wanted = left(hf.TopHLogitsWarper(share)(None, logits.double()[None]))
    assert kept(truncation.top_h(whole(logits), share)) == wanted


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_no_repeat_ngram_bans_what_transformers_bans(ids: list[int], size: int) -> None:
    processor = hf.NoRepeatNGramLogitsProcessor(size)
    wanted = set(range(8)) - left(processor(torch.tensor([ids]).long(), torch.zeros(1, 8)))
    values = replace(RAW, no_repeat_ngram=size)
    assert set(repetition.repeated_ngrams(history(values, ids), size)) == wanted


# -- against their rules ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_top_a_top_n_sigma_and_tail_free_keep_what_their_rules_say(
    seed: int, spread: float
) -> None:
    logits = row(seed, spread=spread)
    plain = logits.double()
    p = [math.exp(each) for each in (plain - plain.logsumexp(0)).tolist()]
    for share in (0.05, 0.2, 1.0):
        wanted = {at for at, each in enumerate(p) if each >= share * max(p) ** 2}
        assert kept(truncation.top_a(whole(logits), share)) == wanted
    values = plain.tolist()
    mean = sum(values) / len(values)
    sigma = math.sqrt(sum((each - mean) ** 2 for each in values) / len(values))
    for n in (0.5, 1.0, 2.5):
        wanted = {at for at, each in enumerate(values) if each >= max(values) - n * sigma}
        assert kept(truncation.top_n_sigma(whole(logits), n)) == wanted
    order = sorted(range(len(p)), key=lambda at: -p[at])
    falls = [p[order[i + 1]] - p[order[i]] for i in range(len(p) - 1)]
    bends = [abs(falls[i + 1] - falls[i]) for i in range(len(falls) - 1)]
    for z in (0.2, 0.9, 0.99):
        size, part = 1, 0.0
        for bend in bends:
            part += bend / sum(bends)
            if part > z:
                break
            size += 1
        assert kept(truncation.tail_free(whole(logits), z)) == set(order[:size])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.3])
def test_xtc_drops_all_likely_tokens_but_the_least_likely(seed: int, threshold: float) -> None:
    logits = row(seed, 30, 1.5)
    p = logits.double().softmax(0)
    likely = sorted((at for at in range(30) if p[at] >= threshold), key=lambda at: float(p[at]))
    dropped = set(likely[1:])
    assert kept(truncation.without_likely(whole(logits), threshold)) == set(range(30)) - dropped


def test_xtc_runs_as_often_as_it_is_asked_to() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    chain = SamplerChain.of(replace(RAW, xtc_probability=0.25))
    assert chain.tosses
    state = History(RAW)
    drawn = [chain.sample(logits, state, 0.0, toss=each / 100).id for each in range(100)]
    assert drawn == [2] * 25 + [0] * 75
    assert not SamplerChain.of(replace(RAW, xtc_probability=1.0, xtc_threshold=0.6)).tosses


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("curve", [1.0, 2.0, 3.5])
def test_smoothing_and_dynamic_temperature_follow_their_formulas(seed: int, curve: float) -> None:
    logits = row(seed, 60, 1.5)
    logits[7] = -math.inf
    values = replace(RAW, smoothing_factor=0.4, smoothing_curve=curve)
    best, k, s = float(logits.max()), (3 - curve) / 2, (curve - 1) / 2
    for at, each in enumerate(ours.smoothed(logits, values).tolist()):
        d = float(logits[at]) - best
        wanted = -k * 0.4 * d**2 + s * 0.4 * d**3 + best if at != 7 else -math.inf
        assert each == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    values = replace(RAW, temperature=0.9, dynatemp_range=1.2, dynatemp_exponent=curve)
    p = logits.double().softmax(0)[torch.arange(60) != 7].tolist()
    entropy = -sum(each * math.log(each) for each in p)
    found = whole(logits).first(59)
    wanted = 0.0 + (2.1 - 0.0) * (entropy / math.log(59)) ** curve
    assert ours.dynamic_temperature(found, values) == pytest.approx(wanted)
    assert ours.dynamic_temperature(found.first(1), values) == 0.9


def plain_dry(values: Sampling, ids: list[int]) -> dict[int, float]:
    """DRY by trying every length of suffix at every place, breakers found in the joined bytes."""
    last_n = values.dry_penalty_last_n
    ends, spelled = [], b""
    for each in ids:
        spelled += SPELLED[each % len(SPELLED)]
        ends.append(len(spelled))
    border = 0
    for text in values.dry_sequence_breakers:
        if text.encode() in spelled:
            border = max(border, spelled.rfind(text.encode()) + len(text.encode()))
    free = sum(1 for end in [0, *ends[:-1]] if end >= border)
    seen = ids if last_n < 0 else ids[len(ids) - min(last_n, len(ids)) :]
    found: dict[int, float] = {}
    for size in range(values.dry_allowed_length, min(free, len(seen)) + 1):
        for start in range(len(seen) - size):
            if seen[start : start + size] == seen[len(seen) - size :]:
                penalty = values.dry_multiplier * values.dry_base ** (
                    size - values.dry_allowed_length
                )
                found[seen[start + size]] = max(penalty, found.get(seen[start + size], 0.0))
    return found


@given(
    ids=st.lists(st.integers(0, 7), max_size=60),
    multiplier=st.sampled_from([0.5, 2.0]),
    base=st.sampled_from([1.0, 1.75]),
    allowed=st.integers(1, 4),
    last_n=st.sampled_from([-1, 5, 20]),
    breakers=st.sampled_from([(), ("\n",), ("###", ":"), ("b\n", "y\n")]),
)
@settings(max_examples=300, deadline=None)
def test_dry_takes_off_what_its_rule_says(
    ids: list[int], multiplier: float, base: float, allowed: int, last_n: int, breakers: tuple[str]
) -> None:
    values = Sampling(
        dry_multiplier=multiplier, dry_base=base, dry_allowed_length=allowed,
        dry_penalty_last_n=last_n, dry_sequence_breakers=breakers,
    )  # fmt: skip
    wanted = plain_dry(values, ids)
    assert repetition.dry(history(values, ids), values) == pytest.approx(wanted)
    begun = history(values, ids[: len(ids) // 2])
    for each in ids[len(ids) // 2 :]:
        begun.copy().push(5)
        begun.push(each)
    assert repetition.dry(begun, values) == pytest.approx(wanted)


def test_a_breaker_far_back_in_a_long_text_is_found() -> None:
    values = replace(RAW, dry_multiplier=0.8, dry_allowed_length=600, dry_base=1.0)
    text = [3, 0, 1] * 400
    assert repetition.dry(history(values, text), values) == {3: 0.8}
    broken = [*text[:700], 2, *text[701:]]
    assert repetition.dry(history(values, broken), values) == {}


def test_a_repetition_without_end_does_not_overflow() -> None:
    values = replace(RAW, dry_multiplier=1.0, dry_base=4.0)
    (amount,) = repetition.dry(history(values, [0] * 3000), values).values()
    assert 1e30 < amount < 1e39
    assert torch.isfinite(repetition.lowered(torch.zeros(8), {0: amount})).all()


# -- samplers that steer ---------------------------------------------------------------------------


def test_mirostat_2_follows_its_rule_token_by_token() -> None:
    values = replace(RAW, mirostat=2, mirostat_tau=3.0, mirostat_eta=0.2)
    chain, state, mu = SamplerChain.of(values), History(values), 6.0
    for step in range(60):
        logits, u = row(step, 300, 1.0), (step * 37 % 100) / 100
        p = logits.double().softmax(0)
        order = sorted(range(300), key=lambda at: (-float(p[at]), at))
        size = max(1, sum(1 for at in order if -math.log2(float(p[at])) <= mu))
        mass = sum(float(p[at]) for at in order[:size])
        part, drawn = 0.0, order[size - 1]
        for at in order[:size]:
            part += float(p[at]) / mass
            if part > u:
                drawn = at
                break
        found = chain.sample(logits, state, u)
        assert found.id == drawn
        assert found.share == pytest.approx(float(p[drawn]) / mass, rel=1e-5)
        mu -= 0.2 * (-math.log2(float(p[drawn]) / mass) - 3.0)
        state.push(found.id, found.share)
        assert state.steering is not None
        assert state.steering.mu == pytest.approx(mu, abs=1e-3)


def test_mirostat_holds_the_surprise_at_tau() -> None:
    for version in (1, 2):
        values = replace(RAW, mirostat=version, mirostat_tau=2.5)
        chain, state, surprises = SamplerChain.of(values), History(values), []
        dice = torch.Generator().manual_seed(3)
        for step in range(400):
            found = chain.sample(row(step, 500, 1.2), state, float(torch.rand(1, generator=dice)))
            assert found.share is not None
            surprises.append(-math.log2(found.share))
            state.push(found.id, found.share)
        assert sum(surprises[100:]) / 300 == pytest.approx(2.5, abs=0.3)


def test_adaptive_p_follows_its_rule_token_by_token() -> None:
    values = replace(RAW, adaptive_target=0.4, adaptive_decay=0.8)
    chain, state, shares = SamplerChain.of(values), History(values), []
    for step in range(40):
        logits, u = row(step, 50, 1.5), (step * 53 % 100) / 100
        p = logits.double().softmax(0).tolist()
        # The mean as if the target had been met at every place before.
        mean = 0.4 * 0.8 ** len(shares)
        mean += 0.2 * sum(each * 0.8**age for age, each in enumerate(reversed(shares)))
        target = min(1.0, max(0.0, 2 * 0.4 - mean))
        d = [abs(each - target) / 0.3 for each in p]
        weights = [math.exp(5 - 10 * each**2 / (1 + each)) for each in d]
        order = sorted(range(50), key=lambda at: (-weights[at], at))
        part, drawn = 0.0, order[-1]
        for at in order:
            part += weights[at] / sum(weights)
            if part > u:
                drawn = at
                break
        found = chain.sample(logits, state, u)
        assert found.id == drawn
        assert found.share == pytest.approx(p[drawn], rel=1e-5)
        shares.append(found.share)
        state.push(found.id, found.share)


def test_the_state_follows_from_the_tokens_of_the_path() -> None:
    values = replace(RAW, mirostat=2, dry_multiplier=0.8, no_repeat_ngram=3)
    tokens = [Token(each % 7, SPELLED[each % 7], share=(each + 1) / 20) for each in range(12)]
    grown = History.of(values, tokens[:5], lambda each: SPELLED[each])
    for token in tokens[5:]:
        grown.push(token.id, token.share)
    fresh = History.of(values, tokens, lambda each: SPELLED[each])
    assert grown.ids == fresh.ids
    assert grown.steering is not None
    assert fresh.steering is not None
    assert grown.steering.mu == fresh.steering.mu
    assert grown.breakers is not None
    assert fresh.breakers is not None
    assert grown.breakers.since == fresh.breakers.since


# -- together --------------------------------------------------------------------------------------


ON = {
    "dry_multiplier": 0.8, "no_repeat_ngram": 2, "top_n_sigma": 1.5, "tfs": 0.9, "top_a": 0.2,
    "epsilon_cutoff": 0.002, "eta_cutoff": 0.002, "top_h": 0.5, "xtc_probability": 0.5,
    "smoothing_factor": 0.3, "smoothing_curve": 2.0, "dynatemp_range": 0.5, "mirostat": 2,
    "adaptive_target": 0.4, "min_p": 0.05, "top_p": 0.9, "typical_p": 0.7, "top_k": 50,
    "temperature": 0.8, "repetition_penalty": 1.2,
}  # fmt: skip


@given(
    on=st.sets(st.sampled_from(sorted(ON)), max_size=5),
    order=st.permutations(Sampling().order).map(tuple),
    seed=st.integers(0, 50),
    spread=st.sampled_from([0.01, 1.0, 4.0]),
    coarse=st.booleans(),
    u=st.floats(0, 1, exclude_max=True),
    toss=st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=400, deadline=None)
def test_looking_at_the_best_first_draws_what_the_whole_row_draws(
    on: set[str],
    order: tuple[str, ...],
    seed: int,
    spread: float,
    coarse: bool,
    u: float,
    toss: float,
) -> None:
    """`coarse` logits tie by the hundred, as bf16 ones do."""
    values = replace(RAW, order=order, **{name: ON[name] for name in on})
    logits = row(seed, 2000, spread)
    if coarse:
        logits = (logits * 4).round() / 4
    chain, state = SamplerChain.of(values), history(values, [3, 5, 7, 7, 3, 5, 7])
    found = chain.sample(logits, state, u, toss=toss, top=top_logits(logits[None], 64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "HEADS", ())
        patch.setattr(ours, "MIN_P_MARGIN", math.inf)
        assert chain.sample(logits, state, u, toss=toss) == found
    assert found.share is None or 0 < found.share <= 1


@pytest.mark.parametrize("name", sorted(set(ON) - {"dry_multiplier", "no_repeat_ngram"}))
def test_greedy_decoding_takes_the_likeliest_whatever_else_is_on(name: str) -> None:
    values = replace(RAW, **{name: ON[name]}) if name != "temperature" else RAW
    values = replace(values, temperature=0.0)
    for seed in range(5):
        logits = row(seed, 2000)
        drawn = SamplerChain.of(values).sample(logits, history(values, [1]), 0.9, toss=0.0)
        assert drawn == ours.Drawn(int(logits.argmax()))


def test_an_order_without_a_stage_leaves_it_out() -> None:
    values = replace(RAW, order=("temperature",), **{k: v for k, v in ON.items() if k != "min_p"})
    chain = SamplerChain.of(replace(values, temperature=1.0, dynatemp_range=0.0))
    assert chain.edits == chain.cuts == ()


# -- on a server -----------------------------------------------------------------------------------


def test_llamacpp_is_told_what_is_on_and_refuses_what_it_has_not() -> None:
    server = LlamaCpp(None, 4096)

    def body(sampling: Sampling) -> dict[str, Any]:
        return dict(server.calls(Request((Token(-1, b"a"),), sampling))[0].body)

    plain = body(Sampling())
    assert plain["samplers"] == ["penalties", "top_k", "typ_p", "top_p", "min_p", "temperature"]
    assert not {"dry_multiplier", "mirostat", "dry_sequence_breakers"} & plain.keys()
    on = Sampling(dry_multiplier=0.8, xtc_probability=0.5, top_n_sigma=1.0, dynatemp_range=0.5)
    told = body(on)
    assert {"dry", "xtc", "top_n_sigma"} < set(told["samplers"])
    assert (told["dry_multiplier"], told["dry_base"]) == (0.8, 1.75)
    assert told["dry_sequence_breakers"] == ["\n", ":", '"', "*"]
    assert server.unknown(on) == ()
    assert server.unknown(Sampling(tfs=0.9, top_h=0.4, no_repeat_ngram=3)) == (
        "no_repeat_ngram", "tfs", "top_h",
    )  # fmt: skip
    assert server.unknown(Sampling(mirostat=2)) == ("min_p",)
    assert server.unknown(Sampling(mirostat=2, min_p=0.0)) == ()
    assert server.unknown(Sampling(dry_base=3.0, dry_sequence_breakers=())) == ()
    assert Vllm("m", None, 4096).unknown(on) == (
        "dry_multiplier", "top_n_sigma", "xtc_probability", "dynatemp_range",
    )  # fmt: skip
