"""What goes wrong with a server, and what a person is left with: every fault on a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.servers import Answer, Asked, Drop, Server, event, serving
from qwen_tui import backends, settings
from qwen_tui.backends.remote import keys
from qwen_tui.backends.remote.backend import Remote, opened
from qwen_tui.backends.remote.client import Client
from qwen_tui.settings import Endpoint
from qwen_tui.types import (
    BAD_CONFIG,
    NO_INPUT,
    NO_PERMISSION,
    TEMPORARY,
    UNAVAILABLE,
    Emitted,
    Event,
    Finished,
    Request,
    Sampling,
    Token,
    Trouble,
    text_of,
)

TLS = Path(__file__).parent.parent / "fixtures" / "tls"
PROMPT = (Token(-1, b"Once"),)
Chunk = bytes | Callable[[], bytes]


def text(said: str, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": said, "finish_reason": finish}]})


DONE = event("[DONE]")
WHOLE = (text(" upon"), text(" a time", "stop"), DONE)


class Plays:
    """A server that answers its streams with these, one after the other; the last one stays."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)

    def __call__(self, asked: Asked) -> Answer:
        if asked.path == "/v1/models":
            return Answer.json({"data": [{"id": "some", "owned_by": "somebody"}]})
        if asked.path != "/v1/completions":
            return Answer.json({"error": "not here"}, 404)
        if not asked.body.get("stream"):
            return Answer.json({"choices": [{"text": "b", "finish_reason": "length"}]})
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def play() -> Iterator[Callable[..., tuple[Remote, Server]]]:
    """Open a server that plays answers (or chunks of one answer): the backend, and the server."""
    with_all: list[Any] = []

    def begin(*answers: Answer | Chunk, **flags: Any) -> tuple[Remote, Server]:
        whole = [each for each in answers if isinstance(each, Answer)] or [Answer(answers)]  # type: ignore[arg-type]
        context = serving(Plays(*whole))
        server = context.__enter__()
        backend = opened(settings.load({"engine": server.url, "min_p": 0.0, **flags}))
        with_all.append((backend, context))
        return backend, server

    yield begin
    for backend, context in with_all:
        backend.close()
        context.__exit__(None, None, None)


def run(backend: Remote, *, cancel: threading.Event | None = None, **kwargs: Any) -> list[Event]:
    values: dict[str, Any] = {"sampling": Sampling(min_p=0.0, seed=1), "max_tokens": 50}
    return list(backend.stream(Request(PROMPT, **(values | kwargs)), cancel or threading.Event()))


def said(events: Iterable[Event], branch: int = 0) -> str:
    return text_of(
        token
        for each in events
        if isinstance(each, Emitted) and each.branch == branch
        for token in each.tokens
    )


def end(events: Iterable[Event], branch: int = 0) -> Finished:
    found = [each for each in events if isinstance(each, Finished) and each.branch == branch]
    assert len(found) == 1
    return found[0]


def until(true: Callable[[], bool]) -> None:
    """Wait for a condition, ten seconds at most."""
    for _ in range(1000):
        if true():
            return
        threading.Event().wait(0.01)
    pytest.fail("it never came")


def streams(server: Server) -> list[Asked]:
    return [asked for asked in server.asked if asked.body and asked.body.get("stream")]


# -- the stream itself -----------------------------------------------------------------------------


def test_a_whole_stream_is_the_text(play: Any) -> None:
    backend, _ = play(*WHOLE)
    events = run(backend)
    assert said(events) == " upon a time"
    assert end(events).reason == "eos"


def test_a_stream_without_an_end_is_cut_off_and_its_text_is_kept(play: Any) -> None:
    backend, _ = play(text(" upon"), text(" a"))
    events = run(backend)
    assert said(events) == " upon a"
    assert end(events).reason == "eof"
    assert "cut off" in end(events).message


def drop() -> bytes:
    raise Drop


def test_a_server_killed_in_the_middle_leaves_its_text_and_works_again(play: Any) -> None:
    backend, _ = play(Answer([text(" upon"), drop]), Answer(WHOLE))
    events = run(backend)
    assert said(events) == " upon"
    assert end(events).reason == "eof"
    assert said(run(backend)) == " upon a time"


def test_an_error_in_the_stream_is_said_in_the_servers_words(play: Any) -> None:
    fault = event({"error": {"message": "the engine died", "code": 500}})
    backend, _ = play(text(" upon"), fault, DONE)
    events = run(backend)
    assert said(events) == " upon"
    assert end(events).reason == "failed"
    assert "the engine died" in end(events).message


