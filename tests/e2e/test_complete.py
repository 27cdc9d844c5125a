"""`qwen-tui complete` as a shell sees it: bytes, codes, signals; real tiny checkpoints.

What needs no process of its own runs in this one, so that torch is imported once.
"""

from __future__ import annotations

import base64
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from fixtures.checkpoints import qwen2
from qwen_tui import backends, cli
from qwen_tui.cli.arguments import stored_session
from qwen_tui.types import Backend

pytestmark = pytest.mark.e2e

PROGRAM = [sys.executable, "-m", "qwen_tui"]


@dataclass
class Done:
    """How a command line ended."""

    code: int
    out: bytes
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Run: TypeAlias = Callable[..., Done]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(qwen2(tmp_path_factory.mktemp("tiny"), context=512))


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint whose context no test fills."""
    return str(qwen2(tmp_path_factory.mktemp("endless"), context=100_000))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Run:
    """Run one command line in this process, from an empty working directory."""

    def ran(*arguments: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.main(list(arguments))
        out, err = capfdbinary.readouterr()
        return Done(code, out, err.decode())

    return ran


def bytes_of(record: dict[str, Any]) -> bytes:
    coded = record.get("b64")
    return base64.b64decode(coded) if coded else record["text"].encode()


def test_stdout_is_the_completion_and_stderr_the_rest(run: Run, here: Path, model: str) -> None:
    common = ("complete", "-m", model, "-n", "8", "-s", "5")
    prompt = ("-p", "The quick brown")
    plain = run(*common, *prompt)
    assert plain.code == 0, plain.err
    assert plain.out
    assert "seed 5\n" in plain.err
    assert "8 new" in plain.err
    assert "\x1b" not in plain.err
    quiet = run(*common, *prompt, "-q")
    assert (quiet.out, quiet.err) == (plain.out, "")
    assert run(*common, *prompt, "-q", "--echo").out == b"The quick brown" + plain.out
    assert run(*common, *prompt, "-q", "-o", "out.txt").out == b""
    assert (here / "out.txt").read_bytes() == plain.out
    for file in ([], ["-"]):
        assert run(*common, *file, "-q", stdin=b"The quick brown").out == plain.out
    (here / "prompt.txt").write_bytes(b"The quick brown")
    assert run(*common, "prompt.txt", "-q").out == plain.out
    as_json = run(*common, *prompt, "-q", "--json", "--logprobs", "3")
    said = [bytes_of(record) for record in as_json.records if record["k"] == "tok"]
    assert b"".join(said) == plain.out


def test_json_lines_are_the_records_of_a_session(run: Run, model: str) -> None:
    asked = ("complete", "-m", model, "-p", "Hello", "-n", "4", "-N", "2", "-q")
    done = run(*asked, "--json", "--logprobs", "2")
    assert done.code == 0, done.err
    kinds = [record["k"] for record in done.records]
    assert kinds[0] == "head"
    for kind in ("node", "env", "gen", "progress", "prefill"):
        assert kind in kinds
    assert kinds.count("end") == 2
    started = next(record for record in done.records if record["k"] == "gen")
    assert started["params"]["seed"] is not None
    assert len(started["nodes"]) == 2
    tokens = [record for record in done.records if record["k"] == "tok"]
    assert {record["branch"] for record in tokens} == {0, 1}
    assert all(len(row) == 2 for record in tokens for row in record["top"])
    assert not any("c" in record or "w" in record for record in done.records)


def test_several_completions_come_in_order(run: Run, model: str) -> None:
    asked = ("complete", "-m", model, "-p", "Hello", "-n", "3", "-s", "4")
    said: dict[int, bytes] = dict.fromkeys(range(3), b"")
    for record in run(*asked, "-N", "3", "--json").records:
        if record["k"] == "tok":
            said[record["branch"]] += bytes_of(record)
    done = run(*asked, "-N", "3", "-q")
    assert done.code == 0, done.err
    ended = [text if text.endswith(b"\n") else text + b"\n" for text in said.values()]
    assert done.out == ended[0] + ended[1] + said[2]


def test_the_seed_decides(run: Run, model: str) -> None:
    def said(seed: str) -> bytes:
        return run("complete", "-m", model, "-p", "Once", "-n", "12", "-s", seed, "-q").out

    assert said("1") == said("1")
    assert len({said(seed) for seed in ("1", "2", "3")}) > 1


def test_dry_run_shows_the_exact_tokens(run: Run, model: str) -> None:
    done = run("complete", "-m", model, "-p", "A é<|endoftext|>", "--dry-run")
    assert done.code == 0, done.err
    assert done.out.decode().splitlines()[-1].endswith('"<|endoftext|>"')
    assert "nothing was sent" in done.err
    plain = run("complete", "-m", model, "-p", "<|endoftext|>", "--dry-run", "--no-special", "-q")
    assert len(plain.out.splitlines()) > 1


def test_dry_run_loads_no_weights(model: str, here: Path) -> None:
    program = (
        "import sys\n"
        "sys.argv = ['qwen-tui', 'complete', '-m', sys.argv[1], '-p', 'x', '--dry-run']\n"
        "from qwen_tui.cli import main\n"
        "code = main()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, model],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "said"),
    [
        (["-p", "x", "prompt.txt"], b"", 2, "two prompts"),
        (["-p", "x", "--logprobs", "3"], b"", 2, "--json"),
        (["-p", "x", "--top-p", "7"], b"", 2, "top-p"),
        (["-p", "x", "--logit-bias", "99999999=-inf"], b"", 2, "go from 0 to 332"),
        (["-p", "x", "--samplers", "top_q"], b"", 2, "did you mean"),
        (["nothing.txt"], b"", 66, "nothing.txt"),
        ([], b"\xff", 65, "byte offset 0"),
        (["-p", "x", "-n", "4000"], b"", 65, "512"),
        (["-p", "x", "-o", "no/such/folder/out"], b"", 73, "no/such/folder"),
        (["-p", "x", "-m", "Nobody/Nothing-1B"], b"", 66, "Nobody/Nothing-1B"),
    ],
)
def test_what_is_refused_is_refused_before_loading(
    run: Run, model: str, here: Path, arguments: list[str], stdin: bytes, code: int, said: str
) -> None:
    chosen = [] if "-m" in arguments else ["-m", model]
    done = run("complete", *chosen, *arguments, stdin=stdin)
    assert done.code == code, done.err
    assert done.out == b""
    assert done.err.startswith("error: ") or "\nerror: " in done.err
    assert said in done.err
    assert "loading" not in done.err
    assert not list(here.iterdir())


def test_a_long_prompt_is_cut_only_when_asked(run: Run, model: str) -> None:
    text = b"word " * 2000
    refused = run("complete", "-m", model, "-n", "5", stdin=text)
    assert refused.code == 65
    for side in ("left", "middle"):
        done = run("complete", "-m", model, "-n", "5", "--truncate", side, stdin=text)
        assert done.code == 0, done.err
        where = "from the middle" if side == "middle" else "from the beginning"
        assert f"tokens dropped {where}" in done.err


def test_shortening_fits_the_context_that_the_memory_leaves(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = backends.open

    def smaller(*args: Any) -> Backend:
        backend = real(*args)
        backend.context = 64  # a plan gives less than the checkpoint's 512 where memory is short
        return backend

    monkeypatch.setattr(backends, "open", smaller)
    text = b"word " * 100
    asked = ("complete", "-m", model, "-n", "5")
    assert run(*asked, stdin=text).code == 65
    done = run(*asked, "--truncate", "left", "--json", stdin=text)
    assert done.code == 0, done.err
    assert "tokens dropped from the beginning" in done.err
    (began,) = (each for each in done.records if each["k"] == "gen")
    assert began["prompt"]["n"] == 59


def test_a_pipe_comes_before_the_prompt_and_escapes_leave_it_alone(run: Run, model: str) -> None:
    asked = ("complete", "-m", model, "--dry-run", "-q")
    both = run(*asked, "-p", r"end\n", "--escape", stdin=rb"\frac\n ")
    assert both.out == run(*asked, stdin=b"\\frac\\n end\n").out
    assert "standard input, then the text of -p" in run(*asked[:-1], "-p", "x", stdin=b"y").err
    assert "standard input" not in run(*asked[:-1], "-p", "x").err


def test_a_stop_string_that_was_meant_escaped_is_said(run: Run, model: str) -> None:
    asked = ("complete", "-m", model, "-p", "x", "-n", "1", "--stop", r"\n\n")
    assert "--escape makes a newline" in run(*asked).err
    assert "--escape" not in run(*asked, "--escape").err


def test_a_bias_of_another_model_is_left_out_aloud(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_TUI_LOGIT_BIAS", "3=-inf,99999999=-inf")
    done = run("complete", "-m", model, "-p", "x", "-n", "2")
    assert done.code == 0, done.err
    assert "QWEN_TUI_LOGIT_BIAS: there is no token 99999999" in done.err


def test_an_empty_prompt_begins_a_document(run: Run, model: str) -> None:
    done = run("complete", "-m", model, "-p", "", "-n", "3", "-q")
    assert done.code == 0, done.err
    assert done.out


def test_an_empty_file_or_pipe_is_warned_of(run: Run, here: Path, model: str) -> None:
    (here / "empty.txt").touch()
    asked = ("complete", "-m", model, "-n", "3", "-s", "1")
    warning = "warning: the prompt is empty; the text begins from nothing\n"
    for where in ([], ["-"], ["empty.txt"], ["-p", ""]):
        done = run(*asked, *where)
        assert done.code == 0, done.err
        assert done.out
        assert done.err.count(warning) == 1
        quiet = run(*asked, *where, "-q")
        assert (quiet.out, quiet.err) == (done.out, "")
    assert warning not in run(*asked, stdin=b"\n").err


@pytest.mark.parametrize("unable", [["-c", "5000"], ["--device", "cuda:99"]])
def test_no_seed_is_told_before_a_refusal(run: Run, unable: list[str]) -> None:
    refused = run("complete", "-m", "demo", "-p", "x", *unable)
    assert refused.code != 0
    assert refused.err.startswith("error: ")
    assert "seed" not in refused.err


def test_stop_strings_are_cut_and_named(run: Run, model: str) -> None:
    asked = ("complete", "-m", model, "-p", "Hi", "-n", "20", "-s", "3")
    whole = run(*asked, "-q").out.decode("utf-8", "replace")
    stop = next(part for part in whole[3:].split() if "\ufffd" not in part)
    done = run(*asked, "--stop", stop)
    assert done.code == 0, done.err
    assert done.out.decode("utf-8", "replace") == whole[: whole.index(stop)]
    assert "stop string" in done.err


def test_saved_played_back_and_verified(run: Run, here: Path, model: str) -> None:
    asked = ("complete", "-m", model, "-p", "Dear ", "-n", "10", "-s", "4")
    done = run(*asked, "--save", "a letter")
    assert done.code == 0, done.err
    assert b"a letter" in run("sessions", "list").out
    played = run("replay", "a letter", "--speed", "inf", "-q")
    assert played.code == 0, played.err
    assert played.out == b"Dear " + done.out
    verified = run("replay", "a letter", "--verify", "-m", model)
    assert verified.code == 0, verified.err
    assert verified.out.startswith(b"same")
    unnamed = run("replay", "a letter", "--verify")
    assert unnamed.code == 0, "the model that made the session is taken"
    assert unnamed.out == verified.out
    other = str(qwen2(here / "other", seed=9))
    different = run("replay", "a letter", "--verify", "-m", other)
    assert different.code == 1, different.err
    assert b"at token" in different.out
    assert "not the same" in different.err
    again = run("complete", "-m", model, "-p", "More", "-n", "3", "--save", "a letter")
    assert again.code == 0, again.err
    assert run("sessions", "list").out.count(b"a letter") == 1


def test_a_session_opens_with_the_model_that_made_it(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = qwen2(here / "mine", context=512)
    monkeypatch.setenv("QWEN_TUI_MODEL", "demo")
    done = run("complete", "-m", str(mine), "-p", "Dear ", "-n", "4", "--save", "a letter")
    assert done.code == 0, done.err
    opened = ("--plain", "--open", "a letter", "-n", "3")
    for asked in (opened, (*opened, "-m", "demo")):
        assert run(*asked, stdin=b":\n").code == 0
    mine.rename(here / "gone")
    last = run(*opened, stdin=b":\n")
    assert last.code == 0
    assert f"the session was made with {mine}, which is not here" not in last.err, "demo was last"
    session = stored_session("a letter")
    made = [session.environments[each.started.environment] for each in session.generations.values()]
    assert [each.model_name for each in made] == [str(mine), str(mine), "demo", "demo"]
    run("complete", "-m", str(here / "gone"), "-p", "Dear ", "-n", "2", "--save", "a note")
    (here / "gone").rename(mine)
    last = run("--plain", "--open", "a note", stdin=b"")
    assert f"was made with {here / 'gone'}, which is not here; demo goes on" in last.err


# -- what only a process of its own can show -------------------------------------------------------


def begun(model: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A completion without end, as a process; its loading is over when this returns."""
    asked = ("complete", "-m", model, "-p", "Go", "-n", "-1", "--ignore-eos", *arguments)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*PROGRAM, *asked], **pipes)
    assert process.stderr is not None
    for line in process.stderr:
        if b"cpu" in line:
            break
    return process


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_keeps_what_was_said_and_dies_by_the_signal(
    run: Run, endless: str, here: Path, signum: int
) -> None:
    process = begun(endless, "-o", "partial.txt", "--save", "cut short")
    deadline = time.monotonic() + 30
    while not any(part.stat().st_size > 50 for part in here.glob(".partial.txt.*.partial")):
        assert process.poll() is None
        assert time.monotonic() < deadline, "nothing was written"
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)
    assert process.returncode == -signum, err
    assert b"interrupted" in err
    said = (here / "partial.txt").read_bytes()
    assert len(said) > 50
    assert run("replay", "cut short", "--speed", "inf", "-q").out == b"Go" + said


def test_a_reader_that_leaves_ends_it_quietly(endless: str, here: Path) -> None:
    process = begun(endless)
    assert process.stdout is not None
    assert process.stdout.read(20)
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(30) == -signal.SIGPIPE
    assert b"Traceback" not in err
    assert b"error" not in err


def test_a_full_disk_is_a_write_error(model: str, here: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*PROGRAM, "complete", "-m", model, "-p", "x", "-n", "4"],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert done.returncode == 74
    assert b"write error" in done.stderr
    assert b"Traceback" not in done.stderr
