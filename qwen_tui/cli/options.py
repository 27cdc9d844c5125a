"""The options that several commands share, each declared once.

Law: a parameter is called as the setting it sets, so `flags` needs no table of translations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias

import typer

MODEL: Final = "Model"
LENGTH: Final = "Length and context"
SAMPLING: Final = "Sampling"
OUTPUT: Final = "Output"
INPUT: Final = "Prompt"


def _option(*names: str, help: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar)


Model: TypeAlias = Annotated[
    str | None,
    _option(
        "-m", "--model", metavar="NAME", panel=MODEL, help="a hub id, a local folder, or `demo`"
    ),
]
Quant: TypeAlias = Annotated[
    str | None, _option("--quant", metavar="KIND", panel=MODEL, help="auto, none, int8, int4, nf4")
]
Device: TypeAlias = Annotated[
    str | None,
    _option("--device", metavar="NAME", panel=MODEL, help="auto, cpu, cuda, cuda:N, mps"),
]
Dtype: TypeAlias = Annotated[
    str | None, _option("--dtype", metavar="TYPE", panel=MODEL, help="auto, bf16, fp16, fp32")
]
Threads: TypeAlias = Annotated[
    int | None, _option("--threads", metavar="N", panel=MODEL, help="CPU threads; 0: all that help")
]
Context: TypeAlias = Annotated[
    int | None,
    _option(
        "-c", "--ctx-size", metavar="N", panel=LENGTH,
        help="most tokens of prompt and completion together; 0: the model's own",
    ),
]  # fmt: skip
MaxTokens: TypeAlias = Annotated[
    int | None,
    _option(
        "-n", "--max-tokens", "--n-predict", metavar="N", panel=LENGTH,
        help="most tokens to generate (256); -1: to the end of text or a full context",
    ),
]  # fmt: skip
Truncate: TypeAlias = Annotated[
    str | None,
    _option(
        "--truncate", metavar="SIDE", panel=LENGTH,
        help="left or middle: what to leave out of a prompt that does not fit (else refused)",
    ),
]  # fmt: skip
Stop: TypeAlias = Annotated[
    list[str] | None,
    _option(
        "-r", "--stop", metavar="TEXT", panel=LENGTH,
        help="end where this text would come; may be given several times",
    ),
]  # fmt: skip
Lookup: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--lookup/--no-lookup", rich_help_panel=MODEL,
        help="guess ahead from text that was seen before; faster, and the text is the same",
    ),
]  # fmt: skip
KvDisk: TypeAlias = Annotated[
    float | None,
    _option(
        "--kv-disk", metavar="GIB", panel=MODEL,
        help="room on disk for what the model made of long texts (4); 0: keep nothing",
    ),
]  # fmt: skip
Draft: TypeAlias = Annotated[
    str | None,
    _option(
        "--draft", metavar="MODEL", panel=MODEL,
        help="a smaller model of the same vocabulary that guesses ahead; the text is the same",
    ),
]  # fmt: skip
IgnoreEos: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--ignore-eos", rich_help_panel=LENGTH, help="go on where the model would end the text"
    ),
]
Preset: TypeAlias = Annotated[
    str | None,
    _option(
        "--preset", metavar="NAME", panel=SAMPLING,
        help="raw, checkpoint, balanced, creative, precise, deterministic, llama.cpp, hf",
    ),
]  # fmt: skip
Temperature: TypeAlias = Annotated[
    float | None,
    _option(
        "--temp", "--temperature", metavar="T", panel=SAMPLING, help="1 as is, 0 the likeliest"
    ),
]
TopK: TypeAlias = Annotated[
    int | None, _option("--top-k", metavar="K", panel=SAMPLING, help="keep the K likeliest; 0: off")
]
TopP: TypeAlias = Annotated[
    float | None,
    _option(
        "--top-p", metavar="P", panel=SAMPLING, help="keep the likeliest that add up to P; 1: off"
    ),
]
MinP: TypeAlias = Annotated[
    float | None,
    _option(
        "--min-p", metavar="P", panel=SAMPLING,
        help="keep what is at least P as likely as the likeliest; 0: off",
    ),
]  # fmt: skip
Typical: TypeAlias = Annotated[
    float | None,
    _option("--typical", metavar="P", panel=SAMPLING, help="keep the least surprising P; 1: off"),
]
RepetitionPenalty: TypeAlias = Annotated[
    float | None,
    _option(
        "--repeat-penalty", "--repetition-penalty", metavar="X", panel=SAMPLING,
        help="make what was said less likely; 1: off",
    ),
]  # fmt: skip
RepeatLastN: TypeAlias = Annotated[
    int | None,
    _option(
        "--repeat-last-n", metavar="N", panel=SAMPLING,
        help="the penalties look at the last N tokens (64); -1: all, 0: off",
    ),
]  # fmt: skip
PresencePenalty: TypeAlias = Annotated[
    float | None,
    _option("--presence-penalty", metavar="X", panel=SAMPLING, help="-2 to 2; 0: off"),
]
FrequencyPenalty: TypeAlias = Annotated[
    float | None,
    _option("--frequency-penalty", metavar="X", panel=SAMPLING, help="-2 to 2; 0: off"),
]
Samplers: TypeAlias = Annotated[
    str | None,
    _option(
        "--samplers", metavar="A;B;C", panel=SAMPLING,
        help="the stages in their order: bias;penalties;top_k;typical_p;top_p;min_p;temperature",
    ),
]  # fmt: skip
Seed: TypeAlias = Annotated[
    int | None, _option("-s", "--seed", metavar="N", panel=SAMPLING, help="-1: a fresh one")
]
LogitBias: TypeAlias = Annotated[
    list[str] | None,
    _option(
        "--logit-bias", metavar="ID=X", panel=SAMPLING,
        help="add X to a token's score (198=-inf bans it); may be given several times",
    ),
]  # fmt: skip
Special: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--special/--no-special",
        rich_help_panel=INPUT,
        help="read spellings such as <|endoftext|> as those tokens, or as plain text",
    ),
]
Escape: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--escape", rich_help_panel=INPUT, help=r"carry out \n, \t, \xHH … in prompt and stop texts"
    ),
]
Encoding: TypeAlias = Annotated[
    str | None,
    _option("--encoding", metavar="NAME", panel=INPUT, help="the prompt's encoding, if not UTF-8"),
]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("-q", "--quiet", rich_help_panel=OUTPUT, help="only errors on stderr")
]


def flags(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What `settings.load` takes, out of a command's parameters (`None`: not given)."""
    from qwen_tui.presets import NAMES
    from qwen_tui.settings import FIELD

    return {name: parameters[name] for name in (*FIELD, *NAMES) if name in parameters}
