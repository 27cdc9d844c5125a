"""The roads that lead on from a place of the tree: what a model wrote there, to its tips.

Law: a road runs through what a model wrote and what a person took instead, never through typing; its
tokens are `path(tip)[at:]`.
"""

from __future__ import annotations

from typing import Final

from qwen_tui.session.tree import Node, Place, Tree
from qwen_tui.types import Token

ROADS: Final = frozenset({"model", "choice"})
"""Sources a road runs through."""


def tips(tree: Tree, head: Place) -> list[str]:
    """The last node of every road from `head`, in the order they were added."""
    place = tree.resolve(*head)
    found: list[str] = []
    stack = [id for id in tree.shown(place) if tree[id].source in ROADS]
    if place.node is not None:
        standing = tree[place.node]
        if standing.source in ROADS and standing.end > place.at:
            stack.append(standing.id)
    seen = set(stack)
    while stack:
        id = stack.pop()
        node = tree[id]
        onward = [
            child
            for child in tree.children(id)
            if tree[child].at > place.at and tree[child].source in ROADS and not tree[child].hidden
        ]
        if not any(tree[child].at == node.end for child in onward):
            found.append(id)
        fresh = [child for child in onward if child not in seen]
        seen.update(fresh)
        stack += fresh
    wanted = set(found)
    return [id for id in tree.nodes if id in wanted]


def tokens_from(tree: Tree, head: Place, tip: str | None) -> list[Token]:
    """The tokens of a road from `head` to the end of `tip`."""
    return tree.path(tip)[head.at :] if tip is not None else []


def through(tree: Tree, head: Place, tip: str) -> list[Node]:
    """The nodes a road runs through, first to last."""
    return [piece.node for piece in tree.chain(tip) if piece.stop > head.at]


def place_on(tree: Tree, head: Place, tip: str, count: int) -> Place:
    """The place after `count` tokens of a road."""
    return tree.resolve(tip, head.at + count)


def word_length(tokens: list[Token]) -> int:
    """How many tokens the next word of a road takes: leading blanks and what is not blank, at least
    one token, never part of one.
    """
    data = b""
    for count, token in enumerate(tokens, 1):
        data += token.data
        following = tokens[count].data if count < len(tokens) else b" "
        if data.strip() and (following[:1].isspace() or data[-1:] == b"\n"):
            return count
    return len(tokens)
