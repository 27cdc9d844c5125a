"""Process death, a full disk and a dying disk, made for real under a program that saves."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qwen_tui.session.loader import SessionLoader, load
from qwen_tui.session.opening import open_session
from qwen_tui.session.session import Session
from qwen_tui.types import Sampling

pytestmark = pytest.mark.e2e

# Says on stdout, before each token, how many were handed in and when.
WRITER = r"""
import json, os, signal, sys, time
from pathlib import Path
from qwen_tui.session.session import Session
from qwen_tui.session.store import Store
from qwen_tui.types import Emitted, Environment, Finished, Sampling, Token

folder, count, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])

def say(**what):
    os.write(1, json.dumps(what).encode() + b"\n")

def seen(state):
    say(path=str(state.path), saved=state.saved, reason=state.reason, notice=state.notice)

session = Session.new(title="kill")
store = Store(folder / f"{session.id}-kill.jsonl", entries=session.entries, on_state=seen)
session.sink = store.put

def leave(number, frame):
    store.flush(2)
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)

signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGHUP, leave)
session.commit("Once upon a time")
request = session.request(Sampling(seed=1))
generation, _ = session.start(request, Environment("e", "writer", {}))
for index in range(count):
    session.happen(generation, Emitted((Token(index, b" word%d" % index, -0.5),), index=index))
    say(count=index + 1, at=time.monotonic())
    time.sleep(pause)
session.happen(generation, Finished("length"))
if len(sys.argv) > 4:
    say(flushed=store.flush(5), reason=store.state.reason, held=store.state.unsaved)
    say(moved=store.relocate(Path(sys.argv[4])), path=str(store.path))
say(closed=store.close(5), entries=len(session.entries), path=str(store.path))
"""


@contextmanager
def writing(
    folder: Path, *more: str, before: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    program = [*before, sys.executable, "-c", WRITER, str(folder), *more]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    """Everything it says from here to its end."""
    assert process.stdout is not None
    out = process.stdout.read()
    process.wait(60)
    return [json.loads(line) for line in out.splitlines() if line.endswith(b"}")]


def reading(path: Path) -> tuple[Session, SessionLoader]:
    loader = SessionLoader()
    session = Session()
    for entry in load(path, loader):
        session.apply(entry)
    loader.finish()
    return session, loader


def words(session: Session) -> int:
    return len(session.tail)


def test_kill_9_loses_a_quarter_of_a_second_at_most(tmp_path: Path) -> None:
    draw = random.Random(20)
    for moment in range(5):
        folder = tmp_path / str(moment)
        with writing(folder, "100000", "0.001") as process:
            assert process.stdout is not None
            wanted = draw.randint(2, 400)
            rows: list[dict[str, Any]] = []
            while not rows or rows[-1].get("count", 0) < wanted:
                row = json.loads(process.stdout.readline())
                rows += [row] if "count" in row else []
            process.send_signal(signal.SIGKILL)
            rows += [row for row in told(process) if "count" in row]
        assert process.returncode == -signal.SIGKILL

        (path,) = folder.glob("*.jsonl")
        session, loader = reading(path)
        kept = words(session)
        assert loader.report.sound
        assert [token.id for token in session.tail] == list(range(kept))
        last = rows[-1]["at"]
        # What was handed in a second before the end is there, however busy the machine.
        assert kept >= sum(1 for row in rows if row["at"] < last - 1.0)

        loaded = open_session(path)
        node = loaded.session.completion
        if node is not None:
            assert loaded.session.is_interrupted(node)
            loaded.session.accept(node)
            assert len(loaded.session.tree[node].tokens) == kept
            prompt = loaded.session.request(Sampling()).prompt
            assert len(prompt) == len(loaded.session.tokens)
        assert loaded.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_can_be_caught_loses_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with writing(tmp_path / "s", "100000", "0.001") as process:
        assert process.stdout is not None
        handed = 0
        while handed < 50:
            handed = json.loads(process.stdout.readline()).get("count", handed)
        process.send_signal(number)
        for row in told(process):
            handed = row.get("count", handed)
    assert process.returncode == -number
    (path,) = (tmp_path / "s").glob("*.jsonl")
    session, loader = reading(path)
    assert words(session) >= handed
    assert loader.report.clean


def test_a_full_disk_holds_the_session_until_it_goes_elsewhere(tmp_path: Path) -> None:
    small, free = tmp_path / "small", tmp_path / "free"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=64k tmpfs '{small}' && exec \"$@\""
    enter = ("unshare", "-rm", "sh", "-c", mount, "sh")
    if (
        not shutil.which("unshare")
        or subprocess.run([*enter, "true"], capture_output=True).returncode
    ):
        pytest.skip("no user namespaces here to mount a small disk in")
    with writing(small / "sessions", "600", "0", str(free), before=enter) as process:
        rows = told(process)
    said = {key: value for row in rows for key, value in row.items()}

    assert any("disk is full" in row.get("reason", "") for row in rows)
    assert said["flushed"] is False
    assert said["held"] > 0
    assert said["moved"] is True
    assert said["closed"] is True
    session, loader = reading(Path(said["path"]))
    assert Path(said["path"]).parent == free
    assert words(session) == 600
    assert loader.report.records == said["entries"]
    assert loader.report.clean


def test_an_io_error_moves_the_whole_session_to_a_new_file(tmp_path: Path) -> None:
    trace = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync")
    inject = ("-e", "inject=fdatasync:error=EIO:when=4")
    if (
        not shutil.which("strace")
        or subprocess.run([*trace, "true"], capture_output=True).returncode
    ):
        pytest.skip("no strace here to make the disk fail with")
    with writing(tmp_path / "s", "100", "0.02", before=(*trace, *inject)) as process:
        rows = told(process)
    said = {key: value for row in rows for key, value in row.items()}

    assert said["closed"] is True
    assert Path(said["path"]).name.endswith(".rescue-1.jsonl")
    assert any("I/O error" in row.get("notice", "") for row in rows)
    session, loader = reading(Path(said["path"]))
    assert words(session) == 100
    assert loader.report.clean
    assert len(list((tmp_path / "s").glob("*.jsonl"))) == 2
