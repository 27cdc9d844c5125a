"""What a server was found to be and to be able to do, remembered between runs.

Law: what is remembered names no address and no key; it counts only as long as the server still says
the same of its version and its models.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from qwen_tui import paths
from qwen_tui.settings import Endpoint
from qwen_tui.types import Abilities

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server says of itself in a few quick questions.

    `engine` is the family of the server (`vllm`, `llama.cpp`, `sglang`, `ollama`, `tgi`,
    `transformers`, `openai` for any other). `context` 0: it does not say. `roots` are other names
    of the model, as a folder on the server or a hub id.
    """

    engine: str
    version: str
    model: str
    models: tuple[str, ...]
    context: int = 0
    roots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """An identity, and what was found by trying.

    `tokenizer` is the local folder whose tokenizer the server has, "" where there is none; `words`
    are the sampling values that the server carries out; `cannot` maps what it cannot do to why.
    """

    identity: Identity
    abilities: Abilities
    context: int
    tokenizer: str = ""
    notes: tuple[str, ...] = ()
    cannot: Mapping[str, str] = field(default_factory=dict)


def _file(endpoint: Endpoint, tokenizer: str) -> Path:
    told = "\0".join((endpoint.url, endpoint.model, endpoint.tokenizer, tokenizer))
    name = hashlib.sha256(told.encode()).hexdigest()[:24]
    return paths.cache_dir() / "engines" / f"{name}.json"


def recall(endpoint: Endpoint, tokenizer: str, identity: Identity) -> ServerFacts | None:
    """What was found the last time, if the server still says the same of itself and the tokenizer
    is still here; `tokenizer` is the model that the person named for it.
    """
    try:
        kept = json.loads(_file(endpoint, tokenizer).read_bytes())
        if kept["format"] != FORMAT or kept["identity"] != _plain(identity):
            return None
        facts = ServerFacts(
            identity,
            Abilities(**kept["abilities"]),
            int(kept["context"]),
            str(kept["tokenizer"]),
            tuple(map(str, kept["notes"])),
            {str(name): str(why) for name, why in kept["cannot"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if facts.tokenizer and not (Path(facts.tokenizer) / "tokenizer.json").is_file():
        return None
    return facts


def remember(endpoint: Endpoint, tokenizer: str, facts: ServerFacts) -> None:
    """Keep what was found; where it cannot be kept it is found again the next time."""
    text = json.dumps({"format": FORMAT, **_plain(facts)})
    with suppress(OSError):
        file = _file(endpoint, tokenizer)
        paths.ensure_folder(file.parent)
        with paths.replacing(file, mode=0o600) as stream:
            stream.write(text.encode())


def _plain(value: Any) -> Any:
    """A dataclass as what JSON gives back."""
    return json.loads(json.dumps(dataclasses.asdict(value)))