def test_half_a_character_at_a_time_is_no_fault(play: Any) -> None:
    whole = b"".join((text(" ma\u00f1ana \U0001f98a"), text(" 狐", "stop"), DONE))
    backend, _ = play(*(whole[at : at + 1] for at in range(len(whole))))
    events = run(backend)
    assert said(events) == " ma\u00f1ana \U0001f98a 狐"
    assert end(events).reason == "eos"


def test_pings_and_other_line_ends_are_no_fault(play: Any) -> None:
    backend, _ = play(b": ping\r\n\r\n", *(each.replace(b"\n", b"\r\n") for each in WHOLE))
    assert said(run(backend)) == " upon a time"


def test_a_proxy_that_buffers_everything_is_no_fault(play: Any) -> None:
    backend, _ = play(b"".join(WHOLE))
    assert said(run(backend)) == " upon a time"


def test_an_answer_in_one_object_is_taken_too(play: Any) -> None:
    choice = {"index": 0, "text": " upon a time", "finish_reason": "length"}
    backend, _ = play(Answer.json({"choices": [choice]}))
    events = run(backend)
    assert said(events) == " upon a time"
    assert end(events).reason == "length"


@pytest.mark.parametrize(
    "garbage",
    [b"data: {half an obj\n\n", b"data: [1, 2]\n\n", event({"choices": [{"text": 5, "index": 0}]})],
)
def test_garbage_ends_the_stream_and_keeps_the_text(play: Any, garbage: bytes) -> None:
    backend, _ = play(text(" upon"), garbage, *WHOLE)
    events = run(backend)
    assert said(events) == " upon"
    assert end(events).reason == "failed"
    assert end(events).message


def test_a_page_instead_of_a_stream_is_named(play: Any) -> None:
    backend, _ = play(Answer([b"<html>log in</html>"], kind="text/html"))
    events = run(backend)
    assert end(events).reason == "failed"
    assert "text/html" in end(events).message


# -- statuses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (400, "refuses the request (400): too long"),
        (401, "wants a key (401)"),
        (403, "forbids it (403)"),
        (404, "has no such model or address (404)"),
        (413, "finds the prompt too large (413)"),
        (422, "does not understand a value of the request (422)"),
        (429, "has too many requests (429)"),
        (500, "failed inside (500)"),
        (503, "is not ready (503)"),
    ],
)
def test_a_refusal_is_said_and_never_tried_again(play: Any, status: int, told: str) -> None:
    backend, server = play(Answer.json({"error": {"message": "too long"}}, status))
    events = run(backend)
    assert said(events) == ""
    assert end(events).reason == "failed"
    assert told in end(events).message
    assert "too long" in end(events).message
    assert len(streams(server)) == 1


def test_a_wait_that_is_asked_for_is_told(play: Any) -> None:
    backend, server = play(Answer.json({"detail": "slow down"}, 429, retry_after="17"))
    assert end(run(backend)).hint == "it asks to wait 17 s"
    assert len(streams(server)) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, NO_PERMISSION), (429, TEMPORARY), (500, UNAVAILABLE), (503, TEMPORARY)],
)
def test_a_server_that_refuses_to_say_what_it_is_gives_an_exit_code(status: int, code: int) -> None:
    with (
        serving(lambda asked: Answer.json({"error": "no"}, status)) as server,
        pytest.raises(Trouble) as caught,
    ):
        opened(settings.load({"engine": server.url}))
    assert caught.value.code == code


def test_one_sibling_may_fail_while_the_others_go_on(play: Any) -> None:
    busy = Answer.json({"error": "busy"}, 429)
    backend, _ = play(Answer(WHOLE), busy, Answer(WHOLE), parallel=1)
    events = run(backend, branches=3)
    assert [end(events, branch).reason for branch in range(3)] == ["eos", "failed", "eos"]
    assert said(events, 2) == " upon a time"


# -- silence, and Esc ------------------------------------------------------------------------------


def test_a_silent_server_is_given_up_and_its_text_is_kept(play: Any) -> None:
    quiet = threading.Event()
    backend, _ = play(text(" upon"), lambda: bytes(quiet.wait(30) and 0), stall=0.3)
    events = run(backend)
    quiet.set()
    assert said(events) == " upon"
    assert end(events).reason == "eof"
    assert "has sent nothing for 0.3 seconds" in end(events).message


