"""`qwen-tui --plain`: the workbench line by line, for dumb terminals and screen readers.

Law: a line that begins with a colon is a command, any other is text; nothing is painted over.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TextIO

from qwen_tui import presets, settings
from qwen_tui.cli.generation import TextSink, stream, window
from qwen_tui.cli.signals import dying_at_once, stopping
from qwen_tui.cli.stderr import Reporter, print_error
from qwen_tui.cli.stdout import FileOutput, Output, opened
from qwen_tui.paths import expanded
from qwen_tui.session.session import Session
from qwen_tui.settings import Settings
from qwen_tui.types import DONE, USAGE, Backend, Entry, Request, Sampling, Trouble

HELP: Final = """\
Type text; a line of yours begins a new line, after the model's text it goes straight on.
  :            go on from here            :again       another completion instead
  :undo :redo  one step back or forth     :show        the whole text
  :tokens      the last completion, token by token, with the alternatives of each
  :set         the sampling values        :set NAME VALUE
  :n N         most tokens to generate    :write FILE  the text into a file
  :title TEXT  name the session           :quit        or end of input
A line that shall begin with a colon is typed with two."""


class LineMode:
    """The loop: reads lines, keeps the session, opens the backend when it is first needed."""

    def __init__(
        self,
        chosen: Settings,
        session: Session,
        open_backend: Callable[[Settings, Reporter], Backend],
        *,
        lines: TextIO | None = None,
        output: Output | None = None,
    ) -> None:
        self._chosen = chosen
        self._sampling: Sampling = chosen.sampling
        self._length = chosen.max_tokens
        self._session = session
        self._open = open_backend
        self._lines = lines or sys.stdin
        self._output = output or opened(None)
        self._backend: Backend | None = None
        self._typed = False
        self._printer: TextSink | None = None
        self._sink, session.sink = session.sink, self._hear
        self._commands: dict[str, Callable[[str], None]] = {
            "": lambda rest: self.go(),
            "go": lambda rest: self.go(),
            "again": lambda rest: self.go(again=True),
            "undo": lambda rest: self._step(self._session.undo()),
            "redo": lambda rest: self._step(self._session.redo()),
            "show": lambda rest: self._say(self._session.text),
            "tokens": lambda rest: self.tokens(),
            "set": self.set,
            "n": self.set_length,
            "write": self.write,
            "title": lambda rest: self._session.rename(rest),
            "help": lambda rest: self._say(HELP),
        }

    def run(self) -> int:
        """Read lines until `:quit` or the end of input."""
        if self._session.text:
            self._say(self._session.text)
        self._say("qwen-tui, line by line; :help lists the commands")
        for line in iter(self._lines.readline, ""):
            text = line.removesuffix("\n")
            if text in (":quit", ":q"):
                break
            try:
                self._take(text)
            except Trouble as trouble:
                print_error(trouble)
        self.close()
        return DONE

    def close(self) -> None:
        """Close the backend."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def _take(self, text: str) -> None:
        if not text.startswith(":") or text.startswith("::"):
            self._type(text.removeprefix(":") if text.startswith("::") else text)
            return
        name, _, rest = text[1:].partition(" ")
        if name not in self._commands:
            raise Trouble(f"there is no command :{name}", hint=":help lists them", code=USAGE)
        self._commands[name](rest)

    def _hear(self, entry: Entry) -> None:
        if self._sink is not None:
            self._sink(entry)
        if self._printer is not None:
            self._printer(entry)

    def _say(self, text: str) -> None:
        self._output.write_text(text if text.endswith("\n") else text + "\n")

    def _type(self, text: str) -> None:
        gap = "\n" if self._typed else ""
        self._session.commit(self._session.text + gap + text)
        self._typed = True

    def _step(self, moved: bool) -> None:
        self._typed = False
        self._say(self._session.text[-200:] if moved else "there is nothing further")

    def go(self, *, again: bool = False) -> None:
        """Continue the text and accept the completion; Ctrl-C stops it and keeps what came."""
        with Reporter() as reporter:
            if self._backend is None:
                with dying_at_once():
                    self._backend = self._open(self._chosen, reporter)
            request = self._request(self._backend, reporter, again=again)
            vocab = self._session.vocab
            ends = vocab.ends(request.prompt) if vocab else ()
            self._printer = TextSink(self._output, request, ends)
            with stopping() as stopped:
                finished = stream(self._session, request, self._backend, reporter, stopped.cancel)
            self._printer.finish()
            if not self._output.shown:
                self._output.write(b"\n")
            self._printer = None
            self._session.accept()
            self._typed = False
            for end in finished:
                reporter.finished(end)
                if end.message:
                    print_error(Trouble(end.message, hint=end.hint))

    def _request(self, backend: Backend, reporter: Reporter, *, again: bool) -> Request:
        make = self._session.regenerate if again else self._session.request
        return make(
            self._sampling,
            max_tokens=self._length,
            stop=self._chosen.stop,
            choices=self._chosen.choices,
            ignore_eos=self._chosen.ignore_eos,
            bos=self._chosen.bos,
            window=window(self._chosen, backend.context),
            note=lambda said: reporter.warn([said]),
        )

    def tokens(self) -> None:
        """The tokens of the last completion: probability, spelling, and alternatives."""
        parts = [part for part in self._session.parts() if part.node.source == "model"]
        if not parts:
            raise Trouble("there is no completion yet", hint=": makes one")
        for token in parts[-1].tokens:
            others = [
                f"{_percent(choice.logprob)} {_spelled(choice.data)}"
                for choice in token.choices[:4]
                if choice.id != token.id
            ]
            line = f"{_percent(token.logprob):>4} {_spelled(token.data)}"
            self._say(line + ("   not " + ", ".join(others) if others else ""))

    def set(self, rest: str) -> None:
        """Show the sampling values, or set one of them."""
        name, _, value = rest.strip().partition(" ")
        name = {"temp": "temperature"}.get(name, name.replace("-", "_"))
        if not name:
            for each in presets.NAMES:
                self._say(f"{each} {getattr(self._sampling, each)}")
            return
        if name not in presets.NAMES:
            raise Trouble(f"there is no sampling value {name!r}", hint=":set shows them all")
        try:
            checked = presets.checked(name, value)
        except ValueError as error:
            raise Trouble(str(error), code=USAGE) from None
        self._sampling = replace(self._sampling, **{name: checked})

    def set_length(self, rest: str) -> None:
        """Set how many tokens one completion may have."""
        try:
            self._length = int(settings.FIELD["max_tokens"].check(rest.strip()))
        except ValueError as error:
            raise Trouble(str(error), code=USAGE) from None

    def write(self, rest: str) -> None:
        """Write the text into a file, which is replaced atomically."""
        if not rest.strip():
            raise Trouble("a file is wanted", hint=":write FILE", code=USAGE)
        with FileOutput(expanded(rest.strip())) as file:
            file.write(self._session.text.encode())
        self._say(f"{len(self._session.text):,} characters are in {rest.strip()}")


def _percent(logprob: float | None) -> str:
    return "?" if logprob is None else f"{100 * math.exp(logprob):.0f}%"


def _spelled(data: bytes) -> str:
    return json.dumps(data.decode("utf-8", "backslashreplace"), ensure_ascii=False)
