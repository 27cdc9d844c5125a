"""The studio's state that a session remembers: sampling controls, layout, theme and model.

Law: values from a file are checked, and a bad one is ignored; values from the command line take
precedence.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Final

from qwen_tui import presets
from qwen_tui.session.session import Session
from qwen_tui.settings import Settings
from qwen_tui.tui.sampling_controls import BRANCHES, MAX_TOKENS, Controls
from qwen_tui.types import MAX_STOP

CONTROLS: Final = "controls"
LAYOUT: Final = "layout"
THEME: Final = "theme"
MODEL: Final = "model"
"""Keys of the remembered values."""
_OF_A_VOCABULARY: Final = "logit_bias"
"""Not kept: its token ids have other meanings for another model."""


def controls_set(settings: Settings) -> Controls:
    """The controls as the settings have them."""
    return Controls(
        settings.sampling,
        settings.max_tokens,
        settings.stop,
        settings.branches,
        settings.preset,
    )


def keep(session: Session, controls: Controls, **others: Any) -> None:
    """Store the controls and `others` with a session that has text; empty `others` are not
    stored.
    """
    if len(session.tree) and session.sink is not None:
        values = asdict(controls.sampling) | {
            "max_tokens": controls.max_tokens,
            "branches": controls.branches,
            "stop": list(controls.stop),
            "preset": controls.preset,
        }
        del values[_OF_A_VOCABULARY]
        for name in ("order", "dry_sequence_breakers"):
            values[name] = list(values[name])
        named = {name: value for name, value in others.items() if value}
        session.remember(**{CONTROLS: values}, **named)


def controls_of(session: Session, now: Controls, settings: Settings) -> Controls:
    """The controls a session was left with; `now` if it has none, and for each value from the
    command line.
    """
    kept = session.remembered.get(CONTROLS)
    if not isinstance(kept, dict):
        return now
    sampling = {
        name: value
        for name in presets.NAMES
        if name != _OF_A_VOCABULARY
        if (value := _checked(name, kept, settings)) is not None or name == "seed"
    }
    if _given(settings, "sampling.seed"):
        del sampling["seed"]
    controls = replace(now, sampling=replace(now.sampling, **sampling))
    for numeric in (MAX_TOKENS, BRANCHES):
        with suppress(ValueError, KeyError):
            if not _given(settings, numeric.name):
                controls = controls.with_value(numeric.name, numeric.check(kept[numeric.name]))
    stop, preset = kept.get("stop"), kept.get("preset")
    if isinstance(stop, list) and not _given(settings, "stop"):
        texts = [each for each in stop if isinstance(each, str) and each]
        controls = replace(controls, stop=tuple(texts[:MAX_STOP]))
    return replace(controls, preset=preset) if isinstance(preset, str) else controls


def _checked(name: str, kept: dict[str, Any], settings: Settings) -> Any:
    """A stored sampling value; None if it is invalid or the command line gave one."""
    if name in kept and not _given(settings, f"sampling.{name}"):
        with suppress(ValueError, TypeError):
            return presets.checked(name, kept[name])
    return None


def inline_of(session: Session, now: bool, settings: Settings) -> bool:
    """Whether completions are shown inline, as the session was left, else as `now`."""
    kept = session.remembered.get(LAYOUT)
    known = kept in ("panes", "inline") and not _given(settings, LAYOUT)
    return kept == "inline" if known else now


def theme_of(session: Session, settings: Settings) -> str:
    """The theme of the session; "" if none was chosen in it."""
    kept = session.remembered.get(THEME)
    return kept if isinstance(kept, str) and not _given(settings, THEME) else ""


def _given(settings: Settings, name: str) -> bool:
    """Whether the command line gave the value."""
    return name in settings.origin and settings.origin[name].source == "flag"
