"""Standard output carries the completion: exact bytes in a pipe, safe text on a terminal."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest

from qwen_tui.cli import stdout
from qwen_tui.cli.stdout import BranchPrinter, FileOutput, Output
from qwen_tui.types import CANNOT_CREATE, IO_ERROR, NO_PERMISSION, Trouble


def told(shown: bool, branches: int = 1, lead: bytes = b"") -> tuple[BranchPrinter, io.BytesIO]:
    stream = io.BytesIO()
    return BranchPrinter(Output(stream, "it", shown=shown), branches=branches, lead=lead), stream


def test_a_pipe_gets_the_exact_bytes_as_they_come() -> None:
    printer, stream = told(shown=False)
    for data in (b"caf", b"\xc3", b"\xa9 \x1b[31m", b"\xff"):
        printer.feed(0, data)
        assert stream.getvalue().endswith(data)
    printer.finish()
    assert stream.getvalue() == b"caf\xc3\xa9 \x1b[31m\xff"


def test_a_terminal_gets_whole_safe_characters_and_a_last_newline() -> None:
    printer, stream = told(shown=True)
    printer.feed(0, b"caf\xc3")
    assert stream.getvalue() == b"caf"
    printer.feed(0, b"\xa9 \x1b[31m")
    printer.finish()
    assert stream.getvalue().decode() == "café ␛[31m\n"


def test_marks_that_stream_in_do_not_pile_up_on_a_terminal() -> None:
    teller, stream = told(shown=True)
    for _ in range(300):
        teller.feed(0, "\u0335".encode())
    teller.finish()
    text = stream.getvalue().decode()
    assert text.count("\u0335") <= 12
    assert text.endswith("<+288>\n")


def test_a_newline_that_is_there_is_not_doubled() -> None:
    printer, stream = told(shown=True)
    printer.feed(0, b"done\n")
    printer.finish()
    assert stream.getvalue() == b"done\n"


def test_completions_are_told_in_order_with_a_line_between() -> None:
    printer, stream = told(shown=True, branches=3)
    printer.feed(1, b"second\n")
    printer.feed(2, b"third")
    assert stream.getvalue() == b""
    printer.feed(0, b"first")
    assert stream.getvalue() == b"first"
    printer.end(2)
    printer.end(0)
    assert stream.getvalue() == b"first\n--- 2/3 ---\nsecond\n"
    printer.feed(1, b"more")
    printer.end(1)
    printer.finish()
    assert stream.getvalue() == b"first\n--- 2/3 ---\nsecond\nmore\n--- 3/3 ---\nthird\n"


def test_a_pipe_gets_several_completions_and_nothing_else() -> None:
    printer, stream = told(shown=False, branches=3)
    printer.feed(2, b"third \xff")
    printer.feed(0, b"first")
    printer.end(0)
    printer.feed(1, b"second\n")
    printer.finish()
    assert stream.getvalue() == b"first\nsecond\nthird \xff"


def test_what_an_interrupted_branch_said_is_told_at_the_end() -> None:
    printer, stream = told(shown=True, branches=2, lead=b"> ")
    printer.feed(1, b"two")
    printer.finish()
    assert stream.getvalue() == b"> \n--- 2/2 ---\n> two\n"


def test_a_tab_on_a_terminal_is_spaces_and_in_a_pipe_a_tab() -> None:
    seen = []
    for shown in (True, False):
        printer, stream = told(shown=shown)
        for part in ("a", "b\tc\n日", "\td\te"):
            printer.feed(0, part.encode())
        printer.finish()
        seen.append(stream.getvalue().decode())
    assert seen == ["ab      c\n日      d       e\n", "ab\tc\n日\td\te"]


def test_a_terminal_of_another_encoding_gets_what_it_can_show() -> None:
    stream = io.BytesIO()
    printer = BranchPrinter(Output(stream, "it", shown=True, encoding="latin-1"))
    printer.feed(0, "café → 日本".encode())
    printer.finish()
    assert stream.getvalue() == "café ? ??\n".encode("latin-1")


def test_a_full_disk_is_a_write_error() -> None:
    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(Trouble, match="write error") as caught:
        Output(Full(), "the disk").write(b"x")
    assert caught.value.code == IO_ERROR


def test_a_file_appears_whole_when_it_is_closed(tmp_path: Path) -> None:
    place = tmp_path / "out.txt"
    place.write_text("before")
    with FileOutput(place) as file:
        file.write(b"some\x00thing")
        assert place.read_text() == "before"
    assert place.read_bytes() == b"some\x00thing"
    assert list(tmp_path.iterdir()) == [place]


def test_a_failure_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    place = tmp_path / "out.txt"
    place.write_text("before")

    def fail() -> None:
        with FileOutput(place) as file:
            file.write(b"half")
            raise Trouble("and then it broke")

    with pytest.raises(Trouble):
        fail()
    assert place.read_text() == "before"
    assert list(tmp_path.iterdir()) == [place]


def test_nothing_lies_about_before_the_first_write(tmp_path: Path) -> None:
    FileOutput(tmp_path / "out.txt")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_completion_makes_an_empty_file(tmp_path: Path) -> None:
    with FileOutput(tmp_path / "out.txt"):
        pass
    assert (tmp_path / "out.txt").read_bytes() == b""


def test_a_link_is_written_through(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    link.symlink_to(real)
    with FileOutput(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_what_cannot_be_made_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(Trouble) as caught:
        stdout.opened(str(tmp_path / "no" / "such" / "folder"))
    assert caught.value.code in (CANNOT_CREATE, NO_PERMISSION)
    with pytest.raises(Trouble) as caught:
        stdout.opened(str(tmp_path))
    assert caught.value.code == CANNOT_CREATE


def test_a_device_is_written_directly() -> None:
    with FileOutput(Path("/dev/null")) as file:
        file.write(b"x")
    with pytest.raises(Trouble, match="write error") as caught, FileOutput(Path("/dev/full")) as f:
        f.write(b"x")
    assert caught.value.code == IO_ERROR
