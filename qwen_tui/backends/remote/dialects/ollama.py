"""Ollama: its own `/api/generate` with `raw`; its `/v1/completions` puts a chat template around.

Law: text both ways; every sampling value is sent, for a model's Modelfile fills in what is not.
Shapes: Ollama's `docs/api.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from qwen_tui.backends.remote.dialects import Call, Piece
from qwen_tui.backends.remote.dialects.values import changing, given
from qwen_tui.types import Choice, Reason, Request, Sampling, Token, joined, text_of

PATH: Final = "/api/generate"
_NAMES: Final[Mapping[str, str]] = {
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repetition_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repeat_last_n": "repeat_last_n",
}
_SEEDS: Final = 2**31
_ENDS: Final[Mapping[str, Reason]] = {"stop": "eos", "length": "length"}


class Ollama:
    """Speaks to Ollama; `choices` is how many alternatives it showed when it was tried."""

    values = frozenset({*_NAMES, "temperature", "seed"})

    def __init__(self, model: str, choices: int) -> None:
        self._model = model
        self._choices = choices

    def unknown(self, sampling: Sampling) -> tuple[str, ...]:
        """The order of its stages is its own."""
        return tuple(name for name in changing(sampling) if name not in self.values)

    def calls(self, request: Request) -> tuple[Call, ...]:
        """One request a branch."""
        return tuple(
            Call(PATH, self._body(request, branch), branch) for branch in range(request.branches)
        )

    def pieces(self, data: Mapping[str, Any], call: Call) -> Iterator[Piece]:
        """One piece a line."""
        finish = _ENDS.get(data.get("done_reason") or "stop", "failed") if data["done"] else None
        yield Piece(call.first, _tokens(data), finish)

    def scoring(self, request: Request) -> Call | None:
        """Ollama gives no probabilities of a prompt."""
        return None

    def scored(self, data: Mapping[str, Any], request: Request) -> tuple[Token, ...]:
        """Never asked."""
        raise ValueError("Ollama scores nothing")

    def _body(self, request: Request, branch: int) -> dict[str, Any]:
        sampling = request.sampling
        options = given(sampling, _NAMES) | {
            "temperature": max(0.0, sampling.temperature),
            "num_predict": request.max_tokens,
        }
        if sampling.seed is not None:
            options["seed"] = (sampling.seed + branch) % _SEEDS
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": text_of(request.prompt),
            "raw": True,
            "stream": True,
            "options": options,
        }
        if self._choices:
            body |= {"logprobs": True, "top_logprobs": max(1, request.choices)}
        return body


def _tokens(data: Mapping[str, Any]) -> tuple[Token, ...]:
    """The tokens of a line: with probabilities if their bytes are the line's text."""
    text = data.get("response") or ""
    tokens = tuple(map(_token, data.get("logprobs") or ()))
    if tokens and joined(tokens) == text.encode():
        return tokens
    return (Token(-1, text.encode()),) if text else ()


def _token(found: Mapping[str, Any]) -> Token:
    top = [Choice(-1, _data(each), each["logprob"]) for each in found.get("top_logprobs") or ()]
    ranked = tuple(sorted(top, key=lambda each: (-each.logprob, each.data)))
    return Token(-1, _data(found), found["logprob"], ranked)


def _data(found: Mapping[str, Any]) -> bytes:
    return bytes(found["bytes"]) if found.get("bytes") else str(found["token"]).encode()
