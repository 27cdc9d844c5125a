"""The local backend: a loaded checkpoint that runs requests through the decoding loop.

Law: everything that was chosen, and all that an exact replay needs, is recorded before the first
token.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Final

from qwen_tui.backends.local.decoding.draft_model import Drafter
from qwen_tui.backends.local.decoding.engine import Engine
from qwen_tui.backends.local.decoding.loop import DecodingLoop
from qwen_tui.backends.local.decoding.prefix_constraint import Spellings
from qwen_tui.backends.local.kv.disk_cache import DiskCache
from qwen_tui.backends.local.kv.prefix_cache import PrefixCache
from qwen_tui.backends.local.nn.model import Model
from qwen_tui.backends.local.nn.qwen2_model import FastModel
from qwen_tui.backends.local.planning.plan import Plan
from qwen_tui.types import Abilities, Environment, Event, Request, Token
from qwen_tui.vocab import Vocab

MOST_CHOICES: Final = 100


class Local:
    """A `Backend` over one loaded checkpoint."""

    abilities = Abilities(choices=MOST_CHOICES, score=True, branches=True, token_ids=True)

    def __init__(
        self,
        name: str,
        model: Model,
        vocab: Vocab,
        plan: Plan,
        environment: Environment,
        *,
        why: tuple[str, ...] = (),
        chunk: int = 0,
        max_draft: int = 0,
        disk_cache: DiskCache | None = None,
        lookup: bool = True,
        draft: tuple[FastModel, int] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`chunk` 0 is the model's own; `max_draft` is how many ids may be drafted in a step, by
        prompt `lookup` or by a `draft` model, which comes with its context length.
        """
        self.name = name
        self.environment = environment
        self.context = plan.context
        self.why = plan.why + why
        self.warnings = plan.warnings
        self._model = model
        self._vocab = vocab
        self._closed = False
        known = min(vocab.rows_known, model.vocab_rows)
        self._engine = Engine(
            cache=PrefixCache(model),
            vocab=vocab,
            spellings=cache(lambda: Spellings(known, vocab.data, vocab.is_added)),
            known=known,
            context=plan.context,
            chunk=chunk or model.chunk,
            threads=plan.threads,
            dtype=plan.dtype,
            clock=clock,
            max_draft=max_draft,
            disk_cache=disk_cache,
            lookup=lookup,
            drafter=_drafter(draft, model, known) if draft else None,
        )

    def stream(self, request: Request, cancel: threading.Event) -> Iterator[Event]:
        """Run one generation; an empty prompt becomes `<|endoftext|>`."""
        end = self._vocab.end_of_text
        if not request.prompt and end is not None:
            request = replace(request, prompt=(Token(end, self._vocab.data(end)),))
        return DecodingLoop(self._engine, request, cancel).stream()

    @property
    def speculates(self) -> bool:
        """Whether it decodes speculatively, by prompt lookup or by a draft model."""
        return self._engine.max_draft > 0

    @property
    def drafts(self) -> bool:
        """Whether a draft model is loaded."""
        return self._engine.drafter is not None

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, on any device."""
        return self._model.weight_bytes

    @property
    def step_bytes(self) -> int:
        """Weight bytes that one decoding step reads."""
        return self._model.step_bytes

    @property
    def kv_bytes(self) -> int:
        """Bytes that one token adds to the KV cache; 0 if unknown."""
        return self._model.kv_bytes

    @contextmanager
    def speculating(self, *, lookup: bool, draft: bool) -> Iterator[None]:
        """A context in which ids are drafted by prompt lookup and by the draft model only as these
        say; with neither, decoding is plain.
        """
        engine = self._engine
        self._engine = replace(
            engine,
            max_draft=engine.max_draft if lookup or draft else 0,
            lookup=engine.lookup and lookup,
            drafter=engine.drafter if draft else None,
        )
        try:
            yield
        finally:
            self._engine = engine

    def finish(self, seconds: float, stopped: Callable[[], bool]) -> None:
        """Wait, at most `seconds`, until the last prompt is on disk; call it last."""
        if self._engine.disk_cache is not None:
            self._engine.disk_cache.finish(self._engine.cache, seconds, stopped)

    def close(self) -> None:
        """Free weights and cache; calling it twice is fine."""
        if not self._closed:
            self._closed = True
            try:
                if self._engine.disk_cache is not None:
                    self._engine.disk_cache.close(self._engine.cache)
            finally:
                self._model.close()
                if self._engine.drafter is not None:
                    self._engine.drafter.close()


def _drafter(draft: tuple[FastModel, int], model: Model, known: int) -> Drafter:
    """The drafter for a draft model."""
    draft_model, context = draft
    cost = min(1.0, draft_model.step_cost(model)) if isinstance(model, FastModel) else 1.0
    return Drafter(draft_model, known=known, context=context, cost=cost)
