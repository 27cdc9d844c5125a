"""Opening a model while the interface lives: first the tokenizer, then the runner.

Law: nothing here blocks the event loop; every outcome is a message.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.message import Message

from qwen_tui import hub, presets
from qwen_tui.settings import LOCAL, Settings
from qwen_tui.tui.context import StudioContext
from qwen_tui.tui.messages import Failed, Loading, Ready
from qwen_tui.types import Backend, Sampling, Trouble

if TYPE_CHECKING:
    from qwen_tui.vocab import Vocab


class SpecialIds:
    """The ids that are special tokens, asked one by one."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab

    def __contains__(self, id: object) -> bool:
        return isinstance(id, int) and 0 <= id < self._vocab.size and self._vocab.is_special(id)


@dataclass
class VocabRead(Message):
    """The tokenizer is read (None: the server keeps it to itself); what the checkpoint's makers
    sample with, and whether they tuned it to answer.
    """

    vocab: Vocab | None
    checkpoint: Sampling | None
    instruct: bool
    special: SpecialIds | frozenset[int]


class Loader:
    """Opens the first model and every other one after it. `asked`: the chooser has been shown."""

    def __init__(self, doors: StudioContext, tell: Callable[[Message], None]) -> None:
        self.asked = False
        self.reading = False
        """The tokenizer is being read."""
        self.failed = False
        """The last opening did not succeed; `begin` tries again."""
        self._doors = doors
        self._tell = tell
        self._turn = 0

    def begin(self, settings: Settings, *, swap: bool = False) -> None:
        """Read the tokenizer on a thread, then open the model; `swap`: in place of another one."""
        self._turn += 1
        turn = self._turn
        self.reading, self.failed = True, False
        self._doors.runner.on_progress = lambda progress: self._tell(Loading(progress))

        def work() -> None:
            try:
                vocab = self._doors.vocab(settings)
            except Trouble as trouble:
                self._read(turn)
                self._say(turn, Failed(trouble))
                return
            self._read(turn)
            special = SpecialIds(vocab) if vocab is not None else frozenset[int]()
            self._say(turn, VocabRead(vocab, *_makers(settings), special))
            if turn == self._turn:
                self._open(settings, turn, swap)

        threading.Thread(target=work, name="tokenizer", daemon=True).start()

    def _read(self, turn: int) -> None:
        """This turn's tokenizer is read, or cannot be."""
        if turn == self._turn:
            self.reading = False

    def _open(self, settings: Settings, turn: int, swap: bool) -> None:
        runner = self._doors.runner
        future = runner.swap(self._doors.opener(settings)) if swap else runner.load()

        def done(future: Future[Backend]) -> None:
            error = future.exception()
            if error is None:
                self._say(turn, Ready(future.result()))
            elif isinstance(error, Trouble):
                self._say(turn, Failed(error))
            else:
                self._say(turn, Failed(Trouble(str(error))))

        future.add_done_callback(done)

    def _say(self, turn: int, message: Message) -> None:
        """Tell it, unless another model was asked for meanwhile."""
        if turn == self._turn:
            self.failed = isinstance(message, Failed)
            self._tell(message)


def _makers(settings: Settings) -> tuple[Sampling | None, bool]:
    """What a local checkpoint's makers sample with, and whether they tuned it to answer."""
    if settings.engine not in LOCAL:
        return None, False
    with suppress(Trouble):
        found = hub.find(settings.model)
        return presets.checkpoint(found.path), hub.card(found.path, found.name).instruct
    return None, False
