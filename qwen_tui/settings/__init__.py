"""Every setting from flags, environment, project file, user file and defaults, as one frozen value.

Law: each value knows its origin; a bad value in a file or the environment falls back with a warning
that names the place, a bad flag is refused. A project's file can never name an endpoint, a key or a
model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen_tui import paths, presets
from qwen_tui.presets import Preset
from qwen_tui.settings.endpoints import LOCAL, Endpoint
from qwen_tui.settings.fields import (
    DTYPES,
    FIELD,
    FIELDS,
    QUANTS,
    SETTINGS,
    Field,
    Option,
    Origin,
    Settings,
    Source,
)
from qwen_tui.settings.layers import (
    ENV_PREFIX,
    MAX_FILE,
    VERSION,
    FileLayer,
    Layer,
    from_environment,
    from_flags,
)
from qwen_tui.types import Sampling, Trouble

__all__ = [
    "DTYPES",
    "ENV_PREFIX",
    "FIELD",
    "FIELDS",
    "LOCAL",
    "MAX_FILE",
    "QUANTS",
    "VERSION",
    "Endpoint",
    "Field",
    "Option",
    "Origin",
    "Settings",
    "Source",
    "for_checkpoint",
    "load",
    "setting_names",
    "value_of",
]


def load(
    flags: Mapping[str, Any],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Settings:
    """Settings from all layers. `flags`: setting or sampling value name → value, None where not
    given.

    A layer that names a preset resets sampling to it, then sets its own values. Trouble 2 for a bad
    flag, 78 for a file that is not TOML; other mistakes are in `.warnings`. The preset `checkpoint`
    needs the snapshot's folder: `for_checkpoint`.
    """
    env = os.environ if env is None else env
    warnings: list[str] = []
    warn: Callable[[str], None] = lambda line: warnings.append(line)  # noqa: E731
    project = (cwd or Path.cwd()) / paths.PROJECT_NAME
    layers = [
        FileLayer(paths.config_file(env), "user file", warn).read(),
        FileLayer(project, "project file", warn).read(),
        from_environment(env, warn),
        from_flags(flags),
    ]
    own = {name: each for layer in layers for name, each in layer.presets.items()}
    engines = {name: each for layer in layers for name, each in layer.engines.items()}
    values: dict[str, Any] = {}
    origin = dict.fromkeys(("sampling", *setting_names(), "keys"), Origin("default"))
    sampling = Sampling()
    keys: dict[str, str] = {}
    for layer in layers:
        _apply_values(layer, values, origin)
        sampling = _apply_sampling(layer, own, sampling, values, origin, warn)
        for action, (bound, where) in layer.keys.items():
            keys[action] = bound
            origin[f"keys.{action}"] = origin["keys"] = Origin(layer.source, where)
    return Settings(
        **values,
        sampling=sampling,
        keys=keys,
        presets=own,
        engines=engines,
        origin=origin,
        warnings=tuple(warnings),
    )


def _apply_values(layer: Layer, values: dict[str, Any], origin: dict[str, Origin]) -> None:
    for name, (value, where) in layer.values.items():
        if name != "preset":
            values[name] = value
            origin[name] = Origin(layer.source, where)


def _apply_sampling(
    layer: Layer,
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

    Values that a person set besides the preset are kept. With any other preset the settings are
    returned unchanged.
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
    return (*SETTINGS, *(f"sampling.{name}" for name in presets.NAMES))


def value_of(settings: Settings, name: str) -> Any:
    """The value of a name from `setting_names`."""
    _, dot, inner = name.partition(".")
    return getattr(settings.sampling, inner) if dot else getattr(settings, name)
