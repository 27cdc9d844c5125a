"""Opens a model while the interface runs: first the tokenizer, then the runner.

Law: nothing here blocks the event loop or knows Textual; every outcome is reported as a value, from
any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from qwen_tui import hub, presets
from qwen_tui.settings import LOCAL, Settings
from qwen_tui.tui.context import StudioContext
from qwen_tui.tui.text.wording import progress_words
from qwen_tui.types import Backend, Progress, Sampling, Trouble

if TYPE_CHECKING:
    from qwen_tui.vocab import Vocab


class SpecialIds:
    """The set of special token ids, tested one by one."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab

    def __contains__(self, id: object) -> bool:
        return isinstance(id, int) and 0 <= id < self._vocab.size and self._vocab.is_special(id)


@dataclass(frozen=True, slots=True)
class VocabRead:
    """The tokenizer was read (None: only the server has it); with the checkpoint's recommended
    sampling, and whether it was tuned to answer.
    """

    vocab: Vocab | None
    checkpoint: Sampling | None
    instruct: bool
    special: SpecialIds | frozenset[int]


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is open."""

    model: Backend


@dataclass(frozen=True, slots=True)
class Failed:
    """The model could not be opened."""

    trouble: Trouble


Report: TypeAlias = Progress | VocabRead | Ready | Failed
"""Reports of opening a model; of several `Progress` only the newest counts."""


class Loader:
    """Opens the first model and every later one; `report` is called from any thread."""

    def __init__(self, context: StudioContext, report: Callable[[Report], None]) -> None:
        self.reading = False
        """The tokenizer is being read."""
        self.failed = False
        """The last opening did not succeed; `begin` tries again."""
        self.estimate = Estimate()
        self._context = context
        self._report = report
        self._turn = 0

    def begin(self, settings: Settings, *, swap: bool = False) -> None:
        """Read the tokenizer on a thread, then open the model; `swap`: replacing another one."""
        self._turn += 1
        turn = self._turn
        self.reading, self.failed = True, False
        self._context.runner.on_progress = self._report

        def work() -> None:
            try:
                vocab = self._context.vocab(settings)
            except Trouble as trouble:
                self._end_reading(turn)
                self._say(turn, Failed(trouble))
                return
            self._end_reading(turn)
            special = SpecialIds(vocab) if vocab is not None else frozenset[int]()
            self._say(turn, VocabRead(vocab, *_recommended(settings), special))
            if turn == self._turn:
                self._open(settings, turn, swap)

        threading.Thread(target=work, name="tokenizer", daemon=True).start()

    def words(self, now: float | None = None) -> str:
        """The current stage and its remaining time; "" if nothing is loading. `now`: monotonic
        seconds.
        """
        if self.reading:
            return "reading the tokenizer"
        if self._context.runner.state != "loading":
            return ""
        progress = self.estimate.progress
        if progress is None:
            return "opening the model"
        left = self.estimate.seconds_left(time.monotonic() if now is None else now)
        words = progress_words(progress)
        return f"{words} · {left:.0f} s left" if left is not None else words

    def _end_reading(self, turn: int) -> None:
        """The tokenizer of this opening was read, or cannot be."""
        if turn == self._turn:
            self.reading = False

    def _open(self, settings: Settings, turn: int, swap: bool) -> None:
        runner = self._context.runner
        future = runner.swap(self._context.opener(settings)) if swap else runner.load()

        def done(future: Future[Backend]) -> None:
            error = future.exception()
            if error is None:
                self._say(turn, Ready(future.result()))
            elif isinstance(error, Trouble):
                self._say(turn, Failed(error))
            else:
                self._say(turn, Failed(Trouble(str(error))))

        future.add_done_callback(done)

    def _say(self, turn: int, report: Report) -> None:
        """Pass on a report, unless another model was requested meanwhile."""
        if turn == self._turn:
            self.failed = isinstance(report, Failed)
            self._report(report)


def _recommended(settings: Settings) -> tuple[Sampling | None, bool]:
    """A local checkpoint's recommended sampling, and whether it was tuned to answer."""
    if settings.engine not in LOCAL:
        return None, False
    with suppress(Trouble):
        found = hub.find(settings.model)
        return presets.checkpoint(found.path), hub.card(found.path, found.name).instruct
    return None, False


@dataclass(slots=True)
class Estimate:
    """Estimates the remaining time of a stage from its progress so far."""

    stage: str = ""
    began: float = 0.0
    first: int = 0
    progress: Progress | None = None

    def update(self, progress: Progress, now: float) -> None:
        """A newer report at `now` (monotonic seconds)."""
        if progress.stage != self.stage:
            self.stage, self.began, self.first = progress.stage, now, progress.done
        self.progress = progress

    def seconds_left(self, now: float) -> float | None:
        """Seconds until the stage ends at its speed so far; None if unknown."""
        progress = self.progress
        if progress is None or not progress.total or progress.done <= self.first:
            return None
        passed = now - self.began
        if passed < 0.5:
            return None
        return passed * (progress.total - progress.done) / (progress.done - self.first)
