"""What persists between generations: the model with its cache, and the options it runs with."""

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
    """What decoding needs of a vocabulary; `qwen_tui.vocab.Vocab` has it."""

    def data(self, id: int, /) -> bytes:
        """A token's bytes."""
        ...

    def ends(self, prompt: Iterable[Token], /) -> frozenset[int]:
        """The ids that end a completion of this prompt."""
        ...


@dataclass(frozen=True, slots=True)
class Engine:
    """`known` is how many ids the tokenizer has; logits beyond are padding and are cut off first.
    `chunk`: positions prefilled at once. `clock` counts seconds. `max_draft`: most ids drafted in a
    step (0: none), by prompt `lookup` or by the `drafter`.
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
        """The model behind the cache; only the cache may change its state."""
        return self.cache.model

    def memory(self) -> int:
        """Bytes of the model, and of the draft model where there is one."""
        return self.model.memory() + (self.drafter.memory() if self.drafter is not None else 0)
