"""`qwen-tui sessions` and `replay` over files that a session wrote."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import pytest

from fixtures.scripts import Say, Scripted, spelled
from qwen_tui import cli, paths
from qwen_tui.cli.playback import rhythms, steps
from qwen_tui.session.drafts import Drafts
from qwen_tui.session.opening import new_store, open_session
from qwen_tui.session.session import Session
from qwen_tui.types import (
    BAD_DATA,
    NO_INPUT,
    USAGE,
    Added,
    Emitted,
    Happened,
    Moved,
    Sampling,
    Started,
)


def written(title: str, text: str, said: str) -> Path:
    """A session file with one completion, accepted."""
    session = Session.new(title=title)
    store = new_store(session)
    session.commit(text)
    request = session.request(Sampling(seed=1))
    backend = Scripted([Say(said)])
    generation, _ = session.start(request, backend.environment)
    for event in backend.stream(request, threading.Event()):
        session.happen(generation, event)
    session.accept()
    assert store.close()
    return store.path


@pytest.fixture
# type: ignore[no-untyped-def]
def run(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch):
    def ran(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = cli.main(list(arguments))
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return ran


def test_an_empty_library_is_no_failure(run) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run("sessions", "list")
    assert (code, out) == (0, "")
    assert "no sessions yet" in err


# type: ignore[no-untyped-def]
def test_list_show_search_export_rename(run, tmp_path: Path) -> None:
    written("A fox", "Once there was", " a fox\x1b[2J.")
    written("", "Dear Ada,", " hello")
    code, out, _ = run("sessions", "list")
    assert code == 0
    assert "A fox" in out
    assert "(Dear Ada,)" in out
    code, out, _ = run("sessions", "list", "--json")
    assert {json.loads(line)["title"] for line in out.splitlines()} == {"A fox", ""}
    assert run("sessions", "show", "a fox")[1] == "Once there was a fox\x1b[2J."
    code, out, _ = run("sessions", "search", "HELLO")
    assert code == 0
    assert "[hello]" in out
    assert run("sessions", "search", "giraffe")[0] == 1
    for form in ("txt", "md", "html", "json"):
        place = tmp_path / f"fox.{form}"
        assert run("sessions", "export", "A fox", "-o", str(place))[0] == 0
        assert "there was" in place.read_text()
    assert run("sessions", "export", "A fox", "--as", "pdf")[0] == USAGE
    assert run("sessions", "rename", "A fox", "A\x1b vixen")[0] == 0
    code, out, _ = run("sessions", "list")
    assert "A␛ vixen" in out
    assert run("sessions", "show", "A fix")[0] == NO_INPUT


# type: ignore[no-untyped-def]
def test_typing_that_was_left_uncommitted_is_shown_and_exported(run) -> None:
    path = written("fox", "Once there was", " a fox.")
    session = open_session(path, read_only=True).session
    drafts = Drafts(session.id)
    drafts.note(session.head, session.text, "Once there was nobody", 21)
    drafts.close()
    assert run("sessions", "show", "fox")[1] == "Once there was nobody"
    exported = json.loads(run("sessions", "export", "fox", "--as", "json")[1])
    assert exported["text"] == "Once there was nobody"
    assert run("sessions", "show", "fox")[1] == "Once there was nobody"
    assert open_session(path, read_only=True).session.text == "Once there was a fox."


# type: ignore[no-untyped-def]
def test_a_session_comes_before_a_file_of_its_name(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written("fox", "Once there was", " a fox.")
    monkeypatch.chdir(tmp_path)
    Path("fox").write_text("notes on foxes")
    assert run("sessions", "show", "fox")[1] == "Once there was a fox."
    assert run("replay", "fox", "--speed", "inf")[1] == "Once there was a fox."
    assert run("sessions", "show", "./fox")[0] == BAD_DATA
    Path("copy").write_bytes(path.read_bytes())
    assert run("sessions", "show", "copy")[1] == "Once there was a fox."


def test_a_list_for_scripts_names_model_and_beginning(run) -> None:  # type: ignore[no-untyped-def]
    written("fox", "Once there was", " a fox.")
    (listed,) = map(json.loads, run("sessions", "list", "--json")[1].splitlines())
    assert listed["preview"] == "Once there was"
    assert listed["model"] == Scripted([]).environment.model["path"]


def test_a_chat_is_listed_by_what_was_said(run) -> None:  # type: ignore[no-untyped-def]
    session = Session.new()
    store = new_store(session)
    session.add_turn("user", spelled("Who are you?"), before=spelled("<|im_start|>system"))
    assert store.close()
    assert "(Who are you?)" in run("sessions", "list")[1]


# type: ignore[no-untyped-def]
def test_removed_goes_to_the_trash_and_only_a_yes_deletes(run) -> None:
    path = written("Old", "text", " more")
    assert run("sessions", "rm", "Old")[0] == 0
    kept = paths.trash_dir() / path.name
    assert kept.exists()
    assert not path.exists()
    assert run("sessions", "purge")[0] == USAGE
    assert kept.exists()
    assert run("sessions", "purge", "--yes")[0] == 0
    assert not kept.exists()


def test_verify_names_the_damaged_lines(run) -> None:  # type: ignore[no-untyped-def]
    path = written("Whole", "text", " more")
    assert run("sessions", "verify", "Whole")[0] == 0
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b'"k"', b'"K"')
    path.write_bytes(b"\n".join(lines))
    code, out, _ = run("sessions", "verify", str(path))
    assert code == BAD_DATA
    assert "line 3" in out


# type: ignore[no-untyped-def]
def test_replay_plays_the_prompt_and_the_completion_without_a_model(run) -> None:
    path = written("A fox", "Once there was", " a fox.")
    before = path.read_bytes()
    code, out, err = run("replay", "A fox", "--speed", "1000")
    assert code == 0
    assert out == "Once there was a fox."
    assert "playback" in err
    assert path.read_bytes() == before
    assert run("replay", "A fox", "--speed", "0")[0] == USAGE
    assert run("replay", "A fox", "--verify", "--tui")[0] == USAGE
    assert run("replay", "Nothing")[0] == NO_INPUT


def test_replay_keeps_the_stored_rhythm_up_to_where_the_head_stands() -> None:
    session = Session.new()
    session.apply(Added("root", None, 0, "user", text="Once", tokens=spelled("Once")))
    session.apply(Added("said", "root", 1, "model"))
    session.apply(Started("gen", ("said",), "", {}, {}))
    for index, ms in enumerate((100, 400, 2400, 2500)):
        event = Emitted(spelled(f" {index}"), ms=ms, index=index)
        session.apply(Happened("gen", event))
    session.apply(Moved("said", 4))
    now, waits = 0.0, []

    class Cancel(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now
            now += timeout or 0.0
            waits.append(round(timeout or 0.0, 3))
            return False

    heard = b""
    for piece in session.parts():
        for data in steps(
            piece,
            rhythms(session),
            Cancel(),
            speed=2.0,
            max_gap=0.5,
            clock=lambda: now,
        ):
            heard += data
    assert heard == b"Once 0 1 2"
    assert waits == [0.05, 0.15, 0.5]
