"""`models`, `config` and `doctor` as a person and a script meet them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures import checkpoints
from qwen_tui import hub, paths
from qwen_tui.cli import cache_files, main
from qwen_tui.types import BAD_CONFIG, NO_INPUT, UNAVAILABLE, USAGE

HEAVY = ("torch", "textual", "transformers", "tokenizers", "httpx", "httpx2", "huggingface_hub")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def mine() -> Path:
    """A checkpoint in our own models folder, called `mine`."""
    folder = paths.models_dir() / "mine"
    folder.mkdir(parents=True)
    return checkpoints.qwen2(folder, layers=1)


def run(*arguments: str) -> int:
    return main(list(arguments))


# -- models ----------------------------------------------------------------------------------------


def test_list_shows_what_is_here_and_what_one_can_pull(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("models", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    here = next(line for line in lines if line.startswith("mine "))
    assert "models folder" in here
    assert "base" in here
    seven = next(line for line in lines if line.startswith("Qwen/Qwen2.5-7B "))
    assert "7.62 B" in seven
    assert "15.2 GB" in seven
    assert "models pull" in seven


def test_list_as_json_has_one_object_a_line(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "list", "--json") == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    named = {each["name"]: each for each in listed}
    assert named["mine"]["here"]
    assert named["mine"]["parameters"] == hub.card(mine).parameters
    assert not named["Qwen/Qwen2.5-3B"]["here"]
    assert named["Qwen/Qwen2.5-3B"]["licence"] == "qwen-research"


def test_list_names_what_is_broken(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert run("models", "list") == 0
    assert "broken: model.safetensors is a Git LFS pointer" in capsys.readouterr().out


def test_info_says_what_a_base_model_does(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine / "README.md").write_text("---\nlicense: mit\n---\n@misc{me, title={Mine}}\n")
    assert run("models", "info", "mine") == 0
    out = capsys.readouterr().out
    assert "continues text and does not chat" in out
    assert "2,048 tokens" in out
    assert "4 query / 2 key-value × 8" in out
    assert "mit" in out
    assert "@misc{me, title={Mine}}" in out


def test_info_of_a_model_that_is_not_here_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("models", "info", "Qwen/Qwen2.5-7B") == 0
    out = capsys.readouterr().out
    assert "7,615,616,512" in out
    assert "qwen-tui models pull Qwen/Qwen2.5-7B" in out
    assert "@misc{qwen2.5," in out


def test_info_of_nothing_exits_66_and_names_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("models", "info", "Qwen/Qwen2.5-7b") == NO_INPUT
    said = capsys.readouterr()
    assert said.out == ""
    assert "did you mean Qwen/Qwen2.5-7B?" in said.err


def test_hostile_text_in_a_model_card_is_shown_not_carried_out(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "mit\x1b]0;owned\x07\u202e"
    (mine / "README.md").write_text(f"---\nlicense: {evil}\n---\n@misc{{a\x1b[2J}}\n")
    config = json.loads((mine / "config.json").read_text())
    config["architectures"] = ["\x1b[31mRed", "\x9bX"]
    (mine / "config.json").write_text(json.dumps(config))
    for arguments in (["models", "info", "mine"], ["models", "info", "mine", "--json"]):
        assert run(*arguments) == 0
        out = capsys.readouterr().out
        assert not set(out) & {"\x1b", "\x07", "\x9b", "\u202e"}


def test_pull_offline_exits_69_without_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "pull", "Qwen/Qwen2.5-0.5B") == UNAVAILABLE
    said = capsys.readouterr()
    assert said.out == ""
    assert "HF_HUB_OFFLINE" in said.err


def test_rm_asks_and_without_a_terminal_wants_a_yes(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("models", "rm", "mine") == USAGE
    assert "--yes" in capsys.readouterr().err
    assert mine.is_dir()
    assert run("models", "rm", "mine", "--yes") == 0
    assert not mine.exists()
    assert run("models", "rm", "mine", "--yes") == NO_INPUT


# -- packed weights --------------------------------------------------------------------------------


def packed_file(folder: str, kind: str = "nf4", size: int = 3000) -> Path:
    """A packed file as a load leaves it."""
    place = (
        paths.ensure_folder(paths.packed_dir()) / f"{folder[:40]}-{kind}-{'0a' * 12}.safetensors"
    )
    place.write_bytes(b"x" * size)
    return place


def test_list_shows_packed_sizes_and_those_whose_model_is_gone(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed_file("mine")
    packed_file("departed", "int8")
    assert run("models", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("mine ")).endswith("packed: nf4 3.0 kB")
    gone = next(line for line in lines if line.startswith("departed "))
    assert "models rm --packed departed" in gone
    assert run("models", "list", "--json") == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    named = {each["name"]: each for each in listed}
    assert [each["kind"] for each in named["mine"]["packed"]] == ["nf4"]
    assert named["departed"]["packed"][0]["bytes"] == 3000


def test_rm_takes_the_packed_weights_along(mine: Path) -> None:
    own, other = packed_file("mine"), packed_file("other")
    assert run("models", "rm", "mine", "--yes") == 0
    assert not mine.exists()
    assert not own.exists()
    assert other.exists()


def test_rm_packed_leaves_the_model_and_strange_files(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, other = packed_file("mine"), packed_file("other")
    broken = own.with_suffix(f".{2**22 + 1}.partial")
    broken.write_bytes(b"x")
    killed = own.with_name(f".{own.name}.{2**22 + 1}.0a1b2c3d.partial")
    killed.write_bytes(b"x")
    with paths.replacing(own.with_name(f"mine-int8-{'0c' * 12}.safetensors")) as stream:
        (growing,) = own.parent.glob(f".mine-int8-*.{os.getpid()}.*.partial")
        assert growing not in [each.path for each in cache_files.packed_weights()]
        stream.write(b"x")
    growing = own.with_suffix(f".{os.getpid()}.partial")
    growing.write_bytes(b"x")
    strange = own.with_name("mine-notes.txt")
    strange.write_bytes(b"x")
    assert run("models", "rm", "--packed", "mine") == USAGE
    assert "--yes" in capsys.readouterr().err
    assert run("models", "rm", "--packed", "mine", "--yes") == 0
    assert mine.is_dir()
    assert [own.exists(), broken.exists(), other.exists()] == [False, False, True]
    assert not killed.exists(), "its writer is gone"
    assert run("models", "rm", "--packed", "--yes") == 0
    assert not other.exists()
    assert strange.exists()
    assert growing.exists(), "another process is packing it"
    assert run("models", "rm", "--packed", "--yes") == NO_INPUT
    assert run("models", "rm") == USAGE


# -- what is kept of texts -------------------------------------------------------------------------


def kept_block(folder: str, name: str = "1" * 20, size: int = 2000) -> Path:
    """A block of a text as a generation leaves it."""
    place = (
        paths.ensure_folder(paths.kv_dir() / f"{folder[:40]}-{'0b' * 12}") / f"{'0' * 20}-{name}.kv"
    )
    place.write_bytes(b"x" * size)
    return place


def test_list_shows_what_is_kept_of_texts(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed_file("mine")
    kept_block("mine")
    kept_block("mine", "2" * 20)
    kept_block("departed one")
    assert run("models", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    here = next(line for line in lines if line.startswith("mine "))
    assert here.endswith("packed: nf4 3.0 kB; kept of texts: 4.0 kB")
    gone = next(line for line in lines if line.startswith("departed one "))
    assert "models rm --kept 'departed one'" in gone
    assert run("models", "list", "--json") == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert next(each for each in listed if each["name"] == "mine")["kept"] == 4000


def test_rm_takes_what_is_kept_of_texts_along(mine: Path) -> None:
    own, other = kept_block("mine"), kept_block("other")
    assert run("models", "rm", "mine", "--yes") == 0
    assert not own.parent.exists()
    assert other.exists()


def test_rm_kept_leaves_the_model_and_strange_files(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, other = kept_block("mine"), kept_block("other")
    strange = own.with_name("notes.txt")
    strange.write_bytes(b"x")
    assert run("models", "rm", "--kept", "mine") == USAGE
    assert run("models", "rm", "--kept", "mine", "--yes") == 0
    assert [own.exists(), strange.exists(), other.exists()] == [False, True, True]
    assert mine.is_dir()
    assert run("models", "rm", "--kept", "--yes") == 0
    assert not other.exists()
    assert run("models", "rm", "--kept", "--yes") == NO_INPUT


def test_doctor_shows_where_it_lies_and_how_large_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept_block("mine")
    run("doctor", "--json")
    said = json.loads(capsys.readouterr().out)["places"]["kept of texts"]
    assert str(paths.kv_dir()) in said
    assert "2.0 kB in it" in said


def test_purging_sessions_deletes_what_is_kept_of_texts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    block = kept_block("mine")
    assert run("sessions", "purge") == USAGE
    assert block.exists()
    assert run("sessions", "purge", "--yes") == 0
    assert not block.exists()
    assert "2.0 kB kept of texts are gone" in capsys.readouterr().err
    assert run("sessions", "purge", "--yes") == 0
    assert "the trash is empty" in capsys.readouterr().err


# -- config ----------------------------------------------------------------------------------------


def test_config_shows_each_value_with_its_origin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = paths.config_file()
    paths.ensure_folder(file.parent)
    file.write_text("theme = 'light'\nmodle = 'x'\n[keys]\nquit = 'ctrl+q'\n")
    Path("qwen-tui.toml").write_text("[sampling]\ntop_p = 0.9\n")
    monkeypatch.setenv("QWEN_TUI_MODEL", "demo")
    assert run("config") == 0
    said = capsys.readouterr()
    rows = {line.split()[0]: line for line in said.out.splitlines() if line}
    assert rows["model"].endswith("environment QWEN_TUI_MODEL")
    assert rows["theme"].endswith(f"user file {file}:1")
    assert rows["keys.quit"].endswith(f"user file {file}:4")
    assert "project file" in rows["sampling.top_p"]
    assert rows["save"].endswith("default")
    assert "did you mean model?" in said.err
    assert run("config", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["sampling.top_p"]["value"] == 0.9
    assert listed["model"] == {"value": "demo", "source": "environment", "where": "QWEN_TUI_MODEL"}


def test_config_path_is_one_line_for_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "path") == 0
    assert capsys.readouterr().out == f"{paths.config_file()}\n"


def test_a_broken_config_exits_78_with_line_and_column(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("qwen-tui.toml").write_text("a = = 1\n")
    assert run("config") == BAD_CONFIG
    assert "line 1, column 5" in capsys.readouterr().err


# -- doctor ----------------------------------------------------------------------------------------


def test_doctor_without_the_model_says_so_and_still_reports(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("doctor", "--json") == NO_INPUT
    found = json.loads(capsys.readouterr().out)
    assert "not on this disk" in found["model"]["trouble"]
    assert "models pull" in found["model"]["cure"]
    assert found["exit"] == NO_INPUT
    assert found["versions"]["torch"]


# -- cost ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["models", "list"], ["config", "--json"]])
def test_small_commands_import_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom qwen_tui.cli import main\n"
        f"code = main({arguments!r})\n"
        "print(*sys.modules, file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not set(done.stderr.split()) & set(HEAVY)
