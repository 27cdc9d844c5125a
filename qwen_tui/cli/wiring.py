"""Connects settings, session, store, runner and backend for the studio and the line mode.

Law: a session is opened for writing only where the person goes on with it; no weights are loaded
here.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qwen_tui import backends, hub, presets, settings
from qwen_tui.cli import prompt as prompts
from qwen_tui.cli.arguments import stored_session
from qwen_tui.cli.save import APP
from qwen_tui.cli.stderr import Reporter
from qwen_tui.session import library
from qwen_tui.session.opening import OpenSession, new_store, open_session
from qwen_tui.session.session import Session
from qwen_tui.settings import Origin, Settings
from qwen_tui.types import USAGE, Backend, Environment, Progress, Trouble
from qwen_tui.vocab import Vocab

if TYPE_CHECKING:
    from qwen_tui.engine.runner import Opener
    from qwen_tui.tui.theme.themes import ThemeSet


REMOTE: Final = "qwen-tui/remote/"
"""The prefix of `Environment.engine` for a remote server."""


@dataclass(frozen=True, slots=True)
class StudioInput:
    """What the studio opens: a file, a session by name, a piped text, or nothing."""

    file: Path | None = None
    session: str | None = None
    piped: str | None = None
    encoding: str | None = None

    def text(self) -> str:
        """The exact initial text; empty for a new file."""
        if self.file is None or not self.file.exists():
            return self.piped or ""
        data = prompts.contents(self.file)
        return prompts.decoded(data, str(self.file), self.encoding)

    @property
    def title(self) -> str:
        """The title of a session begun from it: the file's name, "" for a pipe."""
        named = self.file is not None and (self.file.is_file() or not self.file.exists())
        return self.file.name if self.file is not None and named else ""


def opener(chosen: Settings) -> Opener:
    """A function for a `Runner` that opens the backend named by the settings."""

    def open_backend(report: Callable[[Progress], None], cancel: threading.Event) -> Backend:
        return backends.open(chosen, report, cancel)

    return open_backend


def vocabulary(chosen: Settings) -> Vocab | None:
    """The tokenizer of the model that the settings name, None if only its server has it; Trouble if
    a local model is not on this machine.
    """
    folder, _ = backends.look(chosen)
    return Vocab.load(folder) if folder is not None else None


def lasting_vocabulary(chosen: Settings) -> Vocab | None:
    """As `vocabulary`, for a program that goes on: what is loaded by then is left out of later
    garbage collections, each of which would hold up a key for a tenth of a second.
    """
    vocab = vocabulary(chosen)
    gc.freeze()
    return vocab


def filled(chosen: Settings) -> Settings:
    """The settings with the checkpoint's own preset filled in, if the checkpoint is on this
    disk.
    """
    if chosen.preset != presets.CHECKPOINT or chosen.engine not in settings.LOCAL:
        return chosen
    snapshot = hub.locate(chosen.model)
    return settings.for_checkpoint(chosen, snapshot.path) if snapshot else chosen


def _located(model: str) -> hub.Snapshot | None:
    with suppress(Trouble):
        return hub.locate(model)
    return None


def with_model_of(chosen: Settings, session: Session) -> Settings:
    """The settings with the model of the session (the one it was left with, or of its last
    completion), unless an option names one; if that model is not on this disk, unchanged, with a
    warning.
    """
    environments = [
        session.environments.get(each.started.environment) for each in session.generations.values()
    ]
    last = next((each for each in reversed(environments) if each), None)
    kept = session.remembered.get("model")
    model = kept if isinstance(kept, str) else last.model_name if last is not None else ""
    if last is not None and (said := _other_engine(chosen, last)):
        return replace(chosen, warnings=(*chosen.warnings, said))
    if chosen.engine not in settings.LOCAL or chosen.origin["model"].source == "flag":
        return chosen
    if model in ("", chosen.model):
        return chosen
    if _located(model) is None:
        said = f"the session was made with {model}, which is not here; {chosen.model} goes on"
        return replace(chosen, warnings=(*chosen.warnings, said))
    origin = {**chosen.origin, "model": Origin("session", session.id)}
    return replace(chosen, model=model, origin=origin)


def _other_engine(chosen: Settings, last: Environment) -> str:
    """A warning if the next completion comes from another place than the session's last one: this
    machine or a server, known by its name alone; "" otherwise.
    """
    endpoint = chosen.endpoint()
    was, now = str(last.model.get("endpoint", "")), endpoint.name if endpoint is not None else ""
    remote = last.engine.startswith(REMOTE)
    if remote == (endpoint is not None) and was == now:
        return ""
    place = f"the server {was}" if was else "a server" if remote else "this machine"
    goes_on = endpoint.label if endpoint is not None else f"{chosen.model} on this machine"
    again = f" (--engine {was} is the same)" if was in chosen.engines else ""
    return f"the session was made with {last.model_name} on {place}; {goes_on} goes on{again}"


def themed(chosen: Settings, theme_set: ThemeSet) -> Settings:
    """The settings with a theme that exists. An unknown theme from a flag is refused (Trouble 2);
    from a file or a variable it becomes a warning, and the default is used.
    """
    origin = chosen.origin["theme"]
    if chosen.theme in theme_set.themes or not origin.explicit:
        return chosen
    why = f"{origin.where}: there is no theme {chosen.theme!r}"
    there = f"there are {', '.join(theme_set.themes)}"
    if origin.source == "flag":
        hint = "; ".join(map(str, theme_set.problems))
        raise Trouble(f"{why} ({there})", hint=hint, code=USAGE)
    warnings = (*chosen.warnings, f"{why}; ignored ({there})")
    return replace(chosen, theme=theme_set.pick(chosen.theme).name, warnings=warnings)


