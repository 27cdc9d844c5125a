"""Every setting from flags, environment, project file, user file and defaults, as one frozen value.

Law: each value knows its origin; a bad value in a file or the environment falls back with a warning
that names where, a bad flag is refused. A project's file can never name an endpoint, a key or a
model.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from qwen_tui import paths, presets
from qwen_tui.presets import Preset
from qwen_tui.types import BAD_CONFIG, DEFAULT_MODEL, MAX_STOP, USAGE, Sampling, Trouble
from qwen_tui.window import Truncate

VERSION: Final = 1
ENV_PREFIX: Final = "QWEN_TUI_"
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
"""What a person may write for `dtype` (ours and torch's names) → the name we keep."""
QUANTS: Final = ("auto", "none", "nf4", "int8")
MAX_FILE: Final = 1 << 20

Source: TypeAlias = Literal["default", "preset", "user file", "project file", "environment", "flag"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: the layer, and in it the file and line, variable, flag or preset."""

    source: Source
    where: str = ""

    @property
    def explicit(self) -> bool:
        """Whether a person set this very value (not a default, not part of a preset)."""
        return self.source not in ("default", "preset")

    def __str__(self) -> str:
        return f"{self.source} {self.where}".rstrip()


@dataclass(frozen=True, slots=True)
class Settings:
    """All that can be set. `origin` has an entry for each field, and `sampling.<value>` for each
    sampling value.

    `context` 0: as much as the checkpoint allows. `threads` 0: as the machine allows. `max_tokens`
    -1: until eos or a full context. `truncate` None: refuse what does not fit. `keys`: action id →
    keys, comma separated. `backend`: a name of `backends.NAMES`.
    """

    model: str = DEFAULT_MODEL
    backend: str = "local"
    device: str = "auto"
    dtype: str = "auto"
    quant: str = "auto"
    context: int = 0
    threads: int = 0
    preset: str = presets.DEFAULT_PRESET
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    branches: int = 1
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    special: bool = True
    truncate: Truncate | None = None
    choices: int = 10
    save: bool = True
    theme: str = "ember"
    heat: bool = True
    mouse: bool = True
    keys: Mapping[str, str] = field(default_factory=dict)
    presets: Mapping[str, Preset] = field(default_factory=dict)
    origin: Mapping[str, Origin] = field(default_factory=dict, compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def explicit(self, name: str) -> bool:
        """Whether a person set it: `explicit("max_tokens")`, `explicit("sampling.top_p")`."""
        return name in self.origin and self.origin[name].explicit


# -- what each setting may be ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """One setting that is not a sampling value: how a value from outside becomes ours, and who may
    set it.
    """

    name: str
    help: str
    check: Callable[[object], Any]
    project: bool = False


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"a text is wanted, not {value!r}")
    return value


def _switch(value: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    if not isinstance(value, bool):
        raise ValueError(f"true or false is wanted, not {value!r}")
    return value


def _whole(low: int, high: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if isinstance(value, str):
            try:
                value = int(value.replace("_", ""))
            except ValueError:
                raise ValueError(f"a whole number is wanted, not {value!r}") from None
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"a whole number is wanted, not {value!r}")
        if not low <= value <= high:
            raise ValueError(f"{value} is not from {low} to {high}")
        return value

    return check


def _one_of(names: Mapping[str, Any]) -> Callable[[object], Any]:
    def check(value: object) -> Any:
        if not isinstance(value, str) or value.lower() not in names:
            near = get_close_matches(str(value).lower(), names, 1)
            cure = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{value!r} is none of {', '.join(names)}{cure}")
        return names[value.lower()]

    return check


def _device(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?", value):
        raise ValueError(f"{value!r} is none of auto, cpu, cuda, cuda:0 …, mps, xpu")
    return value


def _stops(value: object) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else value
    if not isinstance(stops, list | tuple) or not all(isinstance(each, str) for each in stops):
        raise ValueError(f"a text or a list of texts is wanted, not {value!r}")
    if "" in stops:
        raise ValueError("an empty stop string would stop at once")
    if len(stops) > MAX_STOP:
        raise ValueError(f"{len(stops)} stop strings are more than {MAX_STOP}")
    return tuple(stops)


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


FIELDS: Final = (
    Field("model", "a hub id, a local folder, or `demo`", _text),
    Field("backend", "where tokens come from", _text),
    Field("device", "auto, cpu, cuda, cuda:N, mps, xpu", _device),
    Field("dtype", "auto, bf16, fp16, fp32, or torch's names", _one_of(DTYPES)),
    Field("quant", "auto, none, nf4, int8", _one_of(_same(*QUANTS))),
    Field(
        "context", "most tokens of prompt and completion; 0: the model's", _whole(0, 2**31), True
    ),
    Field("threads", "CPU threads; 0: as the machine allows", _whole(0, 4096)),
    Field("preset", "a named set of sampling values", _text, True),
    Field("max_tokens", "most tokens to generate; -1: until the end", _whole(-1, 2**31), True),
    Field("branches", "how many completions at once", _whole(1, 64), True),
    Field("stop", "texts that end a completion", _stops, True),
    Field("ignore_eos", "go on where the model would end", _switch, True),
    Field("special", "read special tokens' spellings as tokens", _switch),
    Field(
        "truncate",
        "what to do with a prompt that does not fit: refuse, left, middle",
        _one_of({"refuse": None, "left": "left", "middle": "middle"}),
        True,
    ),
    Field("choices", "candidates reported per token", _whole(0, 100), True),
    Field("save", "save sessions as they happen", _switch),
    Field("theme", "the name of a theme", _text, True),
    Field("heat", "colour the output by probability", _switch),
    Field("mouse", "use the mouse", _switch),
)
FIELD: Final[Mapping[str, Field]] = {each.name: each for each in FIELDS}
_TABLES: Final = ("sampling", "keys", "presets")
_SECOND_NAMES: Final[Mapping[str, str]] = {"temp": "temperature", "ctx_size": "context"}


# -- layers ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Layer:
    """The values of one source, checked, each with where it stood."""

    source: Source
    values: dict[str, tuple[Any, str]] = field(default_factory=dict)
    sampling: dict[str, tuple[Any, str]] = field(default_factory=dict)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    presets: dict[str, Preset] = field(default_factory=dict)


def _plain(name: str) -> str:
    name = name.replace("-", "_")
    return _SECOND_NAMES.get(name, name)


def _nearest(name: str, among: Mapping[str, Any] | tuple[str, ...]) -> str:
    near = get_close_matches(name, list(among), 1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _from_flags(flags: Mapping[str, Any]) -> _Layer:
    layer = _Layer("flag")
    for given, value in flags.items():
        name = _plain(given)
        shown = "--" + name.replace("_", "-")
        if value is None or (isinstance(value, list | tuple) and not value):
            continue
        try:
            if name in FIELD:
                layer.values[name] = (FIELD[name].check(value), shown)
            elif name in presets.NAMES:
                layer.sampling[name] = (presets.checked(name, value), shown)
            else:
                raise KeyError(f"{given!r} is no setting{_nearest(name, (*FIELD, *presets.NAMES))}")
        except ValueError as error:
            raise Trouble(f"{shown}: {error}", code=USAGE) from None
    return layer


def _from_environment(env: Mapping[str, str], warn: Callable[[str], None]) -> _Layer:
    layer = _Layer("environment")
    for name in (*FIELD, *presets.NAMES):
        variable = ENV_PREFIX + name.upper()
        value = env.get(variable, "")
        if not value:
            continue
        try:
            if name in FIELD:
                layer.values[name] = (FIELD[name].check(value), variable)
            else:
                layer.sampling[name] = (presets.checked(name, value), variable)
        except ValueError as error:
            warn(f"{variable}: {error}; ignored")
    _name_misspelled(env, warn)
    return layer


def _name_misspelled(env: Mapping[str, str], warn: Callable[[str], None]) -> None:
    """Say which variables are nearly ours; other programs may have their own of that prefix."""
    known = [ENV_PREFIX + name.upper() for name in (*FIELD, *presets.NAMES)]
    for variable in sorted(env):
        if variable.startswith(ENV_PREFIX) and variable not in (*known, paths.HOME_VARIABLE):
            near = get_close_matches(variable, known, 1, cutoff=0.9)
            if near:
                warn(f"{variable} is no setting; did you mean {near[0]}?")


def _read_toml(file: Path) -> tuple[dict[str, Any], str] | None:
    """A TOML file's tables and its text; None when there is none; Trouble (78) names line and
    column.
    """
    try:
        if not file.is_file():
            return None
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise Trouble(f"{file} cannot be read: {error.strerror}", code=BAD_CONFIG) from None
    if len(raw) > MAX_FILE:
        raise Trouble(f"{file} is larger than {MAX_FILE >> 20} MiB", code=BAD_CONFIG)
    try:
        text = raw.decode("utf-8-sig")
        return tomllib.loads(text), text
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise Trouble(
            f"{file}, line {line}: byte {error.start} is not UTF-8", code=BAD_CONFIG
        ) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Trouble(
            f"{file} is not TOML: {error}",
            hint="mend that line, or move the file away; nothing in it was applied",
            code=BAD_CONFIG,
        ) from None


def line_of(text: str, table: tuple[str, ...], key: str) -> int:
    """The line (from 1) where `key` of `table` stands in a TOML text; 0 when it is written in a way
    not followed.
    """
    here: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[([^\[\]]+)\]\s*(#.*)?$", line)
        if header:
            here = tuple(part.strip().strip("\"'") for part in _dotted(header[1]))
            if here == (*table, key):
                return number
            continue
        assigned = re.match(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*[\w\"'-]+)*)\s*=", line)
        if assigned:
            path = (*here, *(part.strip().strip("\"'") for part in _dotted(assigned[1])))
            if path[: len(table) + 1] == (*table, key):
                return number
            if path == table and key in line:
                return number
    return 0


def _dotted(name: str) -> list[str]:
    return re.findall(r"\"[^\"]*\"|'[^']*'|[^.]+", name)


class _FileLayer:
    """Reads one TOML file into a `_Layer`; what is wrong in it becomes warnings with the line."""

    def __init__(self, file: Path, source: Source, warn: Callable[[str], None]) -> None:
        self.file = file
        self.layer = _Layer(source)
        self.project = source == "project file"
        self._warn = warn
        self._text = ""

    def _at(self, table: tuple[str, ...], key: str) -> str:
        line = line_of(self._text, table, key)
        return f"{self.file}:{line}" if line else str(self.file)

    def _reject(self, table: tuple[str, ...], key: str, why: str) -> None:
        line = line_of(self._text, table, key)
        place = f"{self.file}, line {line}" if line else str(self.file)
        self._warn(f"{place}: {'.'.join((*table, key))}: {why}")

    def read(self) -> _Layer:
        found = _read_toml(self.file)
        if found is None:
            return self.layer
        tables, self._text = found
        version = tables.pop("version", VERSION)
        if isinstance(version, int) and version > VERSION:
            newer = f"is of version {version}, newer than {VERSION}; read as far as known"
            self._warn(f"{self.file} {newer}")
        for given, value in tables.items():
            name = _plain(given)
            if self.project and name != "sampling" and not (name in FIELD and FIELD[name].project):
                known = name in FIELD or name in _TABLES
                allowed = ("sampling", *(each.name for each in FIELDS if each.project))
                why = (
                    "a project's file may not set this; ignored (it belongs into the user's file)"
                    if known
                    else f"there is no such setting{_nearest(name, allowed)}; ignored"
                )
                self._reject((), given, why)
            elif name in FIELD:
                self._value(given, FIELD[name], value)
            elif name in _TABLES:
                getattr(self, f"_{name}")(given, value)
            elif name in presets.NAMES:
                self._reject((), given, "belongs under [sampling]; ignored")
            else:
                near = _nearest(name, (*FIELD, *_TABLES))
                self._reject((), given, f"there is no such setting{near}; ignored")
        return self.layer

    def _value(self, given: str, spec: Field, value: object) -> None:
        try:
            self.layer.values[spec.name] = (spec.check(value), self._at((), given))
        except ValueError as error:
            self._reject((), given, f"{error}; ignored")

    def _sampling_values(self, table: tuple[str, ...], value: object) -> dict[str, tuple[Any, str]]:
        if not isinstance(value, dict):
            self._reject(table[:-1], table[-1], "a table is wanted; ignored")
            return {}
        values = {}
        for given, each in value.items():
            name = _plain(given)
            if name not in presets.NAMES:
                near = _nearest(name, presets.NAMES)
                self._reject(table, given, f"there is no such sampling value{near}; ignored")
                continue
            try:
                values[name] = (presets.checked(name, each), self._at(table, given))
            except ValueError as error:
                self._reject(table, given, f"{error}; ignored")
        return values

    def _sampling(self, given: str, value: object) -> None:
        self.layer.sampling = self._sampling_values((given,), value)

    def _keys(self, given: str, value: object) -> None:
        if not isinstance(value, dict):
            self._reject((), given, "a table is wanted; ignored")
            return
        for action, keys in value.items():
            if isinstance(keys, list) and all(isinstance(each, str) for each in keys):
                keys = ",".join(keys)
            if not isinstance(keys, str):
                self._reject((given,), action, "keys are a text, as `ctrl+j,f5`; ignored")
                continue
            self.layer.keys[action] = (keys.replace(" ", ""), self._at((given,), action))

    def _presets(self, given: str, value: object) -> None:
        if not isinstance(value, dict):
            self._reject((), given, "a table is wanted; ignored")
            return
        for name, table in value.items():
            help_text = table.pop("help", "") if isinstance(table, dict) else ""
            values = self._sampling_values((given, name), table)
            sampling = replace(presets.RAW, **{key: each for key, (each, _) in values.items()})
            self.layer.presets[name] = Preset(name, name, str(help_text) or "your own", sampling)


# -- together --------------------------------------------------------------------------------------


def load(
    flags: Mapping[str, Any],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Settings:
    """Settings from all layers. `flags`: setting or sampling value name → value, None where not
    given.

    A layer that names a preset starts sampling afresh from it, then sets its own values. Trouble 2
    for a bad flag, 78 for a file that is no TOML; all else that is wrong is in `.warnings`. A
    preset `checkpoint` needs the snapshot's folder: `for_checkpoint`.
    """
    env = os.environ if env is None else env
    warnings: list[str] = []
    warn: Callable[[str], None] = lambda line: warnings.append(line)  # noqa: E731
    project = (cwd or Path.cwd()) / paths.PROJECT_NAME
    layers = [
        _FileLayer(paths.config_file(env), "user file", warn).read(),
        _FileLayer(project, "project file", warn).read(),
        _from_environment(env, warn),
        _from_flags(flags),
    ]
    own = {name: each for layer in layers for name, each in layer.presets.items()}
    values: dict[str, Any] = {}
    origin = dict.fromkeys(("sampling", *FIELD, "keys"), Origin("default"))
    origin |= dict.fromkeys((f"sampling.{name}" for name in presets.NAMES), Origin("default"))
    sampling = Sampling()
    keys: dict[str, str] = {}
    for layer in layers:
        _apply_values(layer, values, origin)
        sampling = _apply_sampling(layer, own, sampling, values, origin, warn)
        for action, (bound, where) in layer.keys.items():
            keys[action] = bound
            origin[f"keys.{action}"] = origin["keys"] = Origin(layer.source, where)
    return Settings(
        **values, sampling=sampling, keys=keys, presets=own, origin=origin, warnings=tuple(warnings)
    )


def _apply_values(layer: _Layer, values: dict[str, Any], origin: dict[str, Origin]) -> None:
    for name, (value, where) in layer.values.items():
        if name != "preset":
            values[name] = value
            origin[name] = Origin(layer.source, where)


def _apply_sampling(
    layer: _Layer,
    own: Mapping[str, Preset],
    sampling: Sampling,
    values: dict[str, Any],
    origin: dict[str, Origin],
    warn: Callable[[str], None],
) -> Sampling:
    if "preset" in layer.values:
        name, where = layer.values["preset"]
        try:
            preset = presets.named(name, own)
        except Trouble as trouble:
            if layer.source == "flag":
                raise
            warn(f"{where}: {trouble.message}; ignored ({trouble.hint})")
        else:
            values["preset"] = preset.name
            origin["preset"] = Origin(layer.source, where)
            sampling = replace(preset.sampling or Sampling(), seed=sampling.seed)
            for each in presets.NAMES:
                if each != "seed":
                    origin[f"sampling.{each}"] = Origin("preset", preset.name)
    for name, (value, where) in layer.sampling.items():
        sampling = replace(sampling, **{name: value})
        origin[f"sampling.{name}"] = origin["sampling"] = Origin(layer.source, where)
    return sampling


def for_checkpoint(settings: Settings, folder: Path) -> Settings:
    """The same settings with the preset `checkpoint` filled in from a snapshot's
    generation_config.json.

    What a person set beside the preset stays. Anything but that preset comes back unchanged.
    """
    if settings.preset != presets.CHECKPOINT:
        return settings
    asked = presets.checkpoint(folder)
    taken = {
        name: getattr(asked, name)
        for name in presets.NAMES
        if name != "seed" and not settings.explicit(f"sampling.{name}")
    }
    return replace(settings, sampling=replace(settings.sampling, **taken))


def setting_names() -> tuple[str, ...]:
    """Every name `config` shows, in order: settings, `sampling.<value>`."""
    return (*FIELD, *(f"sampling.{name}" for name in presets.NAMES))


def value_of(settings: Settings, name: str) -> Any:
    """The value of a name from `setting_names`."""
    _, dot, inner = name.partition(".")
    return getattr(settings.sampling, inner) if dot else getattr(settings, name)
