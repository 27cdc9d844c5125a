"""The records of one stream in order, with values that depend on earlier entries."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen_tui.journal.encode import Record, ids_bytes, record, spelling
from qwen_tui.types import Added, Emitted, Entry, Event, Finished, Happened, Scored, Token, joined
from qwen_tui.vocab.decoder import Decoder


@dataclass(slots=True)
class _BranchStream:
    """A scribe's state for one branch: bytes of an incomplete character, ids, count."""

    decoder: Decoder = field(default_factory=Decoder)
    count: int = 0
    hash: Any = field(default_factory=hashlib.sha256)

    def feed(self, tokens: Sequence[Token]) -> str:
        self.count += len(tokens)
        self.hash.update(ids_bytes(tokens))
        return self.decoder.feed(joined(tokens))


class Scribe:
    """Writes the records of one stream in order.

    It adds the characters that a `tok` completes, counts and hashes each branch for its `end`, and
    spells every alternative's bytes once, so that a reader needs no vocabulary.
    """

    def __init__(self, *, spell: bool = True) -> None:
        self._spell = spell
        self._spelled: set[int] = set()
        self._branches: dict[tuple[str | None, int], _BranchStream] = {}

    def record(self, entry: Entry | Event, *, generation: str | None = None) -> Record:
        """`record(entry)` with the values that depend on the stream so far."""
        event: Any = entry
        if isinstance(entry, Happened):
            generation, event = entry.generation, entry.event
        if isinstance(event, Emitted):
            branch = self._branches.setdefault((generation, event.branch), _BranchStream())
            out = record(event, generation=generation, text=branch.feed(event.tokens))
            return self._spelling(out, event.tokens)
        if isinstance(event, Finished):
            branch = self._branches.pop((generation, event.branch), _BranchStream())
            out = record(event, generation=generation)
            out["n"] = branch.count
            out["ids_sha256"] = branch.hash.hexdigest()
            return out
        if isinstance(event, Scored):
            return self._spelling(record(event), event.tokens)
        if isinstance(event, Added):
            self._spelled.update(token.id for token in event.tokens)
        return record(event, generation=generation)

    def _spelling(self, out: Record, tokens: Sequence[Token]) -> Record:
        if not self._spell:
            return out
        for token in tokens:
            own = next((choice for choice in token.choices if choice.id == token.id), None)
            # A token that a stop string cut does not say how its id is spelled.
            if own is None or own.data == token.data:
                self._spelled.add(token.id)
        new = {
            choice.id: choice.data
            for token in tokens
            for choice in token.choices
            if choice.id not in self._spelled and choice.data
        }
        if new:
            self._spelled.update(new)
            out["spell"] = {str(id): spelling(data) for id, data in new.items()}
        return out