def test_esc_works_at_once_on_a_server_that_says_no_byte(play: Any) -> None:
    quiet, waiting, cancel = threading.Event(), threading.Event(), threading.Event()

    def wait() -> bytes:
        waiting.set()
        quiet.wait(30)
        return text(" too late") * 2000

    backend, server = play(wait, wait, stall=0)
    threading.Thread(target=lambda: (waiting.wait(20), cancel.set()), daemon=True).start()
    events = run(backend, cancel=cancel)
    assert said(events) == ""
    assert end(events).reason == "cancelled"
    quiet.set()
    server.wait(lambda: server.broken > 0)


def test_esc_works_at_once_on_a_server_that_falls_silent(play: Any) -> None:
    quiet, cancel = threading.Event(), threading.Event()
    late = (lambda: text(" too late") * 2000 if quiet.wait(30) else b"",) * 2
    backend, server = play(text(" upon"), *late, stall=0)
    events = []
    for each in backend.stream(Request(PROMPT, Sampling(min_p=0.0)), cancel):
        events.append(each)
        if isinstance(each, Emitted):
            cancel.set()
    assert said(events) == " upon"
    assert end(events).reason == "cancelled"
    quiet.set()
    server.wait(lambda: server.broken > 0)


def test_esc_works_before_the_server_has_answered_at_all() -> None:
    quiet, asked_it, cancel = threading.Event(), threading.Event(), threading.Event()

    def silent(asked: Asked) -> Answer:
        asked_it.set()
        quiet.wait(30)
        return Answer.json({})

    with serving(silent) as server:
        threading.Thread(target=lambda: (asked_it.wait(20), cancel.set()), daemon=True).start()
        with pytest.raises(Trouble, match="cancelled"):
            opened(settings.load({"engine": server.url}), cancel)
        quiet.set()


def test_a_stop_string_ends_the_request(play: Any) -> None:
    quiet = threading.Event()
    backend, server = play(
        text(" upon a"), text(" time. The"), lambda: text(" end") if quiet.wait(30) else b"",
        *[text(" and so on") * 500] * 20,
    )  # fmt: skip
    events = run(backend, stop=(". T",))
    assert said(events) == " upon a time"
    assert (end(events).reason, end(events).stop) == ("stop", ". T")
    quiet.set()
    server.wait(lambda: server.broken > 0)


def test_no_more_requests_run_at_once_than_are_allowed(play: Any) -> None:
    now, most, lock = [0], [0], threading.Lock()

    def enter() -> bytes:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        return text(" upon")

    def leave() -> bytes:
        with lock:
            now[0] -= 1
        return b""

    backend, server = play(*[Answer([enter, text(" a", "stop"), leave, DONE])] * 9, parallel=2)
    events = run(backend, branches=8)
    assert all(end(events, branch).reason == "eos" for branch in range(8))
    assert len(streams(server)) == 8
    assert most[0] <= 2


def test_a_connection_the_server_has_closed_is_opened_again(play: Any) -> None:
    backend, _ = play(Answer(WHOLE, headers={"connection": "close"}))
    assert said(run(backend)) == said(run(backend)) == " upon a time"


# -- where a request may go, and the key -----------------------------------------------------------


def test_a_redirect_to_another_host_is_told_and_not_followed(monkeypatch: Any) -> None:
    monkeypatch.setenv("KEY", "sk-secret")
    with serving(lambda asked: Answer.json({})) as other:
        away = Answer.json({}, 307, location=other.url + "/v1/models")
        with serving(lambda asked: away) as server:
            client = Client(Endpoint(server.url, key_env="KEY"), keys.Key("sk-secret"))
            with pytest.raises(Trouble) as caught:
                client.ask("GET", "/v1/models")
            client.close()
        assert other.url in caught.value.message
        assert not other.asked


def test_a_certificate_nobody_vouches_for_is_refused() -> None:
    files = (TLS / "certificate.pem", TLS / "key.pem")
    with serving(Plays(Answer(WHOLE)), tls=files) as server:
        with pytest.raises(Trouble, match="certificate"):
            opened(settings.load({"engine": server.url}))
        assert not server.asked
        endpoint = Endpoint(server.url, ca_file=str(files[0]))
        client = Client(endpoint, keys.Key(""))
        assert client.ask("GET", "/v1/models")["data"]
        client.close()


