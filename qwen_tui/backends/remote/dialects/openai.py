"""Any other server with OpenAI's `/v1/completions`: text both ways.

Law: no token has an id (`Token.id == -1`); stop strings are cut here, because their servers differ
in what they leave of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from qwen_tui.backends.remote.dialects import Call, Piece
from qwen_tui.backends.remote.dialects.values import biases, changing, given
from qwen_tui.types import Choice, Reason, Request, Sampling, Token, text_of

PATH: Final = "/v1/completions"
_COMMON: Final = ("top_p", "presence_penalty", "frequency_penalty")
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "openai": _COMMON,
    "tgi": ("top_p", "frequency_penalty"),
    "sglang": (*_COMMON, "top_k", "min_p", "repetition_penalty"),
    "transformers": ("top_p", "frequency_penalty"),
}
"""The sampling values that each family carries out, beside temperature and seed."""
BIASED: Final = ("openai", "sglang")
"""The families that carry out `logit_bias`, whose ids need the server's tokenizer."""
_SEEDS: Final = 2**31
_UNBOUNDED: Final = 4096
"""Most tokens of a completion without a limit: many servers stop at 16 if they are told none."""


class OpenAI:
    """Speaks plain OpenAI completions; `engine` is the family, `choices` what was probed."""

    def __init__(self, model: str, engine: str, choices: int, context: int) -> None:
        names = NAMES.get(engine, NAMES["openai"])
        self._names = {name: name for name in names}
        self.values = frozenset({*names, "temperature", "seed"})
        if engine in BIASED:
            self.values |= {"logit_bias"}
        self._model = model
        self._choices = choices
        self._context = context

    def unknown(self, sampling: Sampling) -> tuple[str, ...]:
        """The penalties of these servers look at the whole text."""
        missing = [name for name in changing(sampling) if name not in self.values]
        if sampling.repeat_last_n == -1 and "repeat_last_n" in missing:
            missing.remove("repeat_last_n")
        return tuple(missing)

    def calls(self, request: Request) -> tuple[Call, ...]:
        """One request a branch: not all of these servers know `n`."""
        return tuple(
            Call(PATH, self._body(request, branch), branch) for branch in range(request.branches)
        )

    def pieces(self, data: Mapping[str, Any], call: Call) -> Iterator[Piece]:
        """One piece a choice."""
        for choice in data.get("choices") or ():
            yield Piece(call.first, text_tokens(choice), finish(choice))

    def scoring(self, request: Request) -> Call | None:
        """Without ids the server's tokens are not the document's."""
        return None

    def scored(self, data: Mapping[str, Any], request: Request) -> tuple[Token, ...]:
        """Never asked."""
        raise ValueError("these servers score nothing")

    def _body(self, request: Request, branch: int) -> dict[str, Any]:
        sampling = request.sampling
        limit = request.max_tokens if request.max_tokens >= 0 else self._context or _UNBOUNDED
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": text_of(request.prompt),
            "max_tokens": limit,
            "temperature": max(0.0, sampling.temperature),
            "stream": True,
            **given(sampling, self._names),
        }
        if self._choices:
            body["logprobs"] = max(1, min(request.choices, self._choices))
        if sampling.seed is not None:
            body["seed"] = (sampling.seed + branch) % _SEEDS
        if sampling.logit_bias and "logit_bias" in self.values:
            body["logit_bias"] = biases(sampling, -100.0)
        return body


def finish(choice: Mapping[str, Any]) -> Reason | None:
    """Why a choice ended; "stop" is the end of the text, for no stop strings are sent."""
    reason = choice.get("finish_reason")
    if not reason:
        return None
    ends: Mapping[str, Reason] = {"length": "length", "content_filter": "failed"}
    return ends.get(reason, "eos")


def text_tokens(choice: Mapping[str, Any]) -> tuple[Token, ...]:
    """The tokens of a choice without ids: each with its probabilities if the server gives pieces
    that add up to the text, else the text as one.
    """
    text = choice.get("text") or ""
    if not isinstance(text, str):
        raise TypeError("the text is no string")
    found = choice.get("logprobs") or {}
    pieces, logprobs = found.get("tokens") or [], found.get("token_logprobs") or []
    if pieces and len(pieces) == len(logprobs) and "".join(pieces) == text:
        tables = found.get("top_logprobs") or [None] * len(pieces)
        return tuple(
            Token(-1, piece.encode(), logprob, _ranked(table))
            for piece, logprob, table in zip(pieces, logprobs, tables, strict=True)
            if piece
        )
    return (Token(-1, text.encode()),) if text else ()


def _ranked(table: Mapping[str, float] | None) -> tuple[Choice, ...]:
    ranked = sorted((table or {}).items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple(Choice(-1, text.encode(), logprob) for text, logprob in ranked)
