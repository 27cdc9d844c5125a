"""The interface's wording for models, long work, and how a completion ended."""

from __future__ import annotations

from typing import Final

from qwen_tui.context_window import Truncate
from qwen_tui.hub import size_text
from qwen_tui.types import Environment, Progress, Reason

STAGES: Final = {
    "import": "starting the engine",
    "download": "fetching",
    "load": "loading weights",
    "quantise": "quantising",
    "pack": "packing weights",
    "prefill": "reading the text",
}
END_MARKS: Final[dict[Reason, str]] = {
    "eos": "■ eos",
    "stop": "■ stop string",
    "length": "… length",
    "cancelled": "⏹ stopped",
    "oom": "✗ out of memory",
    "nan": "✗ not a number",
    "eof": "✗ connection lost",
    "failed": "✗ failed",
}
"""How a completion ended, shown after its last token."""

SHORTENED: Final[dict[Truncate | None, str]] = {
    None: "A prompt longer than the context is refused.",
    "left": "Of a prompt longer than the context the end is sent.",
    "middle": "Of a prompt longer than the context the beginning and the end are sent.",
}
"""The treatment of a prompt longer than the context, by the end that is cut."""


def short(model: str) -> str:
    """A model's name, short enough for the status line."""
    return model.rstrip("/").rpartition("/")[2] or model


def model_name(environment: Environment | None) -> str:
    """The model's name in an environment; "" if it has none."""
    return environment.model_name if environment is not None else ""


def precision(environment: Environment) -> str:
    """The quantisation, if any, else the dtype."""
    return environment.dtype if environment.quant in ("", "none") else environment.quant


def progress_words(progress: Progress) -> str:
    """A stage and its progress: `loading weights 1.2 of 4.7 GB`."""
    words = STAGES.get(progress.stage, progress.stage)
    if progress.total <= 1:
        return words
    if progress.stage in ("download", "load"):
        return f"{words} {size_text(progress.done)} of {size_text(progress.total)}"
    if progress.stage == "prefill":
        return f"{words} {progress.done:,} of {progress.total:,} tokens"
    return f"{words} {100 * progress.done // progress.total} %"
