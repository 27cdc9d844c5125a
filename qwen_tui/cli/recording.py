"""A one-shot completion as a session's entries: for `--json`, and for `--save` in a session file.

Law: what is printed and what is saved are the same entries.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from qwen_tui.journal import ids_sha256
from qwen_tui.types import (
    Added,
    Backend,
    Entry,
    Event,
    Started,
)

if TYPE_CHECKING:
    from qwen_tui.cli.completion import Plan


class Recording:
    """The entries that stand before the first event; `keep` and `close` write where `--save` says.

    `generation` is the generation's id; `name` is what a person calls the saved session ("" when
    nothing is saved).
    """

    def __init__(self, plan: Plan, backend: Backend, save: str | None) -> None:
        self.generation = secrets.token_hex(8)
        self.name = ""
        self.entries = tuple(_entries(plan, backend, self.generation))

    def keep(self, event: Event) -> None:
        """One event of the generation."""

    def close(self) -> None:
        """All is said: make it durable."""


def _entries(plan: Plan, backend: Backend, generation: str) -> list[Entry]:
    request = plan.request
    role = None if plan.text else "seed"
    root = Added(secrets.token_hex(8), None, 0, plan.source, role, plan.text, plan.document)
    nodes = tuple(secrets.token_hex(8) for _ in range(request.branches))
    grown = [Added(node, root.id, len(plan.document), "model") for node in nodes]
    prompt = {"n": len(request.prompt), "sha256": ids_sha256(request.prompt)}
    started = Started(generation, nodes, backend.environment.id, prompt, {})
    return [backend.environment, root, *grown, started]