def test_plain_http_to_a_public_host_warns(monkeypatch: Any) -> None:
    from qwen_tui.backends.remote import backend
    from qwen_tui.backends.remote.dialects.llamacpp import LlamaCpp

    chosen = settings.load({})
    warned = {
        url: backend._warnings(Endpoint(url), LlamaCpp(None, 1024), chosen)
        for url in ("http://models.example", "https://models.example", "http://10.0.0.7:8000",
                    "http://127.0.0.1", "http://[::1]:1", "http://localhost:1")
    }  # fmt: skip
    assert [url for url, lines in warned.items() if lines] == ["http://models.example"]
    assert "unencrypted" in warned["http://models.example"][0]


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-secret\n")
    file.chmod(0o644)
    with pytest.raises(Trouble) as caught:
        keys.read(Endpoint("http://h", key_file=str(file)))
    assert caught.value.code == NO_PERMISSION
    assert "chmod 600" in caught.value.hint
    file.chmod(0o600)
    key = keys.read(Endpoint("http://h", key_file=str(file)))
    assert key.headers() == {"Authorization": "Bearer sk-secret"}
    assert "secret" not in f"{key!r} {key} {[key]}"


def test_a_key_that_is_not_there_is_named_before_anything_is_sent(monkeypatch: Any) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(Trouble) as caught:
        keys.read(Endpoint("http://h", key_env="NO_SUCH_KEY"))
    assert caught.value.code == BAD_CONFIG
    with pytest.raises(Trouble) as caught:
        keys.read(Endpoint("http://h", key_file="/nonexistent/key"))
    assert caught.value.code == NO_INPUT
    with pytest.raises(Trouble):
        keys.read(Endpoint("http://h", key_env="BAD"), {"BAD": "two words"})


def test_a_server_that_repeats_the_key_is_not_repeated() -> None:
    def parrot(asked: Asked) -> Answer:
        return Answer.json({"error": f"bad key {asked.headers['authorization']}"}, 401)

    with serving(parrot) as server:
        client = Client(Endpoint(server.url), keys.Key("sk-secret"))
        with pytest.raises(Trouble) as caught:
            client.ask("GET", "/v1/models")
        client.close()
    assert "bad key Bearer …" in caught.value.message


def test_a_model_that_is_not_there_names_those_that_are() -> None:
    with serving(Plays(Answer(WHOLE))) as server:
        chosen = settings.load({"engine": server.url})
        endpoint = Endpoint(server.url, name="lab", model="other")
        chosen = settings.Settings(engine="lab", engines={"lab": endpoint}, origin=chosen.origin)
        with pytest.raises(Trouble, match="no model 'other'") as caught:
            backends.open(chosen, lambda progress: None, threading.Event())
    assert "some" in caught.value.hint
    assert caught.value.code == NO_INPUT


def test_requests_are_json_that_any_server_reads(play: Any) -> None:
    backend, server = play(*WHOLE)
    run(backend)
    sent = streams(server)[0]
    assert sent.headers["content-type"] == "application/json"
    assert sent.headers["accept"] in ("*/*", "text/event-stream")
    assert json.dumps(sent.body)
    assert "authorization" not in sent.headers


def test_the_next_completion_goes_over_the_same_connection(play: Any) -> None:
    backend, server = play(*WHOLE)
    for _ in range(5):
        assert said(run(backend)) == " upon a time"
        until(lambda: len(backend._client._idle) == 1)
    ports = {asked.port for asked in streams(server)}
    assert len(ports) == 1


def test_a_server_that_does_not_end_its_answer_holds_nobody_up(play: Any) -> None:
    quiet = threading.Event()
    backend, _ = play(*WHOLE, lambda: bytes(quiet.wait(30) and 0), stall=0)
    assert said(run(backend)) == said(run(backend)) == " upon a time"
    quiet.set()


@pytest.mark.parametrize(
    "elsewhere",
    [Answer([b"<html>"], kind="text/html"), Answer.json({"error": "Unexpected endpoint"})],
    ids=["a page", "an error"],
)
def test_a_server_that_answers_200_to_everything_is_not_taken_for_another(
    elsewhere: Answer,
) -> None:
    known = Plays(Answer(WHOLE))

    def speaks(asked: Asked) -> Answer:
        return known(asked) if asked.path.startswith("/v1/") else elsewhere

    with serving(speaks) as server:
        backend = opened(settings.load({"engine": server.url, "min_p": 0.0}))
        assert backend.environment.engine == "qwen-tui/remote/openai"
        assert said(run(backend)) == " upon a time"
        backend.close()
