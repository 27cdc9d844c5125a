"""Guessing ahead changes the work, never the text: greedy and sampled, right or wrong guesses."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from fixtures.checkpoints import qwen2
from fixtures.opening import asked, end, ids, local, run, tokens
from qwen_tui.backends.local.backend import Local
from qwen_tui.backends.local.decoding.prompt_lookup import PromptLookup
from qwen_tui.types import Emitted, Request, Sampling

PROMPT = [5, 6, 7, 8, 9, 10, 5, 6, 7, 8, 9, 11, 5, 6]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen2(tmp_path_factory.mktemp("model") / "m", hidden=64, intermediate=96, layers=2)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Local:
    return local(folder, path="fast", lookup=False)


@pytest.fixture
def guessing(folder: Path) -> Local:
    return local(folder, path="fast")


def test_a_known_text_is_taken_over_in_strides(plain: Local, guessing: Local) -> None:
    request = asked(PROMPT, max_tokens=60)
    wanted = ids(run(plain, request))
    known = asked(PROMPT, max_tokens=60, sources=((*PROMPT, *wanted),))
    events = run(guessing, known)
    assert ids(events) == wanted
    stats = end(events).stats
    assert stats.accepted > 40
    assert sum(token.drafted for token in tokens(events)) == stats.accepted
    assert end(run(plain, known)).stats.drafted == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("guesses", ["right", "wrong", "random", "half"])
def test_any_guesses_give_the_same_text(
    plain: Local,
    guessing: Local,
    monkeypatch: pytest.MonkeyPatch,
    temperature: float,
    guesses: str,
) -> None:
    sampling = Sampling(
        temperature=temperature, seed=9, repetition_penalty=1.1, frequency_penalty=0.1
    )
    request = asked(PROMPT, max_tokens=50, sampling=sampling)
    wanted = ids(run(plain, request))
    dice, whole = random.Random(1), PROMPT + wanted

    def draft(self: PromptLookup, most: int, *, weak: bool = True) -> list[int]:
        at = len(self._texts[-1])
        right = whole[at : at + most]
        if guesses == "right":
            return right
        if guesses == "half":
            return right[: len(right) // 2] + [3] * (most - len(right) // 2)
        return [3 if guesses == "wrong" else dice.randrange(300) for _ in range(most)]

    monkeypatch.setattr(PromptLookup, "draft", draft)
    events = run(guessing, request)
    assert ids(events) == wanted
    assert end(events).stats.drafted > 0
    again = run(guessing, request)
    assert ids(again) == wanted, "the cache was left with guesses in it"


@pytest.mark.parametrize("stop_after", range(1, 24))
def test_cancelled_at_any_token_the_cache_is_whole(
    plain: Local, guessing: Local, stop_after: int
) -> None:
    request = asked(PROMPT, max_tokens=30)
    wanted = ids(run(plain, request))
    known = asked(PROMPT, max_tokens=30, sources=((*PROMPT, *wanted),))
    cancel, seen = threading.Event(), 0
    got: list[int] = []
    for event in guessing.stream(known, cancel):
        if isinstance(event, Emitted):
            got += [token.id for token in event.tokens]
            seen += len(event.tokens)
            if seen >= stop_after:
                cancel.set()
    assert got == wanted[: len(got)]
    rest = asked([*PROMPT, *got], max_tokens=30 - len(got))
    assert got + ids(run(guessing, rest)) == wanted


def test_a_stop_string_inside_a_guess_cuts_exactly(plain: Local, guessing: Local) -> None:
    wanted = tokens(run(plain, asked(PROMPT, max_tokens=40)))
    word = next(token.data for token in wanted[12:] if token.data.isascii()).decode()
    ended = [
        run(backend, asked(PROMPT, max_tokens=40, stop=(word,), sources=sources))
        for backend, sources in (
            (plain, ()),
            (guessing, ((*PROMPT, *(token.id for token in wanted)),)),
        )
    ]
    assert end(ended[0]).reason == end(ended[1]).reason == "stop"
    assert [token.data for token in tokens(ended[0])] == [token.data for token in tokens(ended[1])]


def test_length_and_context_are_met_to_the_token(folder: Path, guessing: Local) -> None:
    wanted = ids(run(guessing, asked(PROMPT, max_tokens=20)))
    known = ((*PROMPT, *wanted),)
    assert len(ids(run(guessing, asked(PROMPT, max_tokens=7, sources=known)))) == 7
    small = local(folder, path="fast", context=len(PROMPT) + 9)
    events = run(small, asked(PROMPT, max_tokens=-1, sources=known))
    assert len(ids(events)) == 9
    assert end(events).reason == "length"


def test_sampling_keeps_its_distribution(
    guessing: Local, plain: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third token over 400 seeds, guessed at random against never guessed: Pearson's
    chi-square over the tokens seen at least five times, at odds of about one in ten thousand.
    """
    dice = random.Random(4)
    monkeypatch.setattr(
        PromptLookup,
        "draft",
        lambda self, most, weak=True: [dice.randrange(300) for _ in range(most)],
    )
    counts = [third(guessing, range(400)), third(plain, range(1000, 1400))]
    common = [id for id in counts[0] + counts[1] if min(each[id] for each in counts) >= 5]
    assert common, "the test says nothing"
    chi_square = sum(
        (counts[0][id] - counts[1][id]) ** 2 / (counts[0][id] + counts[1][id]) for id in common
    )
    freedom = len(common)
    bound = freedom + 4 * (2 * freedom) ** 0.5 + 8
    assert chi_square < bound, f"chi-square {chi_square:.1f} over {freedom} tokens, bound {bound}"


def third(backend: Local, seeds: Sequence[int]) -> Counter[int]:
    """How often each id is the third one."""
    found: Counter[int] = Counter()
    for seed in seeds:
        sampling = Sampling(seed=seed, top_k=12, min_p=0.0)
        request: Request = asked(PROMPT, max_tokens=3, sampling=sampling)
        found[ids(run(backend, request))[2]] += 1
    return found


def test_a_source_with_tokens_of_no_id_is_looked_up_as_far_as_it_goes(
    plain: Local, guessing: Local
) -> None:
    request = asked(PROMPT, max_tokens=40)
    wanted = ids(run(plain, request))
    source = (*PROMPT, *wanted[:10], -1, *wanted[11:])
    again = run(guessing, asked(PROMPT, max_tokens=40, sources=(source,)))
    assert ids(again) == wanted
    assert end(again).stats.accepted > 5
