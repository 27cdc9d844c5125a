"""The course of one generation: its branches as they grow, and the record of how they were run.

Law: a replay that follows the schedule runs the same forwards, row for row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qwen_tui.backends.local.decoding.sampling import Window
from qwen_tui.backends.stop_strings import StopWatch
from qwen_tui.types import Stats


@dataclass(slots=True)
class Branch:
    """One completion as it grows: `ids` are its own, after the prompt."""

    index: int
    window: Window
    watch: StopWatch
    prefix: bytes
    ids: list[int] = field(default_factory=list)
    emitted: int = 0
    drafted: int = 0
    accepted: int = 0
    first: float = 0.0
    last: float = 0.0
    done: bool = False


@dataclass(slots=True)
class Course:
    """What was run so far. `chunks` are positions of the prompt at a time, `batches` (token, rows)
    where the number of rows changed, `drafts` (token, guesses) for every step that guessed; bytes
    at most.
    """

    prompt: int
    threads: int
    reused: int = 0
    prefill_s: float = 0.0
    peak: int = 0
    chunks: list[int] = field(default_factory=list)
    batches: list[tuple[int, int]] = field(default_factory=list)
    drafts: list[tuple[int, int]] = field(default_factory=list)

    def step(self, token: int, rows: int, guesses: int) -> None:
        """A decoding step is about to run for so many rows, after `token` tokens."""
        if not self.batches or self.batches[-1][1] != rows:
            self.batches.append((token, rows))
        if guesses:
            self.drafts.append((token, guesses))

    def held(self, bytes_: int) -> None:
        """So much memory was seen in use."""
        self.peak = max(self.peak, bytes_)

    def stats(self, branch: Branch, began: float) -> Stats:
        """The figures of one branch; `began`: when the request came."""
        return Stats(
            prompt=self.prompt,
            reused=self.reused,
            emitted=branch.emitted,
            drafted=branch.drafted,
            accepted=branch.accepted,
            prefill_s=self.prefill_s,
            ttft_s=branch.first - began if branch.first else 0.0,
            decode_s=branch.last - branch.first,
            peak_bytes=self.peak,
        )

    def schedule(self, branches: int) -> dict[str, Any]:
        """What a replay must follow for the same numbers, as it is recorded."""
        return {
            "chunks": list(self.chunks),
            "reused": self.reused,
            "batch": [list(pair) for pair in self.batches] or [[0, branches]],
            "drafts": [list(pair) for pair in self.drafts],
            "threads": self.threads,
        }
