"""The store on a real disk: what it writes, when it says saved, how a file can be lost."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qwen_tui.session.loader import SessionLoader, load
from qwen_tui.session.session import Session
from qwen_tui.session.session_file import SessionFile, Taken, free_name, slug
from qwen_tui.session.store import BATCH_BYTES, Saving, Store
from qwen_tui.types import Emitted, Entry, Environment, Finished, Sampling, Token, Trouble

ENV = Environment("e1", "scripted", {"repo": "demo"})


def until(seen: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + 10
    while not seen():
        if time.monotonic() > limit:
            pytest.fail(f"never happened: {what}")
        threading.Event().wait(0.005)


class Kept:
    """A session saved to a new file in a folder."""

    def __init__(self, folder: Path) -> None:
        self.states: list[Saving] = []
        self.session = Session.new(title="A Tale: of/two", clock=lambda: 1.7e9)
        self.store = Store(
            folder / f"{self.session.id}-a-tale.jsonl",
            entries=self.session.entries,
            on_state=self.states.append,
        )
        self.session.sink = self.store.put

    def generate(self, count: int = 3) -> str:
        generation, _ = self.session.start(self.session.request(Sampling(seed=1)), ENV)
        for index in range(count):
            self.session.happen(generation, Emitted((Token(index, b" x"),), index=index))
        return generation

    def matches(self, path: Path | None = None) -> None:
        """The file gives the same session."""
        entries, report = reading(path or self.store.path)
        assert entries == self.session.entries
        assert report.sound


def reading(path: Path) -> tuple[list[Entry], object]:
    loader = SessionLoader()
    entries = list(load(path, loader))
    return entries, loader.finish()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "sessions"


@pytest.fixture
def kept(folder: Path) -> Iterator[Kept]:
    made = Kept(folder)
    yield made
    made.store.close()


def test_nothing_is_made_before_there_is_something_to_keep(kept: Kept, folder: Path) -> None:
    assert kept.store.flush(5)
    assert not folder.exists()
    kept.session.commit("words")
    assert kept.store.flush(5)
    assert kept.store.path.exists()
    kept.matches()


def test_files_and_folders_are_the_owners_alone(kept: Kept, folder: Path) -> None:
    kept.session.commit("words")
    kept.store.flush(5)
    assert stat.S_IMODE(kept.store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_saved_is_said_only_when_all_is_on_the_disk(kept: Kept) -> None:
    kept.session.commit("words")
    assert not kept.store.state.saved
    until(lambda: kept.store.state.saved, "saved")
    kept.matches()
    generation = kept.generate(100)
    assert not kept.store.state.saved
    kept.session.happen(generation, Finished("length"))
    until(lambda: kept.store.state.saved, "saved again")
    kept.matches()
    assert kept.store.state.unsaved == 0
    assert not any(state.reason for state in kept.states)


def test_streamed_tokens_come_by_themselves_in_batches(kept: Kept) -> None:
    kept.session.commit("words")
    kept.store.flush(5)
    kept.generate(50)
    until(lambda: len(reading(kept.store.path)[0]) == len(kept.session.entries), "all written")
    until(lambda: kept.store.state.saved, "and synced")


def test_a_batch_larger_than_the_limit_is_cut_between_lines(kept: Kept) -> None:
    kept.session.commit("x" * 2 * BATCH_BYTES)
    for number in range(20):
        kept.session.commit(kept.session.text + f" {number}" * 1000)
    assert kept.store.flush(10)
    kept.matches()


def test_a_file_is_held_by_one_and_free_after(kept: Kept) -> None:
    kept.session.commit("words")
    kept.store.flush(5)
    with pytest.raises(Taken):
        SessionFile.open_locked(kept.store.path)
    assert kept.store.close()
    SessionFile.open_locked(kept.store.path).close()


def test_going_on_with_a_file_appends_and_never_rewrites(kept: Kept) -> None:
    kept.session.commit("words")
    kept.store.close()
    before = kept.store.path.read_bytes()

    again = Store(SessionFile.open_locked(kept.store.path), entries=kept.session.entries)
    kept.session.sink = again.put
    kept.session.commit("words and more")
    assert again.close()
    after = kept.store.path.read_bytes()
    assert after.startswith(before)
    kept.matches()


def test_a_torn_last_line_stays_and_the_next_begins_anew(kept: Kept) -> None:
    kept.session.commit("words")
    kept.store.close()
    with kept.store.path.open("ab") as file:
        file.write(b'{"k":"tok","gen":"g')
    before = kept.store.path.read_bytes()

    again = Store(SessionFile.open_locked(kept.store.path), entries=kept.session.entries)
    kept.session.sink = again.put
    kept.session.commit("words again")
    assert again.close()
    assert kept.store.path.read_bytes().startswith(before + b"\n")
    entries, _ = reading(kept.store.path)
    assert entries == kept.session.entries


@pytest.mark.parametrize("harm", ["replaced", "edited", "removed", "cut"])
def test_a_file_changed_by_another_is_left_and_a_conflict_file_is_whole(
    kept: Kept, harm: str
) -> None:
    kept.session.commit("words")
    kept.store.flush(5)
    path = kept.store.path
    if harm == "replaced":
        other = path.with_suffix(".new")
        other.write_bytes(b"theirs\n")
        other.rename(path)
    elif harm == "edited":
        with path.open("ab") as file:
            file.write(b"theirs\n")
    elif harm == "removed":
        path.unlink()
    else:
        os.truncate(path, 10)
    theirs = path.read_bytes() if path.exists() else None

    kept.session.commit("words after all")
    assert kept.store.flush(5)
    assert (path.read_bytes() if path.exists() else None) == theirs
    assert kept.store.path == path.with_name(f"{path.stem}.conflict-1.jsonl")
    kept.matches()
    assert "conflict-1" in kept.store.state.notice
    assert kept.store.state.reason == ""

    kept.session.commit("words, and more")
    assert kept.store.flush(5)
    kept.matches()
    with pytest.raises(Taken):
        SessionFile.open_locked(kept.store.path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_means_memory(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    kept = Kept(folder)
    kept.session.commit("words")
    assert not kept.store.flush(5)
    assert "no permission" in kept.store.state.reason
    folder.chmod(0o700)
    assert kept.store.close()


def test_a_place_that_is_no_folder_is_said_until_another_is_given(
    tmp_path: Path, folder: Path
) -> None:
    folder.parent.mkdir()
    folder.write_text("in the way")
    kept = Kept(folder)
    kept.session.commit("words")
    assert not kept.store.flush(5)
    state = kept.store.state
    assert not state.saved
    assert "working in memory" in state.reason
    assert state.unsaved > 0
    kept.generate()
    assert not kept.store.flush(5)
    assert kept.store.state.unsaved > state.unsaved

    assert kept.store.relocate(tmp_path / "elsewhere")
    assert kept.store.path.parent == tmp_path / "elsewhere"
    assert kept.store.state.reason == ""
    kept.matches()
    kept.session.commit("words there")
    assert kept.store.close()
    kept.matches()
    assert not list((tmp_path / "elsewhere").glob(".*"))


class Failing(SessionFile):
    """A file whose disk fails on demand, as a real one does: some bytes, then an error."""

    error: int | None = None
    sync_error: int | None = None
    room = 0

    def append(self, data: bytes) -> int:
        if self.error is None:
            return super().append(data)
        if self.room:
            part, self.room = data[: self.room], 0
            return super().append(part)
        raise OSError(self.error, os.strerror(self.error))

    def sync(self) -> None:
        if self.sync_error is not None:
            raise OSError(self.sync_error, os.strerror(self.sync_error))
        super().sync()


@pytest.fixture
def failing(kept: Kept) -> Failing:
    """`kept`, going on with a file that can be made to fail."""
    kept.session.commit("words")
    kept.store.close()
    file = Failing.open_locked(kept.store.path)
    assert isinstance(file, Failing)
    kept.store = Store(
        file, entries=kept.session.entries, on_state=kept.states.append, retry_s=0.02
    )
    kept.session.sink = kept.store.put
    return file


def test_a_full_disk_is_held_said_and_made_up_for(kept: Kept, failing: Failing) -> None:
    failing.error, failing.room = errno.ENOSPC, 70
    kept.session.commit("words that do not fit")
    generation = kept.generate(5)
    assert not kept.store.flush(5)
    assert "disk is full" in kept.store.state.reason
    assert kept.store.state.unsaved > 0
    failing.error = None
    kept.session.happen(generation, Finished("length"))
    assert kept.store.flush(5)
    assert kept.store.state.reason == ""
    entries, _ = reading(kept.store.path)
    assert entries == kept.session.entries
    assert kept.store.path.name == failing.path.name


def test_a_full_disk_is_tried_again_without_being_asked(kept: Kept, failing: Failing) -> None:
    failing.error = errno.ENOSPC
    kept.session.commit("words that do not fit")
    until(lambda: kept.store.state.reason, "the reason")
    failing.error = None
    until(lambda: kept.store.state.saved, "saved in the end")


@pytest.mark.parametrize("where", ["error", "sync_error"])
def test_an_io_error_means_a_new_file_with_everything(
    kept: Kept, failing: Failing, where: str
) -> None:
    old = failing.path
    setattr(failing, where, errno.EIO)
    kept.session.commit("words of weight")
    assert kept.store.flush(5)
    assert kept.store.path == old.with_name(f"{old.stem}.rescue-1.jsonl")
    assert "I/O error" in kept.store.state.notice
    kept.matches()
    assert old.exists()


def test_a_listener_that_is_gone_stops_nothing(folder: Path) -> None:
    def gone(state: Saving) -> None:
        raise RuntimeError("Event loop is closed")

    session = Session.new()
    store = Store(folder / f"{session.id}.jsonl", entries=session.entries, on_state=gone)
    session.sink = store.put
    session.commit("Words, and then some")
    assert store.flush(5)
    session.commit("More")
    assert store.close()
    assert store.path.name == f"{session.id}-words-and-then-some.jsonl"


def test_symbolic_links_are_not_followed(kept: Kept, tmp_path: Path) -> None:
    kept.session.commit("words")
    kept.store.close()
    link = tmp_path / "link.jsonl"
    link.symlink_to(kept.store.path)
    with pytest.raises(Trouble):
        SessionFile.open_locked(link)
    dangling = tmp_path / "dangling.jsonl"
    dangling.symlink_to(tmp_path / "nowhere")
    session = Session.new()
    store = Store(dangling, entries=session.entries)
    session.sink = store.put
    session.commit("words")
    store.close()
    assert not (tmp_path / "nowhere").exists()


def test_a_lock_taken_by_another_program_is_respected(kept: Kept) -> None:
    kept.session.commit("words")
    kept.store.close()
    with kept.store.path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(Taken):
            SessionFile.open_locked(kept.store.path)


def test_closing_twice_and_flushing_after_are_harmless(kept: Kept) -> None:
    kept.session.commit("words")
    assert kept.store.close()
    assert kept.store.close()
    assert kept.store.flush(1)
    kept.session.commit("lost words")
    assert not kept.store.flush(0.1)


def test_names_of_files(tmp_path: Path) -> None:
    assert slug("A Tale: of/two ../ Cities") == "a-tale-of-two-cities"
    assert slug("-.hidden\0") == "hidden"
    assert slug("人工知能") == "session"
    assert len(slug("word " * 50)) <= 40
    assert slug("x" * 100) == "x" * 40
    path = tmp_path / "S.jsonl"
    assert free_name(path, "conflict").name == "S.conflict-1.jsonl"
    free_name(path, "conflict").touch()
    assert free_name(tmp_path / "S.conflict-1.jsonl", "conflict").name == "S.conflict-2.jsonl"
    assert free_name(tmp_path / "S.conflict-1.jsonl", "rescue").name == "S.rescue-1.jsonl"
