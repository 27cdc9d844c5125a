"""Chat turns to tokens through the tokenizer's own template, in a sandbox.

Law: finished turns are never rendered again, only the new end is encoded; typed text is ordinary
text whatever it spells, only the template's own text is parsed for special tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeAlias

from qwen_tui.types import BAD_DATA, Token, Trouble, text_of
from qwen_tui.vocab import Vocab

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE_CAP: Final = 1 << 20
"""Most characters a template may produce (1 MiB), intermediate strings included."""

_PAD_WIDTH: Final = re.compile(r"%[^a-zA-Z%]*(\*|\d{5,})")

Turn: TypeAlias = tuple[str, str]
"""One turn: (role, content)."""


class TurnTokens(NamedTuple):
    """The tokens that a new turn adds to the path, in order.

    `before` and `after` are the template's (shown folded): the end of the previous turn and the
    opening of this one, then its end and the opening of the answer. `tokens` is the typed text.
    """

    before: tuple[Token, ...]
    tokens: tuple[Token, ...]
    after: tuple[Token, ...]


def tail(
    vocab: Vocab,
    turns: Sequence[Turn],
    turn: Turn,
    *,
    path: Sequence[Token] = (),
    reply: bool = True,
    now: Callable[[], datetime] = datetime.now,
) -> TurnTokens:
    """The tokens that `turn` adds after the finished `turns`.

    `path` is what is in the tree already: an end-of-turn token that the model emitted, or an
    opening at its end, is not added again. The first turn carries what the template puts
    before it, its system prompt too. With `reply` the assistant's turn is opened; without (a system
    turn, an answer written by the person) the turn stays open, and the next one's `before` closes
    it. Trouble (65) when there is no template or it fails.
    """
    earlier = [each for each in turns if each[0]]
    text, marks = _rendered(vocab, [role for role, _ in (*earlier, turn)], reply, now)
    opened = marks[-2][1] if earlier else 0
    return TurnTokens(
        _unwritten(vocab, text[opened : marks[-1][0]], path),
        vocab.encode(turn[1], special=False),
        vocab.encode(text[marks[-1][1] :]) if reply else (),
    )


def opening(
    vocab: Vocab,
    turns: Sequence[Turn],
    *,
    path: Sequence[Token] = (),
    now: Callable[[], datetime] = datetime.now,
) -> tuple[Token, ...]:
    """The template's tokens that close the last of `turns` and open an answer; () when they stand
    at the end of `path` already.
    """
    roles = [role for role, _ in turns if role]
    if not roles:
        return ()
    text, marks = _rendered(vocab, roles, True, now)
    return _unwritten(vocab, text[marks[-1][1] :], path)


def turn_stops(vocab: Vocab, *, now: Callable[[], datetime] = datetime.now) -> tuple[str, ...]:
    """Stop strings that end an answer: the template's end-of-turn token if it is not an eos of the
    checkpoint (a base model with a chat template), else none.
    """
    text, marks = _rendered(vocab, ["user", "assistant", "user"], False, now)
    closing = vocab.encode(text[marks[1][1] : marks[2][0]])
    ends = [token for token in closing if vocab.is_added(token.id)][:1]
    return tuple(text_of(ends) for token in ends if token.id not in vocab.eos_ids)


def _unwritten(vocab: Vocab, template: str, path: Sequence[Token]) -> tuple[Token, ...]:
    """The tokens of the template's text that are not at the end of the path yet: the path may end
    with all of them, or with the first up to an added token.

    Ids are compared, not text: a spelling that a person typed is never taken for the template's.
    """
    wanted = vocab.encode(template)
    ids = [token.id for token in wanted]
    ends = [len(ids)]
    if path and vocab.is_added(path[-1].id):
        ends += [place for place in range(len(ids), 0, -1) if ids[place - 1] == path[-1].id]
    for end in ends:
        if 0 < end <= len(path) and [token.id for token in path[len(path) - end :]] == ids[:end]:
            return wanted[end:]
    return wanted


def _rendered(
    vocab: Vocab, roles: Sequence[str], reply: bool, now: Callable[[], datetime]
) -> tuple[str, list[tuple[int, int]]]:
    """The template's text around placeholders for the contents, and the offsets of each.

    Contents never pass through the template: it can neither trim nor parse nor repeat them.
    """
    if vocab.chat_template is None:
        raise Trouble(
            "this checkpoint has no chat template",
            hint="chat needs an Instruct checkpoint, e.g. Qwen/Qwen2.5-7B-Instruct",
            code=BAD_DATA,
        )
    contents = [f"\uf8f0{place}\uf8f1" for place in range(len(roles))]
    messages = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=True)
    ]
    text = _write(vocab.chat_template, vocab.spellings, messages, reply, now)
    marks: list[tuple[int, int]] = []
    at = 0
    for place, content in enumerate(contents):
        start = text.find(content, at)
        if start < 0 and place < len(contents) - 2:
            marks.append((at, at))
            continue
        if start < 0:
            raise Trouble(
                f"the chat template leaves out a turn of role {roles[place]!r}",
                hint="this template does not know that role, or wants another order of turns",
                code=BAD_DATA,
            )
        at = start + len(content)
        marks.append((start, at))
    return text, marks


def _write(
    source: str,
    spellings: Mapping[str, str],
    messages: Sequence[Mapping[str, str]],
    reply: bool,
    now: Callable[[], datetime],
) -> str:
    """Run the template, at most `TEMPLATE_CAP` characters of it; any failure is Trouble."""
    written: list[str] = []
    size = 0
    try:
        pieces = _compiled(source).generate(
            **spellings,
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=reply,
            strftime_now=lambda form: now().strftime(form),
        )
        for piece in pieces:
            size += len(piece)
            if size > TEMPLATE_CAP:
                _raise(f"it writes more than {TEMPLATE_CAP:,} characters")
            written.append(piece)
    except Exception as error:  # a template is a stranger's program: it can raise anything
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise Trouble(
            f"the chat template fails: {why}",
            hint="complete works without the template: leave chat, or use another checkpoint",
            code=BAD_DATA,
        ) from error
    return "".join(written)


def _raise(message: str) -> NoReturn:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers' filter: jinja's own escapes HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _bounded(operator: str, left: Any, right: Any) -> bool:
    """Whether an operation's result stays below the cap; only strings and lists can exceed it."""
    if operator == "**":
        return abs(right) <= 64 if isinstance(right, int | float) else True
    if operator == "%":
        return not (isinstance(left, str) and _PAD_WIDTH.search(left))
    sizes = [len(side) if isinstance(side, str | list | tuple) else None for side in (left, right)]
    if operator == "+":
        return sum(size or 0 for size in sizes) <= TEMPLATE_CAP
    for size, count in zip(sizes, (right, left), strict=True):
        if size is not None and isinstance(count, int) and size * count > TEMPLATE_CAP:
            return False
    return True


@lru_cache(maxsize=4)
def _compiled(source: str) -> Template:
    """The template in transformers' environment, with bounded string growth."""
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.runtime import Context
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's text for training: here it is just its body."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**", "+", "%"})

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
            if not _bounded(operator, left, right):
                raise SecurityError(f"it builds more than {TEMPLATE_CAP:,} characters")
            return super().call_binop(context, operator, left, right)

    sandbox = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    sandbox.filters["tojson"] = _tojson
    sandbox.globals["raise_exception"] = _raise
    return sandbox.from_string(source)
