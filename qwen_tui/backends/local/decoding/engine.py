"""What stays from one generation to the next: the model, what it holds, and how it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from qwen_tui.backends.local.decoding.draft_model import Drafter
from qwen_tui.backends.local.decoding.prefix_constraint import Spellings
from qwen_tui.backends.local.kv.prefix_cache import Held
from qwen_tui.backends.local.nn.model import Model

if TYPE_CHECKING:
    from qwen_tui.backends.local.kv.disk_cache import Archive


class Words(Protocol):
    """What the loop asks of a vocabulary; `qwen_tui.vocab.Vocab` has it."""

    def data(self, id: int, /) -> bytes:
        """A token's bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Engine:
    """`known` is how many ids the tokenizer has: logits beyond are padding, and cut off before any
    statistic. `chunk` is how many positions are prefilled at once. `clock` counts seconds. `ahead`
    is how many ids may be guessed in a step (0: none), by `lookup` of what stood before or by the
    `drafter`. `archive` keeps long texts on disk.
    """

    model: Model
    held: Held
    words: Words
    spellings: Callable[[], Spellings]
    known: int
    ends: frozenset[int]
    context: int
    chunk: int
    threads: int
    dtype: str
    clock: Callable[[], float]
    ahead: int = 0
    archive: Archive | None = None
    lookup: bool = True
    drafter: Drafter | None = None

    def memory(self) -> int:
        """Bytes that the model holds, and the draft model where there is one."""
        return self.model.memory() + (self.drafter.memory() if self.drafter is not None else 0)
