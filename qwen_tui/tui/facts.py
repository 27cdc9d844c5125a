"""Values that widgets show: the completion and its tabs, the fields of the status line.

Law: plain data, so that what is shown can be decided and tested without a screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from qwen_tui.session.tree import Place
from qwen_tui.types import Reason, Sampling, Token

TabState: TypeAlias = Literal["running", "ended", "interrupted", "failed"]


@dataclass(frozen=True, slots=True)
class StatusFacts:
    """The fields of the status line. An unknown number is None or 0; `context` 0: no known
    limit.
    """

    model: str = ""
    device: str = ""
    dtype: str = ""
    state: str = ""
    busy: bool = False
    tokens: int | None = None
    exact: bool = True
    context: int = 0
    tok_s: float = 0.0
    ttft_s: float = 0.0
    seed: int | None = None
    saved: str = ""
    saved_style: str = "$success"
    file: str = ""
    chat: bool = False
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ShownSampling:
    """What the sampling controls know: what the `checkpoint`'s makers sample with, the last seed,
    what the shown completion was `made` with, and which key makes `several` completions.
    """

    checkpoint: Sampling | None
    last_seed: int | None
    made: Sampling | None
    several: str


@dataclass(frozen=True, slots=True)
class Tab:
    """One completion among its siblings."""

    state: TabState
    tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """The shown completion: its tokens, the conversation before it, why it ended. `place` is the
    head's: at another place it is other tokens.
    """

    place: Place
    tokens: Sequence[Token]
    context: str
    reason: Reason | None


@dataclass(frozen=True, slots=True)
class CompletionFrame:
    """The frame around the tokens: title, siblings as tabs (`shown` None: none of them is on the
    screen), the text of an empty pane. `stale`: the text was edited since.
    """

    title: str
    tabs: Sequence[Tab]
    shown: int | None
    hint: str
    stale: bool
