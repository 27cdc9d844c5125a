"""The terminal survives us, and we survive the terminal: a small app in a real pseudo-terminal."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("pseudo-terminals are Unix's", allow_module_level=True)


from fixtures.pty_harness import Pty

pytestmark = pytest.mark.e2e
SCRIPT = Path(__file__).parent.parent / "fixtures" / "terminal_app.py"
LEFT = (b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?1003l", b"\x1b[?2004l", b"\x1b[<u", b"\x1b[?1004l")
"""What must have been written when the program is gone."""


def opened(folder: Path, *how: str, **env: str) -> Pty:
    """The app, painted and listening."""
    there = Pty(SCRIPT, str(folder), *how, **env)
    there.until(lambda: (folder / "ready").exists(), "the first paint")
    there.shows(b"\x1b[?2004h")
    return there


def holds(there: Pty, folder: Path, text: str) -> None:
    """Wait until the editor holds exactly this."""
    place = folder / "text"
    there.until(
        lambda: place.exists() and place.read_bytes() == text.encode(),
        f"{text!r} in the editor, not {place.read_bytes() if place.exists() else None!r}",
    )


def given_back(there: Pty, before: list[object], *, since: int = 0) -> None:
    assert all(mode in there.output[since:] for mode in LEFT)
    assert there.modes() == before


def test_bad_input_pastes_stray_writes_and_signals(tmp_path: Path) -> None:
    with Pty(SCRIPT, str(tmp_path)) as there:
        before = there.modes()
        there.until(lambda: (tmp_path / "ready").exists(), "the first paint")
        there.shows(b"\x1b[?2004h")
        assert before != there.modes()

        there.type(b"a\xff\xfe\xc3")
        holds(there, tmp_path, "a\ufffd\ufffd")
        there.type(b"(")  # what was waiting for its second byte is none
        holds(there, tmp_path, "a\ufffd\ufffd\ufffd(")
        there.type(b"\x1b[99999999u\x1b[99999999999999999999u\x1b[1;99999999999999999Rb")
        holds(there, tmp_path, "a\ufffd\ufffd\ufffd(b")
        there.type("é日".encode())
        holds(there, tmp_path, "a\ufffd\ufffd\ufffd(bé日")

        pasted = b"\x1b[200~\r\n1\x1b[A\x11\x1b[31m2\x00\x07\xff\tx\r3\x1b[201~"
        for cut in range(0, len(pasted), 3):  # however the terminal cuts it
            there.type(pasted[cut : cut + 3])
        there.type(b"!")
        text = "a\ufffd\ufffd\ufffd(bé日\n1[A[31m2\ufffd\tx\n3!"
        holds(there, tmp_path, text)
        there.type(b"\x1a")  # Ctrl+Z: the "!"
        there.type(b"\x1a")  # and the whole paste at once
        holds(there, tmp_path, "a\ufffd\ufffd\ufffd(bé日")

        there.type(b"\x07")
        there.until(lambda: (tmp_path / "strayed").exists(), "stray writes")
        log = (tmp_path / "log").read_bytes()
        assert b"STRAY-ONE" in log
        assert b"STRAY-TWO" in log
        assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600

        for rows, columns in ((1, 1), (50, 200), (2, 3), (0, 0), (30, 90)):
            there.resize(rows, columns)
        there.until(lambda: (tmp_path / "size").read_text() == "90x30", "the last of many sizes")

        here = len(there.output)
        there.kill(signal.SIGTSTP)
        there.stopped()
        there.read(0.02)
        given_back(there, before, since=here)
        here = len(there.output)
        there.kill(signal.SIGCONT)
        there.shows(b"\x1b[?1049h", since=here)
        there.shows("日".encode(), since=here)  # painted again
        there.type(b"?")
        holds(there, tmp_path, "a\ufffd\ufffd\ufffd(bé日?")

        here = len(there.output)
        there.kill(signal.SIGSTOP)  # without a warning
        there.stopped()
        there.kill(signal.SIGCONT)
        there.shows(b"\x1b[?1049h", since=here)
        there.shows("日".encode(), since=here)

        here = len(there.output)
        there.type(b"\x05")  # another program has the terminal for a while
        there.shows(b"FROM-CHILD", since=here)
        given_back(there, before, since=here)
        there.type(b"it\n")
        there.shows(b"GOT-it", since=here)
        there.shows("日".encode(), since=here)
        there.type(b"/")
        holds(there, tmp_path, "a\ufffd\ufffd\ufffd(bé日?/")

        here = len(there.output)
        there.kill(signal.SIGTERM)
        assert there.ended() == ("signal", signal.SIGTERM)
        given_back(there, before, since=here)
        assert (tmp_path / "flushed").exists()
        assert b"STRAY" not in there.output
        assert b"\x1b]0;" not in there.output  # the window's title is the person's
        assert b"\x1b]2;" not in there.output


def test_a_stuck_terminal_does_not_keep_us_from_dying(tmp_path: Path) -> None:
    with opened(tmp_path) as there:
        there.type(b"\x14")
        there.until(lambda: (tmp_path / "storming").exists(), "a full terminal", reading=False)
        there.kill(signal.SIGTERM)
        assert there.ended(reading=False) == ("signal", signal.SIGTERM)
        assert (tmp_path / "flushed").exists()


@pytest.mark.parametrize(
    ("how", "end"), [((), ("signal", signal.SIGHUP)), (("nohup",), ("exit", 129))]
)
def test_a_terminal_that_vanishes_flushes_and_ends_us(
    tmp_path: Path, how: tuple[str, ...], end: tuple[str, int]
) -> None:
    with opened(tmp_path, *how) as there:
        there.hang_up()
        assert there.ended(reading=False) == end
        assert (tmp_path / "flushed").exists()


def test_a_crash_is_one_line_and_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"old\n" * (2 << 20))
    with opened(tmp_path) as there:
        before = there.modes()
        here = len(there.output)
        there.type(b"\x12")
        assert there.ended() == ("exit", 70)
        assert there.output[here:].count(b"\x1b[?1049l") == 1
        said = there.output[here:].rpartition(b"\x1b[?1004l")[2].decode()
        assert "internal error (LookupError)" in said
        assert str(tmp_path / "log") in said.replace("\r\n", "")
        assert len(said.strip().splitlines()) == 1
        log = (tmp_path / "log").read_text()
        assert "old" not in log
        assert (tmp_path / "log.old").stat().st_size == 8 << 20
        assert "LookupError" in log
        assert "action_crash" in log
        for seen in (said, log):
            assert "the-secret-prompt" not in seen.replace('secret = "the-secret-prompt"', "")
        assert (tmp_path / "flushed").exists()
        assert before[3] != there.modes()[3]


def test_quit_with_a_thread_stuck_in_native_code(tmp_path: Path) -> None:
    with opened(tmp_path, "stuck-thread") as there:
        here = len(there.output)
        there.type(b"\x11")
        assert there.ended() == ("exit", 7)
        assert all(mode in there.output[here:] for mode in LEFT)
        assert there.output[here:].count(b"\x1b[<u") == 1


def test_a_second_hand_never_sees_our_descriptor(tmp_path: Path) -> None:
    """The private copy of the terminal is not inherited by what we start."""
    with opened(tmp_path) as there:
        held = [str(Path(f"/proc/{there.pid}/fd/{fd}").readlink()) for fd in (0, 1, 2)]
        assert held[0].startswith("/dev/pts")
        assert held[1:] == [str(tmp_path / "log")] * 2


@pytest.mark.parametrize(("value", "coloured"), [("1", False), ("", True)])
def test_no_color_that_is_not_empty_means_none_at_all(
    tmp_path: Path, value: str, coloured: bool
) -> None:
    with opened(tmp_path, NO_COLOR=value) as there:
        there.type("日".encode())
        there.shows("日".encode())
        numbers = {
            int(number)
            for style in re.findall(rb"\x1b\[([\d;]*)m", there.output)
            for number in style.split(b";")
            if number
        }
        assert bool(numbers & {*range(30, 50), *range(90, 108)}) is coloured
