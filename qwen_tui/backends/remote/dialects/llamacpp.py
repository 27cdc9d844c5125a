"""llama.cpp's server: its own `/completion`, with token ids and bytes.

Law: siblings are several requests, which the server's slots run together. Shapes: llama.cpp's
`tools/server/README.md`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from qwen_tui.backends.remote.dialects import Call, Piece
from qwen_tui.backends.remote.dialects.values import changing, given
from qwen_tui.numeric_settings import NUMERIC_SETTING, SWITCHES, idle
from qwen_tui.types import Choice, Reason, Request, Sampling, Token, joined, text_of
from qwen_tui.vocab import Vocab

PATH: Final = "/completion"
_NAMES: Final[Mapping[str, str]] = {
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repetition_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
_MORE: Final[Mapping[str, str]] = {
    "dry_multiplier": "dry_multiplier",
    "dry_base": "dry_base",
    "dry_allowed_length": "dry_allowed_length",
    "dry_penalty_last_n": "dry_penalty_last_n",
    "top_n_sigma": "top_n_sigma",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "dynatemp_range": "dynatemp_range",
    "dynatemp_exponent": "dynatemp_exponent",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
    "adaptive_target": "adaptive_target",
    "adaptive_decay": "adaptive_decay",
}
"""Sent only where their sampler is on: a stage that `samplers` does not name does not run."""
_APART: Final = (
    "temperature", "seed", "repeat_last_n", "order", "logit_bias", "dry_sequence_breakers",
)  # fmt: skip
"""What is written in a way of its own."""
_MIROSTAT: Final = ("temperature", "mirostat", "mirostat_tau", "mirostat_eta", "logit_bias")
"""All that llama.cpp carries out while mirostat is on."""
_STAGES: Final[Mapping[str, str]] = {
    "penalties": "penalties",
    "dry": "dry",
    "top_n_sigma": "top_n_sigma",
    "top_k": "top_k",
    "typical_p": "typ_p",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc": "xtc",
    "temperature": "temperature",
    "adaptive_p": "adaptive_p",
}
_SEEDS: Final = 2**32 - 1
"""One more than the largest seed that is not "a fresh one"."""
_ENDS: Final[Mapping[str, Reason]] = {"eos": "eos", "limit": "length", "word": "stop"}


class LlamaCpp:
    """Speaks to llama.cpp's server. With `vocab` None no tokenizer of this machine is the model's:
    text goes there, and ids come back with their bytes all the same.
    """

    values = frozenset({*_NAMES, *_MORE, *_APART})

    def __init__(self, vocab: Vocab | None, context: int) -> None:
        self._vocab = vocab
        self._context = context

    def unknown(self, sampling: Sampling) -> tuple[str, ...]:
        """An order that does not begin with the biases cannot be carried out, nor anything beside
        mirostat.
        """
        known = _MIROSTAT if sampling.mirostat else self.values
        missing = [name for name in changing(sampling) if name not in known]
        if sampling.logit_bias and sampling.order[:1] != ("bias",):
            missing.append("order")
        return tuple(missing)

    def calls(self, request: Request) -> tuple[Call, ...]:
        """One request a branch; all but the first find the prompt in the cache."""
        return tuple(
            Call(PATH, self._body(request, branch), branch) for branch in range(request.branches)
        )

    def pieces(self, data: Mapping[str, Any], call: Call) -> Iterator[Piece]:
        """One piece an object: progress of the prompt, a token, or the end."""
        progress = data.get("prompt_progress")
        if progress:
            yield Piece(call.first, reused=progress["cache"], read=progress["processed"])
        elif data.get("stop"):
            timings = data.get("timings") or {}
            finish = _ENDS.get(data.get("stop_type", ""), "failed")
            stop = data.get("stopping_word") or ""
            yield Piece(call.first, self._tokens(data), finish, stop, timings.get("cache_n", -1))
        elif "content" in data:
            yield Piece(call.first, self._tokens(data))

    def scoring(self, request: Request) -> Call | None:
        """The server gives no probabilities of a prompt."""
        return None

    def scored(self, data: Mapping[str, Any], request: Request) -> tuple[Token, ...]:
        """Never asked."""
        raise ValueError("this server scores nothing")

    # -- within ------------------------------------------------------------------------------------

    def _body(self, request: Request, branch: int) -> dict[str, Any]:
        sampling = request.sampling
        ids, window = self._vocab is not None, sampling.repeat_last_n
        body: dict[str, Any] = {
            "prompt": [token.id for token in request.prompt] if ids else text_of(request.prompt),
            "n_predict": request.max_tokens,
            "temperature": max(0.0, sampling.temperature),
            "samplers": [_STAGES[stage] for stage in sampling.order if _runs(stage, sampling)],
            "repeat_last_n": self._context if window < 0 else window,
            "n_probs": max(1, request.choices),
            "return_tokens": True,
            "return_progress": True,
            "cache_prompt": True,
            "ignore_eos": request.ignore_eos,
            "stream": True,
            **given(sampling, _NAMES),
            **given(sampling, {name: _MORE[name] for name in _MORE if _is_on(name, sampling)}),
        }
        if sampling.dry_multiplier:
            body["dry_sequence_breakers"] = list(sampling.dry_sequence_breakers)
        if sampling.seed is not None:
            body["seed"] = (sampling.seed + branch) % _SEEDS
        if sampling.logit_bias:
            body["logit_bias"] = [
                [id, False if math.isinf(value) else value] for id, value in sampling.logit_bias
            ]
        return body

    def _tokens(self, data: Mapping[str, Any]) -> tuple[Token, ...]:
        """The tokens of an object. The server streams only the token that completes a character,
        with the bytes of those before it: they are encoded from these.
        """
        ids, found = data.get("tokens") or [], data.get("completion_probabilities") or []
        if not found or len(found) != len(ids):
            tokens, spelled = tuple(map(self._plain, ids)), data["content"].encode()
        else:
            tokens = tuple(map(self._token, found))
            spelled = b"".join(bytes(each["bytes"]) for each in found)
        return self._completed(spelled, tokens) if len(joined(tokens)) < len(spelled) else tokens

    def _completed(self, spelled: bytes, tokens: tuple[Token, ...]) -> tuple[Token, ...]:
        """The tokens of these bytes, of which only the last are known."""
        said = joined(tokens)
        if not spelled.endswith(said) or self._vocab is None:
            return (Token(-1, spelled),)
        whole = self._vocab.encode_bytes(spelled)
        count = len(whole) - len(tokens)
        if [token.id for token in whole[count:]] == [token.id for token in tokens]:
            return whole[:count] + tokens
        return self._vocab.encode_bytes(spelled[: len(spelled) - len(said)]) + tokens

    def _plain(self, id: int) -> Token:
        return self._vocab.token(id) if self._vocab is not None else Token(-1, b"")

    def _token(self, found: Mapping[str, Any]) -> Token:
        choices = tuple(
            Choice(each["id"], self._data(each), each["logprob"])
            for each in found.get("top_logprobs") or ()
        )
        ranked = tuple(sorted(choices, key=lambda each: (-each.logprob, each.id)))
        return Token(found["id"], self._data(found), found["logprob"], ranked)

    def _data(self, found: Mapping[str, Any]) -> bytes:
        if self._vocab is not None:
            return self._vocab.data(found["id"])
        return bytes(found["bytes"]) or found["token"].encode()


def _is_on(name: str, sampling: Sampling) -> bool:
    """Whether the sampler that a value belongs to is on."""
    return not idle(sampling, NUMERIC_SETTING[name].of or name)


def _runs(stage: str, sampling: Sampling) -> bool:
    """Whether the server is to run a stage of ours."""
    switch = SWITCHES.get(stage, stage)
    return stage in _STAGES and (switch not in _MORE or _is_on(switch, sampling))
