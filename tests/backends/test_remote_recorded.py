"""What real servers said, played back: the same requests are still sent, and understood."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures import recorded
from fixtures.servers import serving
from qwen_tui import paths
from qwen_tui.backends.remote.backend import Remote
from qwen_tui.types import Emitted, Event, Finished, Scored, Token, joined
from qwen_tui.vocab import Vocab

VLLM = recorded.FOLDER / "vllm-0.32.0.json"
LLAMACPP = recorded.FOLDER / "llama.cpp-b11434.json"


@pytest.fixture
def remote(request: pytest.FixtureRequest) -> Iterator[Remote]:
    with serving(recorded.playing(request.param)) as server:
        backend = recorded.opened_at(server.url)
        yield backend
        backend.close()


on_vllm = pytest.mark.parametrize("remote", [VLLM], indirect=True)
on_llamacpp = pytest.mark.parametrize("remote", [LLAMACPP], indirect=True)
on_both = pytest.mark.parametrize("remote", [VLLM, LLAMACPP], indirect=True, ids=["vllm", "llama"])


def said(events: list[Event], branch: int = 0) -> list[Token]:
    emitted = [each for each in events if isinstance(each, Emitted) and each.branch == branch]
    return [token for each in emitted for token in each.tokens]


def streamed(file: Path, **wanted: Any) -> list[dict[str, Any]]:
    """The objects of the recorded stream whose request has these values."""
    for each in json.loads(file.read_text("utf-8")):
        body = each["body"] or {}
        if body.get("stream") and all(body.get(name) == value for name, value in wanted.items()):
            lines = [line[6:] for line in each["text"].splitlines() if line.startswith("data: {")]
            return [json.loads(line) for line in lines]
    raise AssertionError(wanted)


@on_vllm
def test_vllm_is_found_to_be_what_it_is(remote: Remote) -> None:
    assert remote.name == "demo"
    assert remote.context == 256
    assert remote.environment.vers["vllm"] == "0.32.0"
    able = remote.abilities
    assert (able.choices, able.score, able.branches, able.token_ids) == (20, True, True, True)


@on_llamacpp
def test_llamacpp_is_found_to_be_what_it_is(remote: Remote) -> None:
    assert remote.context == 1024
    assert remote.environment.engine == "qwen-tui/remote/llama.cpp"
    able = remote.abilities
    assert (able.choices, able.score, able.branches, able.token_ids) == (100, False, True, False)
    assert any("the server's ids are not those of demo" in line for line in remote.why)
    assert any("no score: llama.cpp's server gives no" in line for line in remote.why)


@on_vllm
def test_vllms_ids_are_the_documents(remote: Remote) -> None:
    rows = streamed(VLLM, temperature=0.0, logprobs=3)
    ids = [id for row in rows for choice in row["choices"] for id in choice["token_ids"]]
    tokens = said(recorded.outcome(remote, "greedy"))
    vocab = Vocab.load(paths.demo_dir())
    assert [token.id for token in tokens] == ids
    assert all(token.data == vocab.data(token.id) for token in tokens)
    for token in tokens:
        assert len(token.choices) == 3
        assert token.choices[0].id == token.id
        assert token.choices[0].logprob == token.logprob


@on_llamacpp
def test_llamacpps_text_is_whole_where_its_stream_leaves_tokens_out(remote: Remote) -> None:
    rows = streamed(LLAMACPP, temperature=0.0, n_probs=3)
    text = "".join(row["content"] for row in rows)
    tokens = said(recorded.outcome(remote, "greedy"))
    assert joined(tokens).decode() == text
    known = [token for token in tokens if token.logprob is not None]
    assert known
    assert all(len(token.choices) == 3 for token in known)


@on_both
def test_siblings_come_apart(remote: Remote) -> None:
    events = recorded.outcome(remote, "siblings")
    texts = [joined(said(events, branch)) for branch in range(3)]
    assert all(texts)
    assert len(set(texts)) == 3
    ends = {each.branch: each.reason for each in events if isinstance(each, Finished)}
    assert ends == dict.fromkeys(range(3), "length")


@on_both
def test_every_sampling_value_is_taken(remote: Remote) -> None:
    events = recorded.outcome(remote, "values")
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "length"
    assert said(events)


@on_vllm
def test_vllm_scores_a_prompt_token_by_token(remote: Remote) -> None:
    events = recorded.outcome(remote, "score")
    scored = next(each for each in events if isinstance(each, Scored))
    prompt = recorded.prompted(recorded.REQUESTS["score"], ids=True).prompt
    assert [token.id for token in scored.tokens] == [token.id for token in prompt]
    assert scored.tokens[0].logprob is None
    assert all(token.logprob is not None and token.logprob < 0 for token in scored.tokens[1:])


@on_both
def test_a_stop_string_is_cut_by_its_bytes(remote: Remote) -> None:
    events = recorded.outcome(remote, "stop")
    assert b"e" not in joined(said(events))
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.reason, end.stop) == ("stop", "e")


@on_both
def test_a_prompt_that_is_too_long_is_refused_with_the_numbers(remote: Remote) -> None:
    end = recorded.outcome(remote, "too long")[-1]
    assert isinstance(end, Finished)
    assert end.reason == "failed"
    assert str(remote.context) in end.message
