"""Fits prompt and completion into the context.

Law: nothing is cut silently, and a requested number of tokens is not reduced unless the person
chose to; a refusal names all numbers involved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from qwen_tui.types import BAD_DATA, Token, Trouble

Truncate: TypeAlias = Literal["left", "middle"]

ROOM: Final = 256
"""Tokens left for a completion without an end (`-n -1`) when its prompt has to be truncated."""
SHORTENS: Final = "--truncate left|middle shortens the prompt"
"""The hint for a prompt that is too long, on a command line."""


class Fitted(NamedTuple):
    """What goes to the backend. `len` of the prompt before and after tells what was dropped
    (`dropped_note` says it in words).
    """

    prompt: tuple[Token, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Window:
    """The space for a request.

    `tokens` is the most that prompt and completion may have together (0: unknown, nothing is cut);
    `truncate`, `explicit` and `shortens` are those of `fit`.
    """

    tokens: int = 0
    truncate: Truncate | None = None
    explicit: bool = False
    shortens: str = SHORTENS

    def fit(
        self,
        prompt: Sequence[Token],
        max_tokens: int,
        *,
        keep: int = 0,
        note: Callable[[str], None] | None = None,
    ) -> Fitted:
        """`fit` into this window; `note` gets a line if the prompt was shortened."""
        found = fit(
            prompt,
            max_tokens,
            self.tokens,
            self.truncate,
            self.explicit,
            keep=keep,
            shortens=self.shortens,
        )
        dropped = dropped_note(len(prompt), len(found.prompt), self.truncate)
        if dropped and note is not None:
            note(dropped)
        return found


def fit(
    prompt: Sequence[Token],
    max_tokens: int,
    context: int,
    truncate: Truncate | None = None,
    explicit: bool = False,
    *,
    keep: int = 0,
    shortens: str = SHORTENS,
) -> Fitted:
    """Fit `prompt` and `max_tokens` into `context` tokens (0: unknown, nothing is done).

    `max_tokens` -1 runs until the context is full; 0 only scores. A default one (not `explicit`)
    is cut to what the context leaves; an explicit one that does not fit is Trouble (65), as is a
    prompt that leaves no room. With `truncate` the prompt gives way instead: "left" drops the
    oldest tokens, "middle" keeps head and tail in equal parts, both keep the first `keep`; a cut
    never leaves half a character's bytes in front of what follows it. Of a known context,
    max_tokens is returned as a number, never -1. `shortens` says what a person can do about a
    long prompt.
    """
    if context <= 0:
        return Fitted(tuple(prompt), max_tokens)
    length = len(prompt)
    room = context - length
    wanted = room if max_tokens < 0 else max_tokens if explicit else min(max_tokens, room)
    least = 0 if max_tokens == 0 else 1
    if room >= least and wanted <= room:
        return Fitted(tuple(prompt), wanted)
    if truncate is None:
        raise _refusal(length, max_tokens, context, explicit, shortens)
    if explicit and max_tokens >= context:
        raise Trouble(
            f"{max_tokens:,} tokens to generate leave no room for a prompt in a context of "
            f"{context:,}",
            hint=f"ask for fewer: -n {max(1, context // 2)}",
            code=BAD_DATA,
        )
    if max_tokens < 0:
        wanted = min(ROOM, max(1, context // 2))
    else:
        wanted = max_tokens if explicit else max(least, min(max_tokens, context // 2))
    cut = _left if truncate == "left" else _middle
    rest = cut(prompt[keep:], context - wanted - keep)
    if not rest:
        raise _refusal(length, max_tokens, context, explicit, shortens)
    kept = (*prompt[:keep], *rest)
    return Fitted(kept, context - len(kept) if max_tokens < 0 else wanted)


def dropped_note(before: int, after: int, truncate: Truncate | None) -> str:
    """One line about truncation; "" if nothing was dropped. Counts are prompt tokens."""
    if after >= before:
        return ""
    where = "from the middle" if truncate == "middle" else "from the beginning"
    return f"prompt truncated: {before - after:,} of {before:,} tokens dropped {where}"


def _refusal(length: int, max_tokens: int, context: int, explicit: bool, shortens: str) -> Trouble:
    room = context - length
    if max_tokens > 0 and explicit and room > 0:
        return Trouble(
            f"prompt {length:,} + {max_tokens:,} to generate = {length + max_tokens:,} tokens, "
            f"{length + max_tokens - context:,} more than the context of {context:,}",
            hint=f"-n {room} fits; {shortens}",
            code=BAD_DATA,
        )
    over = f"{-room:,} more than" if room < 0 else "as many as"
    return Trouble(
        f"the prompt has {length:,} tokens, {over} the context of {context:,} holds",
        hint=shortens,
        code=BAD_DATA,
    )


def _left(prompt: Sequence[Token], keep: int) -> tuple[Token, ...]:
    return _whole(prompt[max(0, len(prompt) - keep) :]) if keep > 0 else ()


def _middle(prompt: Sequence[Token], keep: int) -> tuple[Token, ...]:
    head = max(0, keep // 2)
    return (*prompt[:head], *_left(prompt, keep - head))


def _whole(tokens: Sequence[Token]) -> tuple[Token, ...]:
    """The tokens from the first that does not begin inside a character (at most three continuation
    bytes are dropped).
    """
    for start, token in enumerate(tokens[:4]):
        if token.data and token.data[0] & 0xC0 != 0x80:
            return tuple(tokens[start:])
    return tuple(tokens)
