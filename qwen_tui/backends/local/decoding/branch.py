"""The state of one generation: its branches as they grow, and the schedule of forward passes.

Law: a replay that follows the schedule runs the same forward passes, row for row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qwen_tui.backends.local.decoding.history import History
from qwen_tui.backends.stop_strings import StopWatch
from qwen_tui.types import Stats


@dataclass(slots=True)
class DecodingBranch:
    """One branch as it grows.

    `ids` are its own, after the prompt; `emitted` of them were sent on; `prefix` are the bytes that
    its first tokens must still spell; times are seconds of the engine's clock.
    """

    index: int
    history: History
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
class Schedule:
    """What was run, for an exact replay.

    `chunks`: prompt positions run at a time; `batches`: (token, rows) where the number of rows
    changed; `drafts`: (token, ids drafted) of every step that verified some; `peak`: bytes.
    """

    prompt: int
    threads: int
    reused: int = 0
    prefill_s: float = 0.0
    peak: int = 0
    chunks: list[int] = field(default_factory=list)
    batches: list[tuple[int, int]] = field(default_factory=list)
    drafts: list[tuple[int, int]] = field(default_factory=list)

    def step(self, token: int, rows: int, drafted: int) -> None:
        """Record that a decoding step of `rows` rows is about to run, after `token` tokens."""
        if not self.batches or self.batches[-1][1] != rows:
            self.batches.append((token, rows))
        if drafted:
            self.drafts.append((token, drafted))

    def used(self, bytes_: int) -> None:
        """Record that so many bytes of memory were in use."""
        self.peak = max(self.peak, bytes_)

    def stats(self, branch: DecodingBranch, began: float) -> Stats:
        """The statistics of one branch; `began`: when the request came, in seconds of the engine's
        clock.
        """
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

    def recorded(self, branches: int) -> dict[str, Any]:
        """The schedule as a session file stores it."""
        return {
            "chunks": list(self.chunks),
            "reused": self.reused,
            "batch": [list(pair) for pair in self.batches] or [[0, branches]],
            "drafts": [list(pair) for pair in self.drafts],
            "threads": self.threads,
        }
