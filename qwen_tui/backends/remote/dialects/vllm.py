"""vLLM: `/v1/completions` with token ids both ways.

Law: ids are exact; text is derived from them. Shapes: vLLM's own
`entrypoints/openai/completion/protocol.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from qwen_tui.backends.remote.dialects import Call, Piece, openai
from qwen_tui.backends.remote.dialects.values import biases, changing, given
from qwen_tui.types import Choice, Reason, Request, Sampling, Token, text_of
from qwen_tui.vocab import Vocab

PATH: Final = "/v1/completions"
LEAST_BIAS: Final = -100.0
"""vLLM clamps a bias to this; so far below, nothing is ever drawn."""
_NAMES: Final[Mapping[str, str]] = {
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
_SEEDS: Final = 2**63
_ID: Final = "token_id:"


class Vllm:
    """Speaks to vLLM. With `vocab` None the server has another tokenizer: text goes by text."""

    values = frozenset({*_NAMES, "temperature", "seed", "logit_bias"})

    def __init__(self, model: str, vocab: Vocab | None, context: int, priority: int = 0) -> None:
        self._model = model
        self._vocab = vocab
        self._context = context
        self._priority = priority

    def unknown(self, sampling: Sampling) -> tuple[str, ...]:
        """vLLM's penalties look at the whole text: a narrower window cannot be carried out."""
        missing = [name for name in changing(sampling) if name not in self.values]
        if sampling.repeat_last_n == -1 and "repeat_last_n" in missing:
            missing.remove("repeat_last_n")
        return tuple(missing)

    def calls(self, request: Request) -> tuple[Call, ...]:
        """One request with `n`, or one each where vLLM refuses `n` (greedy decoding)."""
        if request.branches > 1 and request.sampling.temperature > 0:
            return (
                Call(PATH, self._body(request, 0) | {"n": request.branches}, 0, request.branches),
            )
        return tuple(
            Call(PATH, self._body(request, branch), branch) for branch in range(request.branches)
        )

    def pieces(self, data: Mapping[str, Any], call: Call) -> Iterator[Piece]:
        """One piece a choice; the last object has none, but the usage."""
        cached = _cached(data)
        for choice in data.get("choices") or ():
            finish, stop = _finish(choice)
            tokens = self._tokens(choice)
            yield Piece(call.first + choice["index"], tokens, finish, stop, cached)

    def scoring(self, request: Request) -> Call | None:
        """`prompt_logprobs`, which vLLM gives without streaming only."""
        if self._vocab is None:
            return None
        body = self._body(request, 0)
        for name in ("stream", "stream_options", "logprobs", "stop"):
            body.pop(name, None)
        return Call(PATH, body | {"max_tokens": 1, "prompt_logprobs": request.choices})

    def scored(self, data: Mapping[str, Any], request: Request) -> tuple[Token, ...]:
        """Per position a table of ids; the first position has none."""
        vocab = self._vocab
        assert vocab is not None
        tokens = []
        for token, table in zip(request.prompt, _prompt_logprobs(data), strict=True):
            ranked = sorted(
                ((each["logprob"], int(id)) for id, each in (table or {}).items()),
                key=lambda pair: (-pair[0], pair[1]),
            )
            own = next((logprob for logprob, id in ranked if id == token.id), None)
            choices = tuple(Choice(id, vocab.data(id), logprob) for logprob, id in ranked)
            tokens.append(Token(token.id, token.data, own, choices[: request.choices]))
        return tuple(tokens)

    # -- within ------------------------------------------------------------------------------------

    def _body(self, request: Request, branch: int) -> dict[str, Any]:
        sampling = request.sampling
        ids = self._vocab is not None
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": [token.id for token in request.prompt] if ids else text_of(request.prompt),
            "max_tokens": self._limit(request),
            "temperature": max(0.0, sampling.temperature),
            "stream": True,
            "stream_options": {"include_usage": True},
            "logprobs": request.choices,
            "ignore_eos": request.ignore_eos,
            "return_token_ids": ids,
            "return_tokens_as_token_ids": ids,
            "skip_special_tokens": not ids,
            **given(sampling, _NAMES),
        }
        if sampling.seed is not None:
            body["seed"] = (sampling.seed + branch) % _SEEDS
        if request.stop:
            body |= {"stop": list(request.stop), "include_stop_str_in_output": True}
        if sampling.logit_bias:
            body["logit_bias"] = biases(sampling, LEAST_BIAS)
        if self._priority:
            body["priority"] = self._priority
        return body

    def _limit(self, request: Request) -> int | None:
        """None lets the server fill its context."""
        if request.max_tokens >= 0:
            return request.max_tokens
        return self._context - len(request.prompt) if self._vocab is not None else None

    def _tokens(self, choice: Mapping[str, Any]) -> tuple[Token, ...]:
        vocab = self._vocab
        if vocab is None:
            return openai.text_tokens(choice)
        found = choice.get("logprobs") or {}
        ids = choice.get("token_ids")
        ids = list(map(_id_of, found.get("tokens") or ())) if ids is None else ids
        logprobs = found.get("token_logprobs") or [None] * len(ids)
        tables = found.get("top_logprobs") or [None] * len(ids)
        if not len(ids) == len(logprobs) == len(tables):
            raise ValueError("ids and probabilities are not of one length")
        return tuple(
            Token(id, vocab.data(id), logprob, self._choices(table))
            for id, logprob, table in zip(ids, logprobs, tables, strict=True)
        )

    def _choices(self, table: Mapping[str, float] | None) -> tuple[Choice, ...]:
        vocab = self._vocab
        assert vocab is not None
        ranked = sorted(
            ((logprob, _id_of(name)) for name, logprob in (table or {}).items()),
            key=lambda pair: (-pair[0], pair[1]),
        )
        return tuple(Choice(id, vocab.data(id), logprob) for logprob, id in ranked)


def _id_of(name: str) -> int:
    if not name.startswith(_ID):
        raise ValueError(f"{name[:40]!r} is no token id")
    return int(name[len(_ID) :])


def _finish(choice: Mapping[str, Any]) -> tuple[Reason | None, str]:
    """Why a choice ended: `stop_reason` is a stop string, or None or an id for an end token."""
    reason, stop = choice.get("finish_reason"), choice.get("stop_reason")
    if reason is None:
        return None, ""
    if reason == "stop":
        return ("stop", stop) if isinstance(stop, str) else ("eos", "")
    return ("length", "") if reason == "length" else ("failed", "")


def _cached(data: Mapping[str, Any]) -> int:
    """How much of the prompt was in the cache, where the server counts it."""
    details = (data.get("usage") or {}).get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens")
    return cached if isinstance(cached, int) else -1


def _prompt_logprobs(data: Mapping[str, Any]) -> list[Mapping[str, Any] | None]:
    choice = data["choices"][0]
    found = choice.get("prompt_logprobs", data.get("prompt_logprobs"))
    if not isinstance(found, list):
        raise ValueError("the answer has no prompt_logprobs")
    return found
