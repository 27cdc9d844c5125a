"""The facts about a server found by probing, remembered between runs.

Law: no address and no key is stored; remembered facts are used only while the server reports the
same version and models.
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
    """A server's own description, from a few quick questions.

    `engine` is the family of the server (`vllm`, `llama.cpp`, `sglang`, `ollama`, `tgi`,
    `transformers`, `openai` for any other). `context` 0: unknown. `roots` are other names of the
    model, as a folder on the server or a hub id.
    """

    engine: str
    version: str
    model: str
    models: tuple[str, ...]
    context: int = 0
    roots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """An identity, and abilities found by probing.

    `tokenizer` is the local folder of the server's tokenizer, "" if there is none; `words` are the
    sampling values that the server supports; `cannot` maps missing abilities to reasons.
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
    """The remembered facts, if the server still describes itself the same and the tokenizer is
    still here; `tokenizer` is the model that the person named for it.
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
    """Store the facts; errors are ignored, since they can be found again."""
    text = json.dumps({"format": FORMAT, **_plain(facts)})
    with suppress(OSError):
        file = _file(endpoint, tokenizer)
        paths.ensure_folder(file.parent)
        with paths.replacing(file, mode=0o600) as stream:
            stream.write(text.encode())


def _plain(value: Any) -> Any:
    """A dataclass as JSON would return it."""
    return json.loads(json.dumps(dataclasses.asdict(value)))
