"""How each family of servers is spoken to: a request as calls, and what comes back as pieces.

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
    """What one object of a stream says of one branch.

    `finish` is why the branch ended ("": it goes on), `stop` the stop string that the server names.
    `reused` is how many tokens of the prompt were in the server's cache (-1: it does not say);
    `read` how many it has read so far (-1: it does not say).
    """

    branch: int
    tokens: tuple[Token, ...] = ()
    finish: Reason | None = None
    stop: str = ""
    reused: int = -1
    read: int = -1


class Dialect(Protocol):
    """One family of servers. `values` are the sampling values it carries out."""

    values: frozenset[str]

    def unknown(self, sampling: Sampling) -> tuple[str, ...]:
        """The values that are set and that this server would not carry out as they stand."""
        ...

    def calls(self, request: Request) -> tuple[Call, ...]:
        """What to send for a request; values from `unknown` are left out."""
        ...

    def pieces(self, data: Mapping[str, Any], call: Call) -> Iterator[Piece]:
        """What an object of the stream says; a wrong shape raises KeyError, TypeError, ValueError
        or IndexError.
        """
        ...

    def scoring(self, request: Request) -> Call | None:
        """What to send so that the prompt's probabilities come back; None where that cannot be."""
        ...

    def scored(self, data: Mapping[str, Any], request: Request) -> tuple[Token, ...]:
        """The prompt's tokens with their probabilities, from the answer to `scoring`."""
        ...
