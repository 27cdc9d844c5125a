"""Finds this machine's tokenizer for a server's model: by name, verified by a round trip.

Law: ids are sent only if the server encodes the same text to the same ids; otherwise text is sent.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from qwen_tui import hub
from qwen_tui.backends.remote.client import Client
from qwen_tui.backends.remote.facts import Identity
from qwen_tui.backends.remote.faults import Fault
from qwen_tui.types import Trouble
from qwen_tui.vocab import Vocab

SAMPLE: Final = (
    "def f(x):\n\treturn x**2  # naïve\r\n\n    12345 67.8 don't I'LL\u3000日本語 한국어 Привет "
    "🦊👩‍👩‍👧 ½ <|endoftext|><|im_start|>user\n<tool_call> https://a.b/c?d=e&f=%20 \u00e9\u0301 "
    "    \n \n"
)
"""A text that tokenizers split differently: cases, digits, spaces, line ends, scripts, emoji,
special tokens. It is in Unicode's composed form, except for one accent that cannot be composed."""


def names(person: tuple[str, ...], identity: Identity) -> Iterator[str]:
    """Possible names of the model on this machine, the person's own first."""
    yield from filter(None, person)
    for name in (identity.model, *identity.roots):
        bare = name.partition(":")[0] if not name.startswith("/") else name
        yield from (name, bare, bare.removesuffix("-GGUF"))


def find(
    client: Client,
    identity: Identity,
    person: tuple[str, ...],
    cancel: threading.Event | None = None,
) -> tuple[str, str]:
    """The folder of the tokenizer that the server has ("": none here), and a line about it."""
    tried = []
    seen: set[str] = set()
    ids = None
    for name in names(person, identity):
        folder = _folder(name)
        if folder is None or str(folder) in seen:
            continue
        seen.add(str(folder))
        vocab = Vocab.load(folder)
        ids = ids if ids is not None else tokenized(client, identity, SAMPLE, cancel)
        if ids is None:
            return "", "text goes by text: the server does not tokenize on demand"
        if ids == [token.id for token in vocab.encode(SAMPLE)]:
            return str(folder), f"the tokenizer of {name}: the server makes the same ids"
        tried.append(name)
    if tried:
        return "", f"text goes by text: the server's ids are not those of {', '.join(tried)}"
    return "", (
        "text goes by text: no tokenizer here is known to be the model's "
        "(tokenizer = under [engines.NAME], or -m, names one)"
    )


def _folder(name: str) -> Path | None:
    """The folder of a local model with a tokenizer; its weights are not needed."""
    with suppress(Trouble):
        snapshot = hub.locate(name)
        if snapshot is not None and (snapshot.path / "tokenizer.json").is_file():
            return snapshot.path
    return None


def tokenized(
    client: Client, identity: Identity, text: str, cancel: threading.Event | None
) -> list[int] | None:
    """The server's ids of a text, nothing put before it; None where it does not say."""
    body: dict[str, Any]
    if identity.engine == "llama.cpp":
        body = {"content": text, "add_special": False, "parse_special": True}
    elif identity.engine in ("vllm", "sglang"):
        body = {"model": identity.model, "prompt": text, "add_special_tokens": False}
    else:
        return None
    try:
        found = client.ask("POST", "/tokenize", body, cancel=cancel)
        ids = found["tokens"]
        return [int(id) for id in ids]
    except (Fault, KeyError, TypeError, ValueError):
        return None
