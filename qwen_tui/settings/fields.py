"""The settings as one frozen value, and the one table of their checks and options.

Law: command line, variables, files, help and README use this table; a check raises ValueError with
a sentence for a person; this module reads nothing from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from qwen_tui import presets
from qwen_tui.context_window import Truncate
from qwen_tui.numeric_settings import NUMERIC_SETTINGS, NumericSetting
from qwen_tui.presets import Preset
from qwen_tui.settings import checks, endpoints
from qwen_tui.settings.endpoints import Endpoint
from qwen_tui.types import BAD_CONFIG, DEFAULT_MODEL, DEFAULT_ORDER, Sampling, Trouble

DTYPES: Final[Mapping[str, str]] = {
    "auto": "auto",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "fp16",
    "float16": "fp16",
    "half": "fp16",
    "fp32": "fp32",
    "float32": "fp32",
    "float": "fp32",
}
"""The accepted spellings of `dtype` (ours and torch's names) → our name."""
MOST_GIB: Final = 1 << 20
QUANTS: Final = ("auto", "none", "int8", "int4", "nf4")

Layout: TypeAlias = Literal["panes", "inline"]
Tab: TypeAlias = Literal["indent", "focus"]
Source: TypeAlias = Literal[
    "default", "preset", "user file", "project file", "environment", "session", "flag"
]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: the layer, and its file and line, variable, flag or preset."""

    source: Source
    where: str = ""

    @property
    def explicit(self) -> bool:
        """Whether a person set this value itself (not a default, not part of a preset)."""
        return self.source not in ("default", "preset")

    def __str__(self) -> str:
        return f"{self.source} {self.where}".rstrip()


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. `origin` has an entry for each field, and `sampling.<value>` for each sampling
    value.

    `draft` "": no draft model. `context` 0: as much as the checkpoint allows. `threads` 0: chosen
    by the plan. `kv_disk`: in GiB. `max_tokens` -1: until eos or a full context. `truncate` None:
    refuse what does not fit. `keys`: action id → keys, comma separated. `engine`: `local`, a name
    of `engines`, or an address. `stall`: in seconds, 0 waits forever.
    """

    model: str = DEFAULT_MODEL
    engine: str = "local"
    device: str = "auto"
    dtype: str = "auto"
    quant: str = "auto"
    context: int = 0
    threads: int = 0
    lookup: bool = True
    kv_disk: float = 4.0
    draft: str = ""
    stall: float = 60.0
    parallel: int = 8
    lenient: bool = False
    preset: str = presets.DEFAULT_PRESET
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    branches: int = 1
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    special: bool = True
    bos: bool = True
    truncate: Truncate | None = None
    choices: int = 10
    save: bool = True
    theme: str = "ember"
    heat: bool = True
    layout: Layout = "panes"
    mouse: bool = True
    tab: Tab = "indent"
    ask_unwritten: bool = True
    keys: Mapping[str, str] = field(default_factory=dict)
    presets: Mapping[str, Preset] = field(default_factory=dict)
    engines: Mapping[str, Endpoint] = field(default_factory=dict)
    origin: Mapping[str, Origin] = field(default_factory=dict, compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def explicit(self, name: str) -> bool:
        """Whether a person set it: `explicit("max_tokens")`, `explicit("sampling.top_p")`."""
        return name in self.origin and self.origin[name].explicit

    def endpoint(self) -> Endpoint | None:
        """The server that `engine` names, None for this machine; Trouble (78) for an unknown
        name.
        """
        try:
            return endpoints.chosen(self.engine, self.engines)
        except KeyError:
            near = get_close_matches(self.engine, self.engines, 1)
            cure = f"; did you mean {near[0]}?" if near else ""
            raise Trouble(
                f"there is no engine {self.engine!r}{cure}",
                hint=f"local, an http:// address, or a table [engines.{self.engine}] with its url",
                code=BAD_CONFIG,
            ) from None


# -- what each setting may be ----------------------------------------------------------------------


MODEL: Final = "Model"
SERVER: Final = "Server"
LENGTH: Final = "Length and context"
SAMPLING: Final = "Sampling"
INPUT: Final = "Prompt"
OUTPUT: Final = "Output"
VIEW: Final = "Studio"


@dataclass(frozen=True, slots=True)
class Option:
    """How a setting is given on the command line: its names, separated by spaces (`--on/--off` for
    a switch), its subject in help, its metavar, and the type that the parser makes of it. A switch
    with only a `--no-…` name is turned off by it.
    """

    names: str
    subject: str
    metavar: str | None = None
    kind: Any = str


@dataclass(frozen=True, slots=True)
class Field:
    """One setting: the check that converts a value from outside, its option, and who may set it.

    `sampling`: a value of `Settings.sampling`, in a file under `[sampling]`. `project`: a project's
    file may set it. `option` None: it has no option.
    """

    name: str
    help: str
    check: Callable[[object], Any]
    option: Option | None = None
    project: bool = False
    sampling: bool = False

    @property
    def flag(self) -> str:
        """Its option in a message: its own name if that is one, else the first long name."""
        own = "--" + self.name.replace("_", "-")
        if self.option is None:
            return own
        names = self.option.names.replace("/", " ").split()
        return own if own in names else next(name for name in names if name.startswith("--"))


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _sampling(name: str, help: str, option: Option) -> Field:
    return Field(name, help, partial(presets.checked, name), option, True, True)


_NUMERIC_OPTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "temperature": ("--temp --temperature", "T"),
    "top_k": ("--top-k", "K"),
    "top_p": ("--top-p", "P"),
    "min_p": ("--min-p", "P"),
    "typical_p": ("--typical", "P"),
    "repetition_penalty": ("--repeat-penalty --repetition-penalty", "X"),
    "presence_penalty": ("--presence-penalty", "X"),
    "frequency_penalty": ("--frequency-penalty", "X"),
    "repeat_last_n": ("--repeat-last-n", "N"),
    "dry_multiplier": ("--dry-multiplier", "X"),
    "dry_base": ("--dry-base", "X"),
    "dry_allowed_length": ("--dry-allowed-length", "N"),
    "dry_penalty_last_n": ("--dry-penalty-last-n", "N"),
    "no_repeat_ngram": ("--no-repeat-ngram --no-repeat-ngram-size", "N"),
    "top_n_sigma": ("--top-nsigma --top-n-sigma", "N"),
    "tfs": ("--tfs", "Z"),
    "top_a": ("--top-a", "A"),
    "epsilon_cutoff": ("--epsilon-cutoff", "P"),
    "eta_cutoff": ("--eta-cutoff", "P"),
    "top_h": ("--top-h", "H"),
    "xtc_probability": ("--xtc-probability", "P"),
    "xtc_threshold": ("--xtc-threshold", "P"),
    "smoothing_factor": ("--smoothing-factor", "X"),
    "smoothing_curve": ("--smoothing-curve", "X"),
    "dynatemp_range": ("--dynatemp-range", "X"),
    "dynatemp_exponent": ("--dynatemp-exp --dynatemp-exponent", "X"),
    "mirostat": ("--mirostat", "N"),
    "mirostat_tau": ("--mirostat-ent --mirostat-tau", "X"),
    "mirostat_eta": ("--mirostat-lr --mirostat-eta", "X"),
    "adaptive_target": ("--adaptive-target", "P"),
    "adaptive_decay": ("--adaptive-decay", "X"),
}
"""The option names of each numeric sampling value, and its metavar."""


def _sampling_value(setting: NumericSetting) -> Field:
    names, metavar = _NUMERIC_OPTIONS[setting.name]
    option = Option(names, SAMPLING, metavar, int if setting.integer else float)
    return _sampling(setting.name, setting.help, option)


FIELDS: Final = (
    Field(
        "model", "a hub id, a local folder, or `demo`", checks.text,
        Option("-m --model", MODEL, "NAME"),
    ),
    Field(
        "engine", "local, a name under [engines], or a server's http:// address",
        endpoints.checked_engine, Option("--engine", SERVER, "NAME|URL"),
    ),
    Field(
        "quant", "auto, none, int8, int4, nf4", checks.one_of(_same(*QUANTS)),
        Option("--quant", MODEL, "KIND"),
    ),
    Field(
        "device", "auto, cpu, cuda, cuda:N, mps, xpu", checks.device,
        Option("--device", MODEL, "NAME"),
    ),
    Field(
        "dtype", "auto, bf16, fp16, fp32, or torch's names", checks.one_of(DTYPES),
        Option("--dtype", MODEL, "TYPE"),
    ),
    Field(
        "threads", "CPU threads; 0: all that help", checks.whole(0, 4096),
        Option("--threads", MODEL, "N", int),
    ),
    Field(
        "lookup", "prompt lookup: draft from earlier text; faster, and the text is the same",
        checks.switch, Option("--lookup/--no-lookup", MODEL, kind=bool),
    ),
    Field(
        "kv_disk", "most GiB on disk so that long texts resume at once (4); 0: keep nothing",
        checks.number("GiB", MOST_GIB), Option("--kv-disk", MODEL, "GIB", float),
    ),
    Field(
        "draft", "a draft model: smaller, same vocabulary; faster, and the text is the same",
        checks.text_or_none, Option("--draft", MODEL, "MODEL"),
    ),
    Field(
        "stall", "give a server up after so long without a byte (60); 0: never",
        checks.number("seconds", 86_400), Option("--stall", SERVER, "SECONDS", float),
    ),
    Field(
        "parallel", "most requests to a server at once (8)", checks.whole(1, 1024),
        Option("--parallel", SERVER, "N", int),
    ),
    Field(
        "lenient", "go on without sampling values that a server does not know", checks.switch,
        Option("--lenient", SERVER, kind=bool),
    ),
    Field(
        "max_tokens", "most tokens to generate (256); -1: to the end of text or a full context",
        checks.whole(-1, 2**31), Option("-n --max-tokens --n-predict", LENGTH, "N", int),
        project=True,
    ),
    Field(
        "context", "most tokens of prompt and completion together; 0: the model's own",
        checks.whole(0, 2**31), Option("-c --ctx-size", LENGTH, "N", int), project=True,
    ),
    Field(
        "truncate", "shorten a prompt that does not fit: left or middle (else it is refused)",
        checks.one_of({"refuse": None, "left": "left", "middle": "middle"}),
        Option("--truncate", LENGTH, "SIDE"), project=True,
    ),
    Field(
        "stop", "end where this text would come; may be given several times", checks.stops,
        Option("-r --stop", LENGTH, "TEXT", list[str]), project=True,
    ),
    Field(
        "ignore_eos", "go on where the model would end the text", checks.switch,
        Option("--ignore-eos", LENGTH, kind=bool), project=True,
    ),
    Field(
        "branches", "K completions, one after the other", checks.whole(1, 64),
        Option("-N --num", LENGTH, "K", int), project=True,
    ),
    Field(
        "special", "read spellings such as <|endoftext|> as those tokens, or as plain text",
        checks.switch, Option("--special/--no-special", INPUT, kind=bool),
    ),
    Field(
        "bos", "begin with what the tokenizer puts before every text (BOS), or without",
        checks.switch, Option("--bos/--no-bos", INPUT, kind=bool), project=True,
    ),
    Field(
        "preset", ", ".join(each.name for each in presets.PRESETS), checks.text,
        Option("--preset", SAMPLING, "NAME"), project=True,
    ),
    Field(
        "choices", "with --json: the N likeliest tokens at every place", checks.whole(0, 100),
        Option("--logprobs", OUTPUT, "N", int), project=True,
    ),
    Field("save", "leave nothing on the disk", checks.switch, Option("--no-save", VIEW, kind=bool)),
    Field("theme", "colours", checks.text, Option("--theme", VIEW, "NAME"), project=True),
    Field("heat", "colour the output by probability", checks.switch),
    Field(
        "layout", "where a completion is written: panes (beside the text), inline (in the text)",
        checks.one_of(_same("panes", "inline")), project=True,
    ),
    Field(
        "tab", "what Tab does in the text where there is nothing to accept: indent, focus (go on)",
        checks.one_of(_same("indent", "focus")), project=True,
    ),
    Field(
        "ask_unwritten", "ask before leaving while the file lacks something of the text",
        checks.switch,
    ),
    Field("mouse", "leave the mouse alone", checks.switch, Option("--no-mouse", VIEW, kind=bool)),
    *map(_sampling_value, NUMERIC_SETTINGS),
    _sampling(
        "dry_sequence_breakers",
        "a text that DRY does not look across (newline, colon, quote, asterisk); none: it looks "
        "across all; may be given several times",
        Option("--dry-sequence-breaker", SAMPLING, "TEXT", list[str]),
    ),
    _sampling(
        "order", f"the stages in their order: {';'.join(DEFAULT_ORDER)}",
        Option("--samplers", SAMPLING, "A;B;C"),
    ),
    _sampling("seed", "-1: a fresh one", Option("-s --seed", SAMPLING, "N", int)),
    _sampling(
        "logit_bias", "add X to a token's score (198=-inf bans it); may be given several times",
        Option("--logit-bias", SAMPLING, "ID=X", list[str]),
    ),
)  # fmt: skip
"""Every setting; help lists the options of a subject in this order."""
FIELD: Final[Mapping[str, Field]] = {each.name: each for each in FIELDS}
SETTINGS: Final = tuple(each.name for each in FIELDS if not each.sampling)
"""The names of the settings that are not sampling values."""
