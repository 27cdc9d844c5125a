"""The command line over a server: complete, siblings, saving, verifying, refusing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures import servers
from fixtures.checkpoints import qwen2
from qwen_tui import cli, paths, settings
from qwen_tui.cli import wiring
from qwen_tui.cli.arguments import stored_session
from qwen_tui.types import (
    BAD_CONFIG,
    BAD_DATA,
    GENERIC,
    NO_PERMISSION,
    TEMPORARY,
    UNAVAILABLE,
)

PROMPT = ["-p", "Once upon a time"]
GREEDY = ["--temp", "0", "--min-p", "0", "-n", "8"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Model]:
    model = servers.Model(qwen2(tmp_path_factory.mktemp("remote")))
    yield model
    model.close()


@pytest.fixture(params=[servers.vllm, servers.llamacpp, servers.ollama, servers.openai])
def any_server(request: pytest.FixtureRequest, model: servers.Model) -> Iterator[servers.Server]:
    with servers.serving(request.param(model)) as server:
        yield server


@pytest.fixture
def vllm(model: servers.Model) -> Iterator[servers.Server]:
    with servers.serving(servers.vllm(model)) as server:
        yield server


def out(captured: pytest.CaptureFixture[bytes]) -> str:
    return captured.readouterr().out.decode()


def err(captured: pytest.CaptureFixture[bytes]) -> str:
    return captured.readouterr().err.decode()


def said_locally(model: servers.Model, capfdbinary: pytest.CaptureFixture[bytes]) -> bytes:
    assert cli.main(["complete", "-m", str(model.folder), *GREEDY, "--threads", "1", *PROMPT]) == 0
    return capfdbinary.readouterr().out


def test_a_server_says_what_the_same_model_says_here(
    any_server: servers.Server, model: servers.Model, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    here = said_locally(model, capfdbinary)
    arguments = ["complete", "--engine", any_server.url, *GREEDY, "--lenient", *PROMPT]
    assert cli.main(arguments) == 0
    there = capfdbinary.readouterr().out
    streamed = [asked.body for asked in any_server.asked if asked.body and "stream" in asked.body]
    if isinstance(streamed[-1]["prompt"], str):  # text goes by text: a bad byte is U+FFFD there
        here = here.decode("utf-8", "replace").encode()
    assert there == here


def test_the_documents_own_ids_are_sent(vllm: servers.Server, model: servers.Model) -> None:
    assert cli.main(["complete", "--engine", vllm.url, *GREEDY, *PROMPT]) == 0
    sent = vllm.asked[-1].body
    assert sent["prompt"] == [token.id for token in model.vocab.encode(PROMPT[1])]


def test_four_siblings_come_from_one_request(
    vllm: servers.Server, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    arguments = ["complete", "--engine", vllm.url, "-N", "4", "-n", "5", "-s", "7", "--json"]
    assert cli.main([*arguments, *PROMPT]) == 0
    rows = [json.loads(line) for line in out(capfdbinary).splitlines()]
    assert {row["branch"] for row in rows if row["k"] == "end"} == {0, 1, 2, 3}
    streams = [asked.body for asked in vllm.asked if asked.body and asked.body.get("stream")]
    assert [body["n"] for body in streams] == [4]
    assert streams[0]["seed"] == 7


def test_alternatives_come_with_their_ids(
    vllm: servers.Server, model: servers.Model, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    arguments = ["complete", "--engine", vllm.url, *GREEDY, "--json", "--logprobs", "3"]
    assert cli.main([*arguments, *PROMPT]) == 0
    rows = [json.loads(line) for line in out(capfdbinary).splitlines()]
    tokens = [row for row in rows if row["k"] == "tok"]
    assert tokens
    assert all(len(top) == 3 for row in tokens for top in row["top"])
    assert all(row["top"][0][0][0] == row["ids"][0] for row in tokens)


def test_a_saved_completion_is_verified_by_its_server(
    vllm: servers.Server, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    arguments = ["complete", "--engine", vllm.url, "-n", "6", "--save", "fox", *PROMPT]
    assert cli.main(arguments) == 0
    capfdbinary.readouterr()
    assert cli.main(["replay", "fox", "--verify", "--engine", vllm.url]) == 0
    assert out(capfdbinary).startswith("same")


def test_a_session_keeps_the_servers_name_and_neither_address_nor_key(
    vllm: servers.Server, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv("LAB_KEY", "sk-very-secret")
    file = paths.config_file()
    paths.ensure_folder(file.parent)
    file.write_text(f"[engines.lab]\nurl = '{vllm.url}'\nkey_env = 'LAB_KEY'\n", "utf-8")
    assert cli.main(["complete", "--engine", "lab", "-n", "3", "--save", "fox", *PROMPT]) == 0
    assert cli.main(["config"]) == 0
    assert vllm.asked[-1].headers["authorization"] == "Bearer sk-very-secret"
    text = "".join(each.read_text("utf-8") for each in paths.sessions_dir().iterdir())
    env = next(row for row in map(json.loads, text.splitlines()) if row["k"] == "env")
    assert env["model"] == {"repo": "coder", "endpoint": "lab"}
    assert env["engine"] == "qwen-tui/remote/vllm"
    assert env["vers"]["vllm"] == "0.32.0"
    kept = [path.read_bytes() for path in Path(paths.home() or "").rglob("*") if path.is_file()]
    told = capfdbinary.readouterr()
    everything = b"".join(data for data in kept if b"[engines.lab]" not in data)
    everything += told.out + told.err
    assert b"very-secret" not in everything
    assert vllm.url.encode() not in everything


def test_a_value_the_server_does_not_know_is_refused(
    vllm: servers.Server, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    arguments = ["complete", "--engine", vllm.url, "--typical", "0.5", "-n", "3", *PROMPT]
    assert cli.main(arguments) == GENERIC
    assert "does not know typical_p" in err(capfdbinary)
    assert not any(asked.body and asked.body.get("stream") for asked in vllm.asked)
    assert cli.main([*arguments, "--lenient"]) == 0
    assert "does not know typical_p: 0.5 does not apply" in err(capfdbinary)


def test_a_default_the_server_does_not_know_is_named(
    model: servers.Model, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with servers.serving(servers.openai(model)) as server:
        assert cli.main(["complete", "--engine", server.url, "-n", "3", *PROMPT]) == 0
        assert "does not know min_p: 0.05 does not apply" in err(capfdbinary)
        arguments = ["complete", "--engine", server.url, "--min-p", "0.1", "-n", "3", *PROMPT]
        assert cli.main(arguments) == GENERIC


def test_a_server_that_is_not_there_is_named(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main(["complete", "--engine", "http://127.0.0.1:1", *PROMPT]) == UNAVAILABLE
    assert "127.0.0.1:1 cannot be reached" in err(capfdbinary)


def test_what_was_found_is_remembered(vllm: servers.Server) -> None:
    assert cli.main(["complete", "--engine", vllm.url, "-n", "2", *PROMPT]) == 0
    first = len(vllm.asked)
    assert cli.main(["complete", "--engine", vllm.url, "-n", "2", *PROMPT]) == 0
    again = [asked.path for asked in vllm.asked[first:]]
    assert again == ["/v1/models", "/version"] * 2 + ["/v1/completions"]


def configured(url: str, more: str = "") -> None:
    file = paths.config_file()
    paths.ensure_folder(file.parent)
    file.write_text(f"[engines.lab]\nurl = '{url}'\n{more}", "utf-8")


def test_the_servers_of_the_configuration_are_listed_and_nobody_is_asked(
    vllm: servers.Server, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert cli.main(["engines", "list"]) == 0
    assert "no servers" in out(capfdbinary)
    configured(vllm.url, "key_env = 'LAB_KEY'\n")
    monkeypatch.setenv("LAB_KEY", "sk-very-secret")
    assert cli.main(["engines", "list"]) == 0
    shown = out(capfdbinary)
    assert "lab" in shown
    assert "in LAB_KEY (set)" in shown
    assert cli.main(["engines", "list", "--json"]) == 0
    listed = out(capfdbinary)
    assert json.loads(listed)[0]["url"] == vllm.url
    assert "secret" not in shown + listed
    assert not vllm.asked


def test_a_probe_says_what_a_server_is_and_what_it_cannot_do_and_why(
    any_server: servers.Server, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    configured(any_server.url)
    assert cli.main(["engines", "probe", "lab"]) == 0
    shown = out(capfdbinary)
    assert cli.main(["engines", "probe", any_server.url, "--json"]) == 0
    found = json.loads(out(capfdbinary))
    assert found["engine"] in shown
    assert f"{found['context']:,} tokens" in shown
    for ability, able in found["abilities"].items():
        assert bool(able) != (ability in found["cannot"])
    assert all(why in " ".join(shown.split()) for why in found["cannot"].values())


def test_a_probe_of_a_name_that_is_not_there_names_the_nearest(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    configured("http://127.0.0.1:1")
    assert cli.main(["engines", "probe", "lap"]) == BAD_CONFIG
    assert "did you mean lab?" in err(capfdbinary)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"engine": "lab"}, ""),
        ({}, "made with coder on the server lab; Qwen/Qwen2.5-7B on this machine goes on"),
        ({"engine": "http://127.0.0.1:9"}, "on the server lab; 127.0.0.1:9 goes on"),
    ],
)
def test_a_session_that_another_engine_goes_on_with_says_so(
    vllm: servers.Server, flags: dict[str, str], told: str
) -> None:
    configured(vllm.url)
    assert cli.main(["complete", "--engine", "lab", "-n", "3", "--save", "fox", *PROMPT]) == 0
    session = stored_session("fox")
    warnings = wiring.with_model_of(settings.load(flags), session).warnings
    assert len(warnings) == bool(told)
    assert all(told in line for line in warnings)
    assert all("(--engine lab is the same)" in line for line in warnings)


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, NO_PERMISSION), (413, BAD_DATA), (429, TEMPORARY), (500, UNAVAILABLE)],
)
def test_a_refused_completion_ends_with_the_exit_code_of_its_fault(
    model: servers.Model, status: int, code: int
) -> None:
    speaks = servers.openai(model)

    def refuses(asked: servers.Asked) -> servers.Answer:
        if asked.body and asked.body.get("stream"):
            return servers.Answer.json({"error": {"message": "no"}}, status)
        return speaks(asked)

    with servers.serving(refuses) as server:
        assert cli.main(["complete", "--engine", server.url, "-n", "3", *PROMPT]) == code


@pytest.mark.parametrize(
    ("values", "code", "told"),
    [
        (["--temp", "0.7", "--min-p", "0", "--top-k", "9"], 0, ""),
        (["--temp", "1", "--top-p", "0.9"], 0, ""),
        (["--temp", "0.7", "--top-p", "0.9"], 0, "applies the temperature before"),
        (["--temp", "0.7", "--samplers", "bias;penalties;temperature;top_k;top_p;min_p"], 0, ""),
        (["--temp", "0.7", "--samplers", "top_p;min_p;temperature"], GENERIC, "not know order"),
    ],
)
def test_another_order_of_the_samplers_is_said_where_it_draws_from_others(
    vllm: servers.Server, capfdbinary: pytest.CaptureFixture[bytes],
    values: list[str], code: int, told: str,
) -> None:  # fmt: skip
    assert cli.main(["complete", "--engine", vllm.url, "-n", "2", *values, *PROMPT]) == code
    said = err(capfdbinary)
    assert told in said
    assert bool(told) == ("warning" in said or "error" in said)
