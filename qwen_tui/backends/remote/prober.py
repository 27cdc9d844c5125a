"""Probes what a server is and can do, with one tiny request, and gives reasons for what it cannot.

Law: no ability is assumed that the server has not shown.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from qwen_tui.backends.remote import facts as memory
from qwen_tui.backends.remote import tokenizer
from qwen_tui.backends.remote.client import Client
from qwen_tui.backends.remote.facts import Identity, ServerFacts
from qwen_tui.backends.remote.faults import Fault
from qwen_tui.settings import Endpoint, Settings
from qwen_tui.types import BAD_CONFIG, NO_INPUT, Abilities, Trouble

DEFAULT_CONTEXT: Final = 4096
"""The context in tokens assumed if a server does not report it."""
LLAMACPP_CHOICES: Final = 100
TRIED: Final = (20, 5, 1)
"""Numbers of alternatives to try, largest first: vLLM's limit is 20, OpenAI's 5."""
_FAMILIES: Final[Mapping[str, str]] = {
    "vllm": "vllm",
    "llamacpp": "llama.cpp",
    "sglang": "sglang",
    "library": "ollama",
}
"""What `owned_by` of a model says → the family of the server."""


@dataclass(frozen=True, slots=True)
class Prober:
    """Asks one server; `wanted` is the model that a person named, "" for none."""

    client: Client
    endpoint: Endpoint
    wanted: str = ""
    cancel: threading.Event | None = None

    def facts(self) -> ServerFacts:
        """The remembered facts if the server still describes itself the same, else new ones."""
        identity = self.identity()
        kept = memory.recall(self.endpoint, self.wanted, identity)
        return kept if kept is not None else self.anew(identity)

    def anew(self, identity: Identity | None = None) -> ServerFacts:
        """Probe the server and remember the facts."""
        found = self._tried(identity or self.identity())
        memory.remember(self.endpoint, self.wanted, found)
        return found

    # -- who is it ---------------------------------------------------------------------------------

    def identity(self) -> Identity:
        """The family, version, models and context, by questions that cost nothing."""
        try:
            listed = self._ask("GET", "/v1/models")
        except Fault as fault:
            if fault.status not in (404, 405):
                raise
            listed = {}
        rows = _rows(listed)
        engine, version, more = self._family(rows)
        models = tuple(str(row["id"]) for row in rows if row.get("id"))
        model = self._model(models or tuple(filter(None, (more.get("model", ""),))))
        row = next((row for row in rows if row.get("id") == model), {})
        context = more.get("context") or row.get("max_model_len") or 0
        roots = tuple(str(name) for name in (row.get("root"), more.get("root")) if name)
        return Identity(engine, version, model, models, int(context), roots)

    def _family(self, rows: list[dict[str, Any]]) -> tuple[str, str, dict[str, Any]]:
        owner = str(rows[0].get("owned_by", "")) if rows else ""
        engine = _FAMILIES.get(owner.lower(), "")
        if engine in ("", "llama.cpp") and (
            props := self._maybe("/props", "default_generation_settings")
        ):
            return "llama.cpp", str(props.get("build_info", "")), _llamacpp(props)
        if engine in ("", "ollama") and (found := self._maybe("/api/version", "version")):
            return "ollama", str(found.get("version", "")), {}
        if engine == "" and (info := self._maybe("/info", "model_id")):
            more = {"model": info["model_id"], "context": info.get("max_total_tokens")}
            return "tgi", str(info.get("version", "")), more
        version = str(self._maybe("/version", "version").get("version", ""))
        return engine or "openai", version, {}

    def _model(self, models: tuple[str, ...]) -> str:
        named = self.endpoint.model
        if named and models and named not in models:
            raise Trouble(
                f"{self.endpoint.label} has no model {named!r}",
                hint=f"it has {', '.join(models[:20])}",
                code=NO_INPUT,
            )
        if named:
            return named
        if self.wanted in models:
            return self.wanted
        if not models:
            raise Trouble(
                f"{self.endpoint.label} does not say which models it has",
                hint="name one: model = under [engines.NAME]",
                code=BAD_CONFIG,
            )
        return models[0]

    # -- what can it do ----------------------------------------------------------------------------

    def _tried(self, identity: Identity) -> ServerFacts:
        person = (self.endpoint.tokenizer, self.wanted)
        folder, note = tokenizer.find(self.client, identity, person, self.cancel)
        notes = [note]
        context = identity.context
        if not context:
            context = DEFAULT_CONTEXT
            notes.append(f"the server does not say its context; {context:,} tokens are assumed")
        cannot: dict[str, str] = {}
        if not folder:
            cannot["token_ids"] = note.removeprefix("text goes by text: ")
        if identity.engine == "llama.cpp":
            choices, score = LLAMACPP_CHOICES, False
            self._complete_llamacpp()
            cannot["score"] = "llama.cpp's server gives no probabilities of a prompt"
        else:
            if identity.engine == "ollama":
                choices, score = self._complete_ollama(identity), False
            else:
                choices, score = self._complete(identity, bool(folder))
            if not choices:
                cannot["choices"] = "its completions come without probabilities"
            if not score:
                why = "it gives no probabilities of a prompt"
                cannot["score"] = why if folder else "that needs token ids"
        able = Abilities(choices=choices, score=score, branches=True, token_ids=bool(folder))
        return ServerFacts(identity, able, context, folder, tuple(notes), cannot)

    def _complete_llamacpp(self) -> None:
        body = {"prompt": "a", "n_predict": 1, "n_probs": 1, "return_tokens": True}
        found = self._ask("POST", "/completion", body)
        if not isinstance(found, Mapping) or "completion_probabilities" not in found:
            raise Trouble(
                f"{self.endpoint.label} answers no completion as llama.cpp does",
                hint="its version may be too old or too new",
            )

    def _complete_ollama(self, identity: Identity) -> int:
        """How many alternatives come with a token: versions before 0.12.11 show none."""
        most = TRIED[0]
        body = {"model": identity.model, "prompt": "a", "raw": True, "stream": False}
        body |= {"options": {"num_predict": 1}, "logprobs": True, "top_logprobs": most}
        found = self._ask("POST", "/api/generate", body)
        if not isinstance(found, Mapping) or "response" not in found:
            raise Trouble(f"{self.endpoint.label} answers no completion as Ollama does")
        return most if found.get("logprobs") else 0

    def _complete(self, identity: Identity, ids: bool) -> tuple[int, bool]:
        """How many alternatives come with a token, and whether a prompt is scored: by the first of
        some tiny requests that the server takes.
        """
        body: dict[str, Any] = {"model": identity.model, "prompt": "a", "max_tokens": 1}
        scoring = [{"prompt_logprobs": 1}, {}] if identity.engine == "vllm" and ids else [{}]
        refused: Fault | None = None
        for extra in scoring:
            for choices in (*TRIED, 0):
                more = extra | ({"logprobs": choices} if choices else {})
                try:
                    found = self._ask("POST", "/v1/completions", body | more)
                except Fault as fault:
                    if fault.status not in (400, 422, 500):
                        raise
                    refused = fault
                    continue
                return _shown(found, choices)
        raise refused or Trouble(f"{self.endpoint.label} completes nothing")

    # -- asking ------------------------------------------------------------------------------------

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self.client.ask(method, path, body, cancel=self.cancel)

    def _maybe(self, path: str, key: str) -> dict[str, Any]:
        """The JSON object of an optional endpoint; {} if the server lacks it (some answer 200 to
        everything, with a page or an error in it).
        """
        try:
            found = self._ask("GET", path)
        except Fault as fault:
            if not fault.status:
                raise
            return {}
        return found if isinstance(found, dict) and key in found else {}


def _rows(listed: Any) -> list[dict[str, Any]]:
    data = listed.get("data") if isinstance(listed, Mapping) else None
    return [row for row in data if isinstance(row, dict)] if isinstance(data, list) else []


def _llamacpp(props: Mapping[str, Any]) -> dict[str, Any]:
    settings = props.get("default_generation_settings")
    context = settings.get("n_ctx") if isinstance(settings, Mapping) else None
    path = str(props.get("model_path") or "")
    folder = str(PurePosixPath(path).parent) if path.startswith("/") else ""
    return {"context": context, "model": props.get("model_alias") or path, "root": folder}


def _shown(found: Any, choices: int) -> tuple[int, bool]:
    """What an answer to the tiny request shows."""
    try:
        choice = found["choices"][0]
    except (KeyError, IndexError, TypeError):
        raise Trouble("the server answers a completion in a shape that is not known") from None
    tables = (choice.get("logprobs") or {}).get("top_logprobs")
    most = choices if isinstance(tables, list) and tables and tables[0] else 0
    return most, isinstance(choice.get("prompt_logprobs"), list)


def prober(settings: Settings, client: Client, cancel: threading.Event | None = None) -> Prober:
    """A prober for the engine of the settings; a model counts only if a person named it."""
    wanted = settings.model if settings.explicit("model") else ""
    return Prober(client, client.endpoint, wanted, cancel)
