"""What a checkpoint's folder says in words: licence, citation, chat template, and whether it was
tuned to answer turns.

Law: read from its own files, else from the published catalogue; an unreadable file counts as empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from qwen_tui.hub import safetensors_header
from qwen_tui.hub.catalog import KNOWN, Known

MAX_README: Final = 1 << 20
_TURN_ENDS: Final = (
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|eot|>",
    "<|endofturn|>",
)
_INSTRUCT_NAME: Final = re.compile(
    r"(^|[-_.])(instruct|chat|it|dpo|sft|rlhf|assistant)([-_.]|$)", re.I
)


def text_of(file: Path, most: int = MAX_README) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(most).decode("utf-8", "replace")
    except OSError:
        return ""


def _front_matter(readme: str) -> dict[str, str]:
    """The plain `key: value` lines of a model card's YAML front matter."""
    if not readme.startswith("---"):
        return {}
    block, _, _ = readme[3:].partition("\n---")
    found = {}
    for line in block.splitlines():
        match = re.match(r"([\w-]+):[ \t]*([^\s#][^#]*)$", line)
        if match:
            found[match[1]] = match[2].strip().strip("\"'")
    return found


def _published(name: str) -> Known | None:
    return KNOWN.get(name.partition("@")[0])


def licence(folder: Path, name: str, readme: str | None = None) -> str:
    """The licence's name: from the model card, else as published, else a LICENSE's first line."""
    matter = _front_matter(text_of(folder / "README.md") if readme is None else readme)
    stated = matter.get("license_name") or matter.get("license", "")
    if stated and stated != "other":
        return stated[:100]
    known = _published(name)
    if known is not None:
        return known.licence
    for file in ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE"):
        for line in text_of(folder / file, 4096).splitlines():
            if line.strip():
                return f"{file}: {line.strip()[:80]}"
    return stated


def citation(name: str, readme: str) -> str:
    """The first BibTeX entry of the model card, else as published."""
    start = re.search(r"@[A-Za-z]+\s*\{", readme)
    if start:
        depth = 0
        for place in range(start.end() - 1, min(len(readme), start.start() + 8000)):
            depth += {"{": 1, "}": -1}.get(readme[place], 0)
            if depth == 0:
                return readme[start.start() : place + 1]
    known = _published(name)
    return known.citation if known else ""


def chat_template(folder: Path) -> str:
    """Which file has the chat template, and its family, as `ChatML (tokenizer_config.json)`; "" if
    none.
    """
    text, where = text_of(folder / "chat_template.jinja"), "chat_template.jinja"
    if not text:
        where = "tokenizer_config.json"
        try:
            stated = safetensors_header.read_json(folder / where).get("chat_template")
        except safetensors_header.Broken:
            return ""
        if isinstance(stated, list):
            entries = [each for each in stated if isinstance(each, dict)]
            named = {str(each.get("name")): each.get("template") for each in entries}
            stated = named.get("default") or next(iter(named.values()), "")
        text = stated if isinstance(stated, str) else ""
    if not text:
        return ""
    families = {
        "<|im_start|>": "ChatML", "[INST]": "Mistral", "<|start_header_id|>": "Llama 3",
        "<start_of_turn>": "Gemma", "<|assistant|>": "Zephyr",
    }  # fmt: skip
    family = next((name for mark, name in families.items() if mark in text), "own")
    return f"{family} ({where})"


def is_instruct(folder: Path, name: str) -> bool:
    """Whether a checkpoint was tuned to answer turns.

    The published Qwen2.5 base checkpoints have a chat template too, so that alone says nothing: the
    name decides, and whether the end-of-text id of the tokenizer or the generation config ends a
    turn.
    """
    known = _published(name)
    if known is not None:
        return known.instruct
    if _INSTRUCT_NAME.search(name.rpartition("/")[2]):
        return True
    if not chat_template(folder):
        return False
    try:
        tokenizer = safetensors_header.read_json(folder / "tokenizer_config.json")
    except safetensors_header.Broken:
        return False
    end = tokenizer.get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end
    return end in _TURN_ENDS or bool(_turn_end_ids(tokenizer) & _generation_ends(folder))


def _turn_end_ids(tokenizer: Mapping[str, Any]) -> set[int]:
    added = tokenizer.get("added_tokens_decoder")
    if not isinstance(added, dict):
        return set()
    return {
        int(number)
        for number, token in added.items()
        if number.isdigit() and isinstance(token, dict) and token.get("content") in _TURN_ENDS
    }


def _generation_ends(folder: Path) -> set[int]:
    try:
        ends = safetensors_header.read_json(folder / "generation_config.json").get("eos_token_id")
    except safetensors_header.Broken:
        return set()
    ends = ends if isinstance(ends, list) else [ends]
    return {each for each in ends if isinstance(each, int)}


def has_infill(folder: Path) -> bool:
    """Whether the tokenizer knows the fill-in-the-middle tokens."""
    try:
        file = folder / "tokenizer.json"
        if file.stat().st_size > safetensors_header.MAX_JSON:
            return False
        raw = file.read_bytes()
    except OSError:
        return False
    return all(f"<|fim_{part}|>".encode() in raw for part in ("prefix", "middle", "suffix"))