def known_biases_of(chosen: Settings) -> Settings:
    """The settings without biases of tokens that their model lacks, if that model is on this
    disk.
    """
    from qwen_tui.cli.generation import known_biases

    if chosen.engine not in settings.LOCAL or not chosen.sampling.logit_bias:
        return chosen
    snapshot = _located(chosen.model)
    return known_biases(chosen, Vocab.load(snapshot.path).size) if snapshot else chosen


def session_for(chosen: Settings, path: Path | None, title: str = "") -> OpenSession:
    """A session opened from a file to continue it (read-only if it cannot be written), or a new
    session of that title.
    """
    if path is None:
        session = Session.new(title=title, app=APP)
        return OpenSession(session, new_store(session) if chosen.save else None)
    opened = open_session(path, read_only=not chosen.save)
    if not chosen.save:
        opened.read_only = ""  # nothing is written, so it can be continued
    return opened


def open_studio(given: StudioInput, flags: dict[str, Any]) -> int:
    """Open the studio and run it until it is left; returns the exit code."""
    from qwen_tui.engine.runner import Runner
    from qwen_tui.tui.app import every_theme, run
    from qwen_tui.tui.context import StudioContext

    theme_set = every_theme()
    chosen = themed(settings.load(flags), theme_set)
    text = given.text()
    path = library.resolve(given.session) if given.session is not None else None
    left = _left_behind() if chosen.save else None
    if given.file is None and given.session is None and not text:
        path = left
    opened, newer = _session_of_file(chosen, given, text)
    if opened is not None:
        given, text = replace(given, file=None), ""
    else:
        opened = session_for(chosen, path, given.title)
    try:
        chosen = known_biases_of(filled(with_model_of(chosen, opened.session)))
    except Trouble:
        opened.close()
        raise
    context = StudioContext(
        settings=chosen,
        runner=Runner(opener(chosen)),
        opener=opener,
        vocab=lasting_vocabulary,
        open_session=lambda path: session_for(chosen, path),
        opened=opened,
        file=given.file if given.encoding is None else None,
        newer=newer,
        settings_of=with_model_of,
        text=text,
    )
    return run(context, theme_set)


def _session_of_file(
    chosen: Settings, given: StudioInput, text: str
) -> tuple[OpenSession | None, Path | None]:
    """The session in which the given file was worked on last, opened where the file is still as the
    session left it; else the session's path, to be offered. None, None: there is no other text.
    """
    from qwen_tui.tui.studio.text_file import WRITTEN, digest

    known = given.file is not None and given.encoding is None and chosen.save
    path = library.for_file(given.file) if known and given.file else None
    if path is None:
        return None, None
    opened = session_for(chosen, path)
    if not opened.read_only and opened.session.remembered.get(WRITTEN) == digest(text):
        return opened, None
    opened.close()
    same = opened.read_only or opened.session.text == text
    return None, None if same else path


def _left_behind() -> Path | None:
    """Turn typing left by killed studios without a session into sessions; returns the newest. What
    cannot be saved now stays where it is.
    """
    with suppress(Trouble, OSError):
        return next(iter(library.adopt_orphans(app=APP)), None)
    return None


def replay_in_studio(
    name: str, flags: dict[str, Any], *, speed: float, max_gap: float | None
) -> int:
    """Play a stored session back in the studio, without a model; returns the exit code."""
    from qwen_tui.backends.replay import UNKNOWN, Replay, takes
    from qwen_tui.cli.terminal import check_screen, take_terminal
    from qwen_tui.engine.runner import Runner
    from qwen_tui.tui.app import every_theme, run
    from qwen_tui.tui.context import StudioContext

    check_screen()
    take_terminal()
    session = stored_session(name)
    recorded = takes(session.entries)
    environment = next(iter(session.environments.values()), UNKNOWN)
    model = environment.model_name or "unknown"
    theme_set = every_theme()
    chosen = themed(settings.load(flags | {"save": False, "model": model}), theme_set)

    def replay(report: Callable[[Progress], None], cancel: threading.Event) -> Backend:
        return Replay(recorded, environment=environment, speed=speed, max_gap=max_gap)

    context = StudioContext(
        settings=chosen,
        runner=Runner(replay),
        opener=opener,
        vocab=lambda chosen: None,
        open_session=lambda path: session_for(chosen, path),
        opened=OpenSession(session),
        play=True,
    )
    return run(context, theme_set)


def work_in_lines(given: StudioInput, flags: dict[str, Any]) -> int:
    """Run the line-mode workbench; returns the exit code."""
    from qwen_tui.cli.generation import ignore, known_biases, load
    from qwen_tui.cli.line_mode import LineMode

    chosen = settings.load(flags)
    text = given.text()
    path = library.resolve(given.session) if given.session is not None else None
    with closing(session_for(chosen, path, given.title)) as opened, Reporter() as reporter:
        session = opened.session
        chosen = with_model_of(chosen, session)
        folder, _ = backends.look(chosen)
        if folder is not None:
            session.vocab = Vocab.load(folder)
            chosen = known_biases(settings.for_checkpoint(chosen, folder), session.vocab.size)
        reporter.warn(chosen.warnings)
        if text:
            session.commit(text, "file" if given.file else "user")
        lines = LineMode(chosen, session, lambda chosen, reporter: load(chosen, reporter, ignore))
        with closing(lines):
            return lines.run()
