"""Ids of text that is in a session's tree but not in its document: rejected, deleted, undone.

A model that is asked again often repeats rejected text, so prompt lookup searches it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from qwen_tui.session.tree import Place, Tree
from qwen_tui.types import Token

MOST_IDS: Final = 16_384
"""Most ids returned; the newest texts come first, since they are the most likely to be repeated."""
MOST_NODES: Final = 64
BEFORE: Final = 4
"""Ids before the fork that are included, so that a lookup can match the first id after it."""


def discarded_ids(tree: Tree, head: Place) -> tuple[tuple[int, ...], ...]:
    """Ids of the texts that are not in the document, the newest last; each begins a few ids before
    its fork. Text without ids is left out.
    """
    found: list[tuple[int, ...]] = []
    room = MOST_IDS
    for before, tokens in islice(_texts(tree, head), MOST_NODES):
        ids = tuple(token.id for token in (*before, *tokens[:room]) if token.id >= 0)
        if len(ids) > len(before):
            found.append(ids)
            room -= len(ids)
        if room <= 0:
            break
    return tuple(reversed(found))


def _texts(tree: Tree, head: Place) -> Iterator[tuple[list[Token], list[Token]]]:
    """The tokens before each text, and the text; the newest first."""
    taken = {piece.node.id: piece.stop for piece in tree.chain(head.node, head.at)}
    for node in reversed(list(tree.nodes.values())):
        start = taken.get(node.id, node.at)
        tokens = node.tokens[start - node.at :]
        if not tokens or node.folded:
            continue
        near = max(0, start - BEFORE)
        holder = node.id if start > node.at else node.parent
        yield tree.after(holder, near)[: start - near], tokens
