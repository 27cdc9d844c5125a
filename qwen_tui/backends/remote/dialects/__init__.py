"""The dialect of each family of servers: from a request to HTTP calls, and from their results to
pieces.

Law: a dialect only translates; it opens no connection and keeps no state between two objects of a
stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from qwen_tui.types import Reason, Request, Sampling, Token


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request: its completions are the branches `first` … `first + count - 1`."""

    path: str
    body: Mapping[str, Any]
    first: int = 0
    count: int = 1


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of one stream object that concerns one branch.

    `finish` is why the branch ended ("": it continues), `stop` the stop string that the server
    names. `reused` is how many prompt tokens were in the server's cache (-1: unknown); `read` how
    many it has prefilled so far (-1: unknown).
    """

    branch: int
    tokens: tuple[Token, ...] = ()
    finish: Reason | None = None
    stop: str = ""
    reused: int = -1
    read: int = -1


class Dialect(Protocol):
    """One family of servers. `values` are the sampling values it supports."""

    values: frozenset[str]

    def unknown(self, sampling: Sampling) -> tuple[str, ...]:
        """The set values that this server would not apply as they are."""
        ...

    def calls(self, request: Request) -> tuple[Call, ...]:
        """The calls for a request; values from `unknown` are omitted."""
        ...

    def pieces(self, data: Mapping[str, Any], call: Call) -> Iterator[Piece]:
        """The pieces of a stream object; a wrong shape raises KeyError, TypeError, ValueError or
        IndexError.
        """
        ...

    def scoring(self, request: Request) -> Call | None:
        """The call that returns the prompt's probabilities; None if the server cannot."""
        ...

    def scored(self, data: Mapping[str, Any], request: Request) -> tuple[Token, ...]:
        """The prompt's tokens with their probabilities, from the answer to `scoring`."""
        ...
