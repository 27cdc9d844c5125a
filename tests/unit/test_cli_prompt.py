"""A prompt is what its bytes say, or is refused with the offset where they stop saying it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from qwen_tui.cli import prompt as prompts
from qwen_tui.types import BAD_DATA, NO_INPUT, USAGE, Trouble


class Piped(io.TextIOWrapper):
    def __init__(self, data: bytes, *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data))
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def file(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "prompt.txt"
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " leading and trailing  \n\n",
        "a\r\nb\rc\n",
        "\u00e9 e\u0301 \u2028 \x1b[31m",
        "\ufeffmarked",
    ],
)
def test_a_prompt_is_never_touched(tmp_path: Path, text: str) -> None:
    assert prompts.read(file(tmp_path, text.encode()), None).text == text
    assert prompts.read(None, text).text == text


def test_standard_input_is_read_when_piped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Piped("déjà vu\n".encode()))
    assert prompts.read("-", None).text == "déjà vu\n"
    monkeypatch.setattr("sys.stdin", Piped(b""))
    assert prompts.read(None, None).text == ""


def test_what_is_piped_in_comes_before_the_prompt_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", Piped(b"IMPORTANT\n"))
    assert prompts.read(None, "Summary:").text == "IMPORTANT\nSummary:"
    monkeypatch.setattr("sys.stdin", Piped(b"", terminal=True))
    assert prompts.read(None, "Summary:").text == "Summary:"
    monkeypatch.setattr("sys.stdin", Piped(b"\xff"))
    with pytest.raises(Trouble, match="standard input is not UTF-8"):
        prompts.read(None, "Summary:")


def test_escapes_never_change_a_file_or_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = r'x="a\tb\n"; \frac \nabla \alpha'
    assert prompts.read(file(tmp_path, text.encode()), None, escape=True).text == text
    monkeypatch.setattr("sys.stdin", Piped(text.encode()))
    assert prompts.read(None, None, escape=True).text == text
    monkeypatch.setattr("sys.stdin", Piped(text.encode()))
    assert prompts.read(None, r"\n", escape=True).text == text + "\n"


@pytest.mark.parametrize(
    ("stop", "meant"),
    [
        (r"\n\n", True),
        (r"\nUser:", True),
        (r"## \t", True),
        (r"\nabla", False),
        (r"\end{document}", False),
        ("\n", False),
    ],
)
def test_a_stop_string_that_was_meant_escaped_is_noticed(stop: str, meant: bool) -> None:
    assert prompts.unescaped_stop(stop) is meant


@pytest.mark.parametrize(("name", "text"), [("file.txt", "and a prompt"), (None, None)])
def test_two_prompts_or_none_are_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, name: str | None, text: str | None
) -> None:
    monkeypatch.setattr("sys.stdin", Piped(b"", terminal=True))
    with pytest.raises(Trouble) as caught:
        prompts.read(name, text)
    assert caught.value.code == USAGE


@pytest.mark.parametrize(
    ("data", "offset", "hint"),
    [
        (b"fine so far \xff here", "12", "--encoding"),
        (b"cut \xf0\x9f\xa6", "4", "--encoding"),
        (b"nul\0", "3", "--encoding"),
        ("wide".encode("utf-16"), "0", "--encoding utf-16"),
        ("wide".encode("utf-16-be"), "0", "--encoding"),
        ("wide".encode("utf-32"), "0", "--encoding utf-32"),
        (b"\x89PNG\r\n\x1a\n\0\0", "0", "--encoding"),
    ],
)
def test_what_is_no_utf8_is_refused_with_its_offset(
    tmp_path: Path, data: bytes, offset: str, hint: str
) -> None:
    with pytest.raises(Trouble, match=rf"byte offset {offset}$") as caught:
        prompts.read(file(tmp_path, data), None)
    assert caught.value.code == BAD_DATA
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("encoding", "data", "text"),
    [
        ("utf-16", "wide".encode("utf-16"), "wide"),
        ("latin-1", b"caf\xe9\0", "caf\xe9\0"),
        ("shift_jis", "日本".encode("shift_jis"), "日本"),
    ],
)
def test_another_encoding_may_be_named(
    tmp_path: Path, encoding: str, data: bytes, text: str
) -> None:
    assert prompts.read(file(tmp_path, data), None, encoding=encoding).text == text


@pytest.mark.parametrize("encoding", ["klingon", "base64", "rot13"])
def test_an_encoding_that_is_none_is_a_usage_error(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(Trouble) as caught:
        prompts.read(file(tmp_path, b"x"), None, encoding=encoding)
    assert caught.value.code == USAGE


def test_a_byte_order_mark_is_kept_and_announced(tmp_path: Path) -> None:
    marked = prompts.read(file(tmp_path, b"\xef\xbb\xbfhi"), None)
    assert marked.text == "\ufeffhi"
    assert "byte order mark" in marked.notes[0]
    assert prompts.read(file(tmp_path, b"hi"), None).notes == ()


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(Trouble, match=str(path)) as caught:
            prompts.read(str(path), None)
        assert caught.value.code == NO_INPUT


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"a\nb\tc", "a\nb\tc"),
        (r"\\n", r"\n"),
        (r"\xe4\xbd\xa0", "你"),
        (r"\u00e9 \U0001f98a", "é 🦊"),
        (r"\q \8", r"\q \8"),
        (r"\0\e", "\0\x1b"),
    ],
)
def test_escapes_are_carried_out_only_when_asked(written: str, meant: str) -> None:
    assert prompts.read(None, written).text == written
    assert prompts.read(None, written, escape=True).text == meant


@pytest.mark.parametrize("written", [r"\xff", r"\ud83d", r"\U00110000"])
def test_escapes_that_make_no_text_are_refused(written: str) -> None:
    with pytest.raises(Trouble) as caught:
        prompts.read(None, written, escape=True)
    assert caught.value.code == BAD_DATA


def test_an_argument_that_is_no_utf8_is_refused_with_its_offset() -> None:
    with pytest.raises(Trouble, match="byte offset 3"):
        prompts.read(None, b"\xc3\xa9!\xff".decode("utf-8", "surrogateescape"))
