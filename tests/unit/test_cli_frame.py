"""The command line's frame: what a word means, what a failure is worth, who answers to a signal."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from qwen_tui import cli, paths, presets, settings
from qwen_tui.cli.signals import stopping
from qwen_tui.cli.stderr import Reporter, print_error
from qwen_tui.journal import line, record
from qwen_tui.session.identity import is_session
from qwen_tui.types import (
    DEFAULT_ORDER,
    IO_ERROR,
    NO_INPUT,
    NO_PERMISSION,
    USAGE,
    Head,
    Progress,
    Trouble,
)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_help_groups_the_options_and_names_the_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "complete", "--help")
    assert code == 0
    for part in ("Sampling:", "--repeat-penalty, --repetition-penalty", "--n-predict", "65  bad"):
        assert part in out
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "[FILE]" in out
    assert "complete" in out
    assert "--no-mouse" in out


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")
    assert (code, out) == (0, "qwen-tui 0.1.0\n")


@pytest.mark.parametrize(
    "arguments", [["complete", "--frobnicate"], ["complete", "--top-k", "many"], ["--wat"]]
)
def test_what_cannot_be_parsed_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (USAGE, "")
    assert err.startswith("error: ")
    assert "--help" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-N", "0"], "error: --num: 0 is not from 1 to 64"),
        (["--samplers", "foo"], "error: --samplers: there is no sampler 'foo'"),
        (["--json", "--logprobs", "99999"], "error: --logprobs: 99999 is not from 0 to 100"),
        (["-c", "-1"], "error: --ctx-size: -1 is not from 0"),
        (["--typical", "7"], "error: --typical: typical-p goes from 0 to 1"),
    ],
)
def test_a_value_that_cannot_be_is_named_by_its_option(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, out, err = run(capsys, "complete", "-p", "x", *arguments)
    assert (code, out) == (USAGE, "")
    assert err.startswith(said)


@pytest.mark.parametrize("command", ["complete", "studio", "replay", "bench", "doctor"])
def test_every_setting_is_refused_by_an_option_its_command_has(command: str) -> None:
    program: Any = typer.main.get_command(cli.app)
    params = program.commands[command].params
    known = [each for each in params if each.name in (*settings.FIELD, *presets.NAMES)]
    assert known
    for option in known:
        with pytest.raises(Trouble) as caught:
            settings.load({option.name: object()})
        assert caught.value.message.partition(":")[0] in option.opts


def test_every_option_of_a_setting_is_offered_as_its_table_has_it() -> None:
    program: Any = typer.main.get_command(cli.app)
    offered = {
        each.name: each
        for command in ("complete", "studio")
        for each in program.commands[command].params
    }
    for field in settings.FIELDS:
        if field.option is not None:
            there = offered[field.name]
            names = field.option.names.replace("/", " ").split()
            assert set(names) == {*there.opts, *there.secondary_opts}
            assert (there.help, there.rich_help_panel) == (field.help, field.option.subject)
            assert field.flag in names


@pytest.mark.parametrize("rest", [[], ["story.txt"], ["story.txt", "-n", "5"]])
def test_a_word_that_is_neither_command_nor_file_names_the_nearest(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rest: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "complet", *rest)
    assert code == NO_INPUT
    assert "did you mean `qwen-tui complete`" in err


def test_a_word_with_an_ending_or_a_folder_is_a_new_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(":show\n"))
    code, out, err = run(capsys, "new.md", "--plain", "--model", "demo", "--no-save")
    assert code == 0, err
    assert "line by line" in out
    assert not list(tmp_path.iterdir())
    for word, said in (
        ("new", "`qwen-tui ./new` begins a new file"),
        ("no/x.md", "no folder 'no'"),
    ):
        code, _, err = run(capsys, word, "--plain")
        assert code == NO_INPUT
        assert said in err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Trouble("no\x1b[2Jway", hint="try", code=69), 69, "error: no␛[2Jway\nhint: try\n"),
        (FileNotFoundError(2, "No such file", "x"), NO_INPUT, "error: x: No such file\n"),
        (PermissionError(13, "Permission denied", "y"), NO_PERMISSION, "error: y: Permission"),
        (OSError(28, "No space left on device"), IO_ERROR, "error: No space left"),
    ],
)
def test_failures_become_lines_and_codes(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    said: str,
) -> None:
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    got, out, err = run(capsys, "x")
    assert (got, out) == (code, "")
    assert err.startswith(said)


def test_a_defect_is_one_line_and_a_log_without_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arguments: list[str]) -> int:
        secret = "a prompt nobody may read"
        raise ZeroDivisionError(len(secret))

    monkeypatch.setattr(cli, "_run", fail)
    code, out, err = run(capsys)
    assert (code, out) == (70, "")
    log = paths.logs_dir() / "crash.log"
    assert err == f"error: unexpected ZeroDivisionError: 24\nhint: the details are in {log}\n"
    assert "ZeroDivisionError" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
@pytest.mark.parametrize("arguments", [["complete", "--help"], ["doctor", "-m", "demo"]])
def test_an_output_of_another_encoding_gets_all_that_it_can_hold(
    encoding: str, arguments: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qwen_tui", *arguments],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert b"qwen-tui" in done.stdout
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["config"], 0),
        (["sessions", "list"], 0),
        (["models", "list"], 0),
        (["complete", "-p", "hi", "-m", "demo", "--dry-run"], 0),
        (["sessions", "show", "~nobody-of-that-name/x"], NO_INPUT),
    ],
)
def test_a_user_without_a_home_can_work(arguments: list[str], code: int) -> None:
    program = (
        "import pwd, sys\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "from qwen_tui.cli import main\n"
        f"sys.exit(main({arguments!r}))"
    )
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", program], env=kept, stdin=subprocess.DEVNULL, capture_output=True
    )
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr


def test_the_first_signal_asks_and_is_remembered() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping() as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.cancel.wait(5)
        assert stopped.by == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping() as stopped:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stopped.by is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_anywhere_is_death_by_that_signal() -> None:
    program = (
        "from qwen_tui import cli\n"
        "def interrupted(arguments): raise KeyboardInterrupt\n"
        "cli._run = interrupted\ncli.main([])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


def test_help_names_every_preset_and_stage(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "complete", "--help")
    told = "".join(out.split())
    for preset in presets.PRESETS:
        assert preset.name in told
    assert ";".join(DEFAULT_ORDER) in told


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_are_for_terminals_and_lines_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for stream, bars in ((Terminal(), True), (io.StringIO(), False)):
        with Reporter(stream=stream) as reporter:
            reporter.report(Progress("load", 1 << 29, 1 << 30))
            reporter.report(Progress("prefill", 10, 20))
            reporter.say("loaded\x1b[2J")
        said = stream.getvalue()
        assert ("0.50/1.00 GiB" in said) is bars
        assert "reading the prompt" not in said
        assert said.endswith("loaded␛[2J\n")
    quiet = Terminal()
    with Reporter(stream=quiet, quiet=True) as reporter:
        reporter.report(Progress("load", 1, 2))
        reporter.say("loaded")
    assert quiet.getvalue() == ""


class FullStream(io.StringIO):
    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_stderr_that_is_full_or_gone_does_not_end_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Reporter(stream=FullStream()).say("into the void")
    monkeypatch.setattr("sys.stderr", None)
    Reporter().say("nowhere")
    print_error(Trouble("nobody hears"))


def test_a_session_file_is_opened_as_a_session(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(line(record(Head("01"))))
    assert is_session(file)
    file.write_text("a text")
    assert not is_session(file)
    assert not is_session(tmp_path)
