"""What stays from one generation to the next: the model with its cache, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from qwen_tui.backends.local.decoding.draft_model import Drafter
from qwen_tui.backends.local.decoding.prefix_constraint import Spellings
from qwen_tui.backends.local.kv.disk_cache import DiskCache
from qwen_tui.backends.local.kv.prefix_cache import PrefixCache
from qwen_tui.backends.local.nn.model import Model
from qwen_tui.types import Token


class TokenTable(Protocol):
    """What decoding asks of a vocabulary; `qwen_tui.vocab.Vocab` has it."""

    def data(self, id: int, /) -> bytes:
        """A token's bytes."""
        ...

    def ends(self, prompt: Iterable[Token], /) -> frozenset[int]:
        """The ids that end a completion of this prompt."""
        ...


@dataclass(frozen=True, slots=True)
class Engine:
    """`known` is how many ids the tokenizer has: logits beyond are padding, cut off before any
    statistic. `chunk`: positions prefilled at once. `clock` counts seconds. `max_draft`: most ids
    drafted in a step (0: none), by prompt `lookup` or by the `drafter`.
    """

    cache: PrefixCache
    vocab: TokenTable
    spellings: Callable[[], Spellings]
    known: int
    context: int
    chunk: int
    threads: int
    dtype: str
    clock: Callable[[], float]
    max_draft: int = 0
    disk_cache: DiskCache | None = None
    lookup: bool = True
    drafter: Drafter | None = None

    @property
    def model(self) -> Model:
        """The model behind the cache; only the cache changes it."""
        return self.cache.model

    def memory(self) -> int:
        """Bytes of the model, and of the draft model where there is one."""
        return self.model.memory() + (self.drafter.memory() if self.drafter is not None else 0)
