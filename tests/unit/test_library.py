"""Finding, opening, following, renaming and removing session files."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen_tui import paths
from qwen_tui.journal import line, record, seal
from qwen_tui.session import library
from qwen_tui.session.identity import id_of
from qwen_tui.session.library import (
    fork,
    list_sessions,
    purge,
    rename,
    resolve,
    restore,
    trash,
    trashed,
    verify,
)
from qwen_tui.session.opening import new_store, open_session
from qwen_tui.session.search import search
from qwen_tui.session.session import Session
from qwen_tui.session.session_file import Taken
from qwen_tui.types import (
    Emitted,
    Environment,
    Finished,
    Head,
    Sampling,
    Started,
    Token,
    Trouble,
)

ENV = Environment("e1", "scripted", {"repo": "demo"})


def until(seen: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + 10
    while not seen():
        if time.monotonic() > limit:
            pytest.fail(f"never happened: {what}")
        threading.Event().wait(0.005)


def saved(title: str, text: str, at: float = 1.7e9) -> Path:
    """A session on the disk; its file."""
    session = Session.new(title=title, clock=lambda: at)
    store = new_store(session)
    session.commit(text)
    assert store.close()
    return store.path


def test_sessions_are_listed_last_used_first() -> None:
    old = saved("An old tale", "Once upon a time there was", at=1.6e9)
    new = saved("", "def main():\n    pass\n")
    os.utime(old, (1.6e9, 1.6e9))
    listed = list_sessions()

    assert [entry.path for entry in listed] == [new, old]
    assert listed[1].title == "An old tale"
    assert listed[1].created == pytest.approx(1.6e9)
    assert listed[0].preview == "def main():\n    pass\n"
    assert old.name.endswith("-an-old-tale.jsonl")
    assert new.name.endswith("-def-main-pass.jsonl")
    assert listed[0].id == id_of(new)


def test_what_is_no_session_does_not_spoil_the_list() -> None:
    path = saved("good", "words")
    (path.parent / "link.jsonl").symlink_to(path)
    os.mkfifo(path.parent / "fifo.jsonl")
    (path.parent / ".hidden.jsonl.part").write_bytes(b"x")
    assert [entry.title for entry in list_sessions()] == ["good"]


def test_a_session_is_meant_by_path_id_prefix_or_title() -> None:
    path = saved("My Tale", "words", at=1.6e9)
    other = saved("Another", "words", at=1.7e9)
    id = id_of(path)

    for name in (str(path), id, id.lower(), id[:12], "my tale", path.name, path.stem):
        assert resolve(name) == path
    for name, code in (("My Tail", 66), ("/nowhere/x.jsonl", 66), ("01", 2), ("", 66)):
        with pytest.raises(Trouble) as caught:
            resolve(name)
        assert caught.value.code == code
    with pytest.raises(Trouble, match="no session") as caught:
        resolve("Anotherr")
    assert "Another" in caught.value.hint
    assert resolve("Another") == other


def test_a_title_from_long_ago_is_still_found() -> None:
    path = saved("first", "words")
    rename(path, "A new name", ["tag"])
    loaded = open_session(path)
    loaded.session.commit("words" * 300_000)
    assert loaded.close(10)

    assert library.listing(path).title == "A new name"
    assert library.listing(path).tags == ("tag",)
    assert resolve("a new name") == path
    assert path.exists()


def test_opening_goes_on_where_it_was() -> None:
    path = saved("tale", "Once")
    loaded = open_session(path)
    assert loaded.session.text == "Once"
    assert loaded.read_only == ""
    assert loaded.badges == []
    loaded.session.commit("Once upon")
    assert loaded.close()
    assert verify(path).clean

    again = open_session(path)
    assert again.session.text == "Once upon"
    assert again.session.undo()
    assert again.session.text == "Once"
    again.close()


def test_opening_alone_changes_no_byte() -> None:
    path = saved("tale", "Once")
    before = path.read_bytes()
    open_session(path).close()
    open_session(path, read_only=True).close()
    verify(path)
    list_sessions()
    assert path.read_bytes() == before


def test_a_second_one_follows_and_may_fork() -> None:
    path = saved("tale", "Once")
    writer = open_session(path)
    reader = open_session(path)
    assert "open elsewhere" in reader.read_only
    assert reader.store is None
    assert reader.follower is not None

    generation, _ = writer.session.start(writer.session.request(Sampling(seed=1)), ENV)
    for index in range(5):
        writer.session.happen(generation, Emitted((Token(index, b" x"),), index=index))

    def followed() -> bool:
        assert reader.follower is not None
        for entry in reader.follower.poll():
            reader.session.apply(entry)
        return reader.session.tail == writer.session.tail

    until(followed, "the other's tokens")
    assert reader.session.interrupted() == []
    writer.session.happen(generation, Finished("length"))
    writer.session.accept()
    until(lambda: followed() and reader.session.text == "Once x x x x x", "the other's end")

    own = fork(reader.session)
    store = new_store(own)
    own.commit("Once more")
    assert store.close()
    assert own.id != writer.session.id
    forked = open_session(store.path)
    assert forked.session.title == "tale (fork)"
    assert forked.session.text == "Once more"
    assert len(forked.session.tree) == len(writer.session.tree) + 1
    forked.close()
    reader.close()
    assert writer.close()
    assert verify(path).clean


def test_an_interrupted_generation_is_said() -> None:
    session = Session.new()
    store = new_store(session)
    session.commit("Once")
    generation, (node,) = session.start(session.request(Sampling(seed=1)), ENV)
    session.happen(generation, Emitted((Token(1, b" upon"),)))
    store.close()
    loaded = open_session(store.path)
    assert loaded.badges == ["an interrupted generation"]
    assert loaded.session.accept(node)
    assert len(loaded.session.tree[node].tokens) == 1
    assert loaded.session.text == "Once upon"
    loaded.close()


def test_damage_is_a_badge_and_a_report() -> None:
    path = saved("tale", "Once upon a time")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"upon", b"Upon"))
    loaded = open_session(path)
    assert loaded.session.text == "Once Upon a time"
    assert "altered records" in loaded.badges
    assert loaded.read_only == ""
    loaded.close()
    report = verify(path)
    assert not report.sound
    assert report.damages[0].line == 2

    path.write_bytes(data[:-5])
    assert verify(path).sound
    assert open_session(path, read_only=True).badges == [
        "the last write was cut short",
        "read-only",
    ]


def test_without_its_head_a_file_waits_for_a_yes() -> None:
    path = saved("tale", "Once")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    loaded = open_session(path)
    assert "head" in loaded.read_only
    assert loaded.session.text == "Once"
    assert loaded.session.id == id_of(path)
    assert loaded.store is None

    confirmed = open_session(path, confirmed=True)
    confirmed.session.commit("Once more")
    assert confirmed.close()
    assert open_session(path, read_only=True).session.text == "Once more"
    assert not verify(path).headless


def test_an_empty_file_is_an_empty_session() -> None:
    folder = paths.ensure_folder(paths.sessions_dir())
    path = folder / "01H0000000000000000000000A-empty.jsonl"
    path.touch()
    loaded = open_session(path)
    assert loaded.read_only == ""
    loaded.session.commit("words")
    assert loaded.close()
    assert verify(path).clean
    assert library.listing(path).id == "01H0000000000000000000000A"


def test_a_newer_format_is_only_read() -> None:
    folder = paths.ensure_folder(paths.sessions_dir())
    path = folder / "new.jsonl"
    path.write_bytes(seal(record(Head("X", v=9, min=9)), "w", 0, 1))
    loaded = open_session(path)
    assert "newer version" in loaded.read_only
    assert loaded.store is None


def test_printed_records_can_be_opened_too(tmp_path: Path) -> None:
    session = Session.new(title="printed")
    session.commit("words")
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"".join(line(record(entry)) for entry in session.entries))
    loaded = open_session(path)
    assert loaded.session.text == "words"
    loaded.close()


def test_the_trash_keeps_and_only_a_purge_deletes() -> None:
    path = saved("tale", "Once upon")
    data = path.read_bytes()
    there = trash(path)
    assert not path.exists()
    assert there.read_bytes() == data
    assert list_sessions() == []
    assert trashed() == [there]
    assert restore(there) == path
    again = trash(path)
    assert purge([again]) == 1
    assert not again.exists()

    kept = saved("kept", "words")
    with pytest.raises(Trouble):
        purge([kept])
    assert kept.exists()
    loaded = open_session(kept)
    with pytest.raises(Taken):
        trash(kept)
    loaded.close()


def test_the_session_one_works_on_is_renamed_and_thrown_away_as_it_stands() -> None:
    path = saved("mine", "words")
    opened = open_session(path)
    with pytest.raises(Trouble, match="open elsewhere"):
        library.rename(path, "new name")
    library.rename(path, "new name", ["tag"], opened=opened)
    assert (opened.session.title, opened.session.tags) == ("new name", ("tag",))
    other = saved("other", "more", at=1.8e9)
    library.rename(other, "theirs", opened=opened)
    assert opened.session.title == "new name"

    opened.session.commit("words that were typed last")
    there = trash(path, opened=opened)
    assert not path.exists()
    assert opened.session.text in open_session(there, read_only=True).session.text
    assert [each.title for each in library.list_trash()] == ["new name"]
    back = restore(there)
    assert back == path
    assert open_session(back, read_only=True).session.text == "words that were typed last"
    assert library.list_trash() == []
    with pytest.raises(Trouble, match="not in the trash"):
        restore(back)


def test_a_fork_takes_what_was_typed_and_not_committed_along() -> None:
    session = Session.new()
    session.commit("Once upon")
    copy = library.fork(session, typed="Once upon a time")
    assert copy.text == "Once upon a time"
    assert session.text == "Once upon"
    assert copy.undo()
    assert copy.undo()
    assert copy.text == "Once upon"


def test_the_session_of_a_text_file_is_found_again(tmp_path: Path) -> None:
    file = tmp_path / "story.txt"
    assert library.for_file(file) is None
    other = open_session(saved("story.txt", "another story"))
    other.session.remember(file=str(tmp_path / "elsewhere" / "story.txt"))
    mine = open_session(saved("story.txt", "words", at=1.8e9))
    mine.session.remember(file=str(file))
    other.close()
    mine.close()
    assert library.for_file(file) == mine.file


def test_a_chat_is_listed_by_what_was_said() -> None:
    session = Session.new()
    store = new_store(session)
    template = (Token(2, b"<|im_start|>system\nYou are helpful"),)
    session.add_turn("user", (Token(1, b"Tell me of whales"),), before=template)
    store.close()
    (listed,) = list_sessions()
    assert listed.preview == "Tell me of whales"
    assert "tell-me-of-whales" in listed.path.name


# -- search ----------------------------------------------------------------------------------------


def test_words_are_found_in_any_language_and_case() -> None:
    tale = saved("A Tale", "Once upon a TIME there was a 人工知能")
    other = saved("", 'print("hello") -- it\'s 100% *sure*', at=1.8e9)
    for words, path in (
        ("time there", tale),
        ("ONCE", tale),
        ("人工知", tale),
        ("知能", tale),
        ("a tale", tale),
        ('("hello")', other),
        ("100% *s", other),
        ("' OR 1=1", None),
        ("OR", None),
        ("", None),
    ):
        found = search(words)
        assert [hit.path for hit in found] == ([path] if path else []), words
    (hit,) = search("time there")
    assert (hit.before, hit.match, hit.after) == ("Once upon a ", "TIME there", " was a 人工知能")
    assert hit.title == "A Tale"


def test_the_index_follows_the_files_and_may_be_lost() -> None:
    path = saved("tale", "Once upon")
    assert len(search("upon")) == 1
    loaded = open_session(path)
    loaded.session.commit("Once upon a midnight dreary")
    loaded.close()
    assert search("midnight")
    paths.search_index().write_bytes(b"this is no database, and is long enough to be seen as none")
    assert search("midnight")
    purge([trash(path)])
    assert search("midnight") == []
    assert not _holds(b"midnight")


def _holds(words: bytes) -> bool:
    return words in paths.search_index().read_bytes()


def test_without_an_index_the_files_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = saved("tale", "Once upon a midnight")
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert [hit.path for hit in search("MIDNIGHT", index=blocked / "x.sqlite")] == [path]

    def refuse(*args: object, **values: object) -> None:
        raise sqlite3.OperationalError("no such module: fts5")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    assert [hit.path for hit in search("upon")] == [path]


def test_opening_a_hostile_file_follows_nothing_in_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path = tmp_path / "hostile.jsonl"
    session = Session.new(title="../../etc/passwd\x1b[31m")
    session.apply(
        Environment(str(secret), "remote", {"path": str(secret), "url": "http://x.invalid"})
    )
    session.apply(Started("../g", (str(secret),), str(secret), {}, {"seed": "x", "order": 5}))
    path.write_bytes(b"".join(line(record(entry)) for entry in session.entries))
    loaded = open_session(path)
    assert "secret" not in loaded.session.text
    new_store(loaded.session).close()
    loaded.close()
    assert sorted(tmp_path.glob("*.jsonl")) == [path]
