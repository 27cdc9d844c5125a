"""Samplers with a memory, through the whole engine: guessing ahead, going on, undo and siblings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.checkpoints import qwen2
from fixtures.opening import asked, end, ids, local, run, tokens
from qwen_tui import journal
from qwen_tui.backends.local.backend import Local
from qwen_tui.types import Emitted, Happened, Sampling, Token

PROMPT = [5, 6, 7, 8, 9, 10, 5, 6, 7, 8, 9, 11, 5, 6]
RAW = Sampling(min_p=0.0, seed=11)
KINDS = {
    "mirostat": replace(RAW, mirostat=2, mirostat_tau=4.0, mirostat_eta=0.5),
    "mirostat-1": replace(RAW, mirostat=1, mirostat_tau=4.0),
    "adaptive-p": replace(RAW, adaptive_target=0.02, adaptive_decay=0.5),
    "dry": replace(RAW, top_k=3, dry_multiplier=2.0, dry_sequence_breakers=()),
    "n-gram": replace(RAW, top_k=3, no_repeat_ngram=2),
    "xtc": replace(RAW, top_k=30, xtc_probability=0.5, xtc_threshold=0.01),
    "mixed": replace(RAW, top_k=9, dynatemp_range=0.9, smoothing_factor=0.3, top_n_sigma=2.0),
}
STEERING = ("mirostat", "mirostat-1", "adaptive-p")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen2(tmp_path_factory.mktemp("model") / "m", hidden=64, intermediate=96, layers=2)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Local:
    return local(folder, path="fast", lookup=False)


@pytest.mark.parametrize("kind", KINDS)
def test_guessing_ahead_changes_neither_text_nor_state(
    folder: Path, plain: Local, kind: str
) -> None:
    request = asked(PROMPT, max_tokens=50, sampling=KINDS[kind])
    wanted = tokens(run(plain, request))
    text = [token.id for token in wanted]
    half = [*text[:20], 3, *text[21:]]
    for source, least in ((text, 30), (half, 5)):
        guessing = local(folder, path="fast")
        events = run(guessing, replace(request, sources=((*PROMPT, *source),)))
        assert end(events).stats.accepted >= least
        assert ids(events) == text
        for found, each in zip(tokens(events), wanted, strict=True):
            assert (each.share is not None) == (kind in STEERING)
            assert (found.share or 0.0) == pytest.approx(each.share or 0.0, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_undone_to_any_token_the_text_goes_on_as_it_did(plain: Local, kind: str) -> None:
    request = asked(PROMPT, max_tokens=40, sampling=KINDS[kind])
    wanted = tokens(run(plain, request))
    for at in (1, 17, 39):
        rest = replace(request, prompt=(*request.prompt, *wanted[:at]), max_tokens=40 - at)
        assert ids(run(plain, rest)) == [token.id for token in wanted[at:]]


@pytest.mark.parametrize("kind", KINDS)
def test_siblings_have_a_state_each(plain: Local, kind: str) -> None:
    request = asked(PROMPT, max_tokens=20, sampling=KINDS[kind])
    both = run(plain, replace(request, branches=2))
    assert ids(both, 0) == ids(run(plain, request))
    assert ids(both, 1) != ids(both, 0)


@pytest.mark.parametrize("kind", STEERING)
def test_a_session_file_keeps_the_state(plain: Local, kind: str) -> None:
    request = asked(PROMPT, max_tokens=40, sampling=KINDS[kind])
    wanted = tokens(run(plain, request))
    scribe, reader = journal.Scribe(), journal.RecordReader()
    read: list[Token] = []
    for place, token in enumerate(wanted):
        line = journal.line(scribe.record(Happened("g", Emitted((token,), index=place))))
        entry = reader.read(line).entry
        assert isinstance(entry, Happened)
        assert isinstance(entry.event, Emitted)
        read += entry.event.tokens
    assert [token.share for token in read] == [token.share for token in wanted]
    rest = replace(request, prompt=(*request.prompt, *read[:25]), max_tokens=15)
    assert ids(run(plain, rest)) == [token.id for token in wanted[25:]]
    # Without the shares it would not: the state is in them.
    bare = tuple(replace(token, share=None) for token in rest.prompt)
    assert ids(run(plain, replace(rest, prompt=bare))) != ids(run(plain, rest))
