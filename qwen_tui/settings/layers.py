"""Reads one layer of settings from flags, the environment or a TOML file, with each value's place.

Law: a bad flag is refused; a mistake in a variable or a file becomes a warning that names the place
and the nearest name; a file that is not TOML is refused with line and column.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from qwen_tui import paths, presets
from qwen_tui.presets import Preset
from qwen_tui.settings import endpoints
from qwen_tui.settings.endpoints import Endpoint
from qwen_tui.settings.fields import FIELD, FIELDS, SETTINGS, Field, Source
from qwen_tui.types import BAD_CONFIG, USAGE, Trouble

VERSION: Final = 1
ENV_PREFIX: Final = "QWEN_TUI_"
MAX_FILE: Final = 1 << 20
_TABLES: Final = ("sampling", "keys", "presets", "engines")
_SECOND_NAMES: Final[Mapping[str, str]] = {
    "temp": "temperature",
    "ctx_size": "context",
    "backend": "engine",
}


@dataclass(slots=True)
class Layer:
    """The checked values of one source, each with its place."""

    source: Source
    values: dict[str, tuple[Any, str]] = field(default_factory=dict)
    sampling: dict[str, tuple[Any, str]] = field(default_factory=dict)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    presets: dict[str, Preset] = field(default_factory=dict)
    engines: dict[str, Endpoint] = field(default_factory=dict)

    def put(self, spec: Field, value: object, where: str) -> None:
        """Check a value and store it; ValueError from the field's check."""
        kept = self.sampling if spec.sampling else self.values
        kept[spec.name] = (spec.check(value), where)


def _plain(name: str) -> str:
    name = name.replace("-", "_")
    return _SECOND_NAMES.get(name, name)


def _nearest(name: str, among: Mapping[str, Any] | tuple[str, ...]) -> str:
    near = get_close_matches(name, list(among), 1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def from_flags(flags: Mapping[str, Any]) -> Layer:
    """The values from a command line (None and empty lists: not given); Trouble 2 for a bad
    value.
    """
    layer = Layer("flag")
    for given, value in flags.items():
        if value is None or (isinstance(value, list | tuple) and not value):
            continue
        spec = FIELD.get(_plain(given))
        if spec is None:
            raise KeyError(f"{given!r} is no setting{_nearest(_plain(given), FIELD)}")
        try:
            layer.put(spec, value, spec.flag)
        except ValueError as error:
            raise Trouble(f"{spec.flag}: {error}", code=USAGE) from None
    return layer


def from_environment(env: Mapping[str, str], warn: Callable[[str], None]) -> Layer:
    """The values from `QWEN_TUI_<NAME>` variables; a bad or misspelled one is a warning."""
    layer = Layer("environment")
    for spec in FIELDS:
        variable = ENV_PREFIX + spec.name.upper()
        value = env.get(variable, "")
        if value:
            try:
                layer.put(spec, value, variable)
            except ValueError as error:
                warn(f"{variable}: {error}; ignored")
    _name_misspelled(env, warn)
    return layer


def _name_misspelled(env: Mapping[str, str], warn: Callable[[str], None]) -> None:
    """Warn of variables whose names are nearly ours; other programs may use the same prefix."""
    known = [ENV_PREFIX + name.upper() for name in FIELD]
    for variable in sorted(env):
        if variable.startswith(ENV_PREFIX) and variable not in (*known, paths.HOME_VARIABLE):
            near = get_close_matches(variable, known, 1, cutoff=0.9)
            if near:
                warn(f"{variable} is no setting; did you mean {near[0]}?")


def _read_toml(file: Path) -> tuple[dict[str, Any], str] | None:
    """A TOML file's tables and its text; None if there is none; Trouble (78) with line and
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
    """The line (from 1) of `key` of `table` in a TOML text; 0 if its notation is not recognised."""
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


class FileLayer:
    """Reads one TOML file into a `Layer`; mistakes in it become warnings with their line."""

    def __init__(self, file: Path, source: Source, warn: Callable[[str], None]) -> None:
        self.file = file
        self.layer = Layer(source)
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

    def read(self) -> Layer:
        """The file's layer, empty if there is no file; Trouble 78 if it is not TOML."""
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
            spec = FIELD.get(name)
            if spec is not None and spec.sampling:
                self._reject((), given, "belongs under [sampling]; ignored")
            elif self.project and name != "sampling" and not (spec and spec.project):
                self._reject((), given, self._not_for_a_project(name))
            elif spec is not None:
                try:
                    self.layer.put(spec, value, self._at((), given))
                except ValueError as error:
                    self._reject((), given, f"{error}; ignored")
            elif name in _TABLES:
                getattr(self, f"_{name}")(given, value)
            else:
                near = _nearest(name, (*SETTINGS, *_TABLES))
                self._reject((), given, f"there is no such setting{near}; ignored")
        return self.layer

    @staticmethod
    def _not_for_a_project(name: str) -> str:
        """Why a project's file may not set it, or the similar name that it may set."""
        if name in FIELD or name in _TABLES:
            return "a project's file may not set this; ignored (it belongs into the user's file)"
        allowed = ("sampling", *(name for name in SETTINGS if FIELD[name].project))
        return f"there is no such setting{_nearest(name, allowed)}; ignored"

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

    def _engines(self, given: str, value: object) -> None:
        if not isinstance(value, dict):
            self._reject((), given, "a table is wanted; ignored")
            return
        for name, table in value.items():
            try:
                self.layer.engines[name] = endpoints.endpoint(name, table)
            except ValueError as error:
                self._reject((given,), name, f"{error}; ignored")
