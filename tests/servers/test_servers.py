"""Real servers, started here and ended again: `pytest -m servers tests/servers`, by hand.

QWEN_TUI_TEST_CHECKPOINT is the folder of a small checkpoint (Qwen2.5-Coder-0.5B, say);
QWEN_TUI_TEST_VLLM is the `vllm` program; QWEN_TUI_TEST_GGUF is the same model as a GGUF file, and
QWEN_TUI_TEST_LLAMA_SERVER llama.cpp's `llama-server`. What is not named is skipped.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qwen_tui import backends, settings
from qwen_tui.types import (
    Backend,
    Emitted,
    Event,
    Finished,
    Request,
    Sampling,
    Scored,
    Token,
    joined,
)
from qwen_tui.vocab import Vocab

pytestmark = pytest.mark.servers

START_S = 600
GREEDY = Sampling(temperature=0.0, min_p=0.0, seed=1)
TEXTS = (
    "def fib(n):\n",
    "The capital of France is",
    "Once upon a time, there was a fox \U0001f98a that",
)
NEAR = 0.25
"""By how much (natural log) the two likeliest tokens may be apart where engines part: bf16 and
4-bit products round differently."""


def named(variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        pytest.skip(f"{variable} names none")
    return value


@contextmanager
def started(command: list[str], port: int, **env: str) -> Iterator[str]:
    """A server until the block ends; it is ended by the process that was started."""
    with (
        Path(os.environ.get("QWEN_TUI_TEST_SERVER_LOG", os.devnull)).open("ab") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | env) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            limit = time.monotonic() + START_S
            while True:
                assert process.poll() is None, (
                    "the server ended; QWEN_TUI_TEST_SERVER_LOG keeps why"
                )
                assert time.monotonic() < limit, "the server does not come up"
                try:
                    urllib.request.urlopen(url + "/health", timeout=2)
                    break
                except (urllib.error.URLError, OSError):
                    threading.Event().wait(0.5)
            yield url
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return Path(named("QWEN_TUI_TEST_CHECKPOINT"))


@pytest.fixture(scope="module")
def vllm(checkpoint: Path) -> Iterator[str]:
    port = free_port()
    command = [
        named("QWEN_TUI_TEST_VLLM"), "serve", str(checkpoint), "--served-model-name", "coder",
        "--port", str(port), "--host", "127.0.0.1", "--max-model-len", "1024", "--enforce-eager",
        "--dtype", "bfloat16",
    ]  # fmt: skip
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    with started(command, port, **env) as url:
        yield url


@pytest.fixture(scope="module")
def llamacpp(checkpoint: Path) -> Iterator[str]:
    port = free_port()
    command = [
        named("QWEN_TUI_TEST_LLAMA_SERVER"), "-m", named("QWEN_TUI_TEST_GGUF"), "--port", str(port),
        "--host", "127.0.0.1", "-c", "4096", "-np", "4", "-t", "1",
    ]  # fmt: skip
    with started(command, port) as url:
        yield url


@pytest.fixture(scope="module")
def local(checkpoint: Path) -> Iterator[Backend]:
    backend = opened(model=str(checkpoint), dtype="bf16", quant="none", kv_disk=0.0)
    yield backend
    backend.close()


@pytest.fixture(params=["vllm", "llamacpp"])
def remote(request: pytest.FixtureRequest, checkpoint: Path) -> Iterator[Backend]:
    url = request.getfixturevalue(request.param)
    backend = opened(engine=url, model=str(checkpoint))
    yield backend
    backend.close()


def opened(**flags: object) -> Backend:
    return backends.open(settings.load(flags), lambda progress: None, threading.Event())


def run(backend: Backend, request: Request, cancel: threading.Event | None = None) -> list[Event]:
    return list(backend.stream(request, cancel or threading.Event()))


def said(events: list[Event], branch: int = 0) -> list[Token]:
    emitted = [each for each in events if isinstance(each, Emitted) and each.branch == branch]
    return [token for each in emitted for token in each.tokens]


def asked(checkpoint: Path, text: str, **kwargs: object) -> Request:
    values: dict[str, object] = {"sampling": GREEDY, "max_tokens": 24, "choices": 3}
    return Request(Vocab.load(checkpoint).encode(text), **(values | kwargs))  # type: ignore[arg-type]


def test_it_takes_the_documents_ids(remote: Backend) -> None:
    assert remote.abilities.token_ids
    assert remote.abilities.choices >= 20


@pytest.mark.parametrize("text", TEXTS)
def test_greedy_is_the_local_engines_or_parts_where_two_are_near(
    remote: Backend, local: Backend, checkpoint: Path, text: str
) -> None:
    request = asked(checkpoint, text)
    there, here = said(run(remote, request)), said(run(local, request))
    parts = next((at for at, pair in enumerate(zip(there, here, strict=False))
                  if pair[0].id != pair[1].id), None)  # fmt: skip
    if parts is None:
        assert len(there) == len(here)
        return
    best, second = here[parts].choices[:2]
    print(f"part at {parts}: {there[parts].data!r} there, {here[parts].data!r} here")
    assert best.logprob - second.logprob < NEAR


def test_the_same_seed_says_the_same_and_siblings_differ(remote: Backend, checkpoint: Path) -> None:
    request = asked(checkpoint, TEXTS[2], sampling=Sampling(seed=11), branches=4, max_tokens=16)
    first, second = run(remote, request), run(remote, request)
    texts = [joined(said(first, branch)) for branch in range(4)]
    assert len(set(texts)) > 1
    if "vllm" in remote.environment.engine:  # llama.cpp's slots round by what shares a batch
        assert texts == [joined(said(second, branch)) for branch in range(4)]


def test_a_text_is_scored_as_the_local_engine_scores_it(
    remote: Backend, local: Backend, checkpoint: Path
) -> None:
    if not remote.abilities.score:
        pytest.skip("scores nothing")
    request = asked(checkpoint, TEXTS[0] + "    return n", max_tokens=0, score=True)
    tables = []
    for backend in (remote, local):
        events = run(backend, request)
        tables.append([t for each in events if isinstance(each, Scored) for t in each.tokens])
    for there, here in zip(*tables, strict=True):
        assert there.id == here.id
        if here.logprob is not None:
            assert there.logprob == pytest.approx(here.logprob, abs=0.5)


def test_esc_stops_the_server_computing(vllm: str, checkpoint: Path) -> None:
    backend = opened(engine=vllm, model=str(checkpoint))
    cancel = threading.Event()
    request = asked(checkpoint, TEXTS[2], max_tokens=900, ignore_eos=True)
    events = []
    for each in backend.stream(request, cancel):
        events.append(each)
        if isinstance(each, Emitted) and not cancel.is_set():
            assert running(vllm) == 1
            cancel.set()
    assert [each.reason for each in events if isinstance(each, Finished)] == ["cancelled"]
    limit = time.monotonic() + 20
    while running(vllm):
        assert time.monotonic() < limit, "it computes on"
    backend.close()


def running(url: str) -> float:
    """How many requests vLLM says it works on."""
    lines = urllib.request.urlopen(url + "/metrics").read().decode().splitlines()
    (line,) = [line for line in lines if line.startswith("vllm:num_requests_running")]
    return float(line.split()[-1])
