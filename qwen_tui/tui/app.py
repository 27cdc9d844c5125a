"""The application: themes, keys, palette, crash and quit around the studio.

Law: `run(context)` is the only entry; it is given a runner and a session and creates neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Final

from textual.binding import Binding
from textual.screen import Screen

from qwen_tui import paths
from qwen_tui.tui.action_table import ACTIONS
from qwen_tui.tui.actions import bindings, key_names, keymap
from qwen_tui.tui.context import StudioContext
from qwen_tui.tui.last_look import last_look, remember_look
from qwen_tui.tui.palette import WORDS, Commands, PaletteCommand
from qwen_tui.tui.screens.help import Help
from qwen_tui.tui.studio import questions
from qwen_tui.tui.studio.screen import Studio
from qwen_tui.tui.terminal.guard import Guard
from qwen_tui.tui.terminal.guarded_app import GuardedApp, leave
from qwen_tui.tui.terminal.guarded_app import run as run_guarded
from qwen_tui.tui.terminal.key_order import OrderedKeys
from qwen_tui.tui.terminal.line_filters import colour_refused
from qwen_tui.tui.theme import themes
from qwen_tui.tui.theme.app_theme import AppTheme
from qwen_tui.tui.theme.heat import Heat
from qwen_tui.tui.theme.themes import ThemeSet

CLOSE_S: Final = 0.5
"""Seconds that leaving waits for the engine's thread."""
SETTLE_S: Final = 0.25
"""Seconds that leaving waits for a cancelled generation to finish."""


class QwenTui(OrderedKeys[int], GuardedApp[int]):
    """The application around the studio; `context` is everything it is given."""

    CSS_PATH = "app.tcss"
    TITLE = "qwen-tui"
    ENABLE_COMMAND_PALETTE = True
    COMMANDS: ClassVar = {Commands}
    COMMAND_PALETTE_BINDING = "f24"  # the table of actions has its own
    BINDINGS: ClassVar = [
        *bindings("app"),
        Binding("ctrl+c", "nothing", show=False, system=True),
    ]
    INLINE_PADDING = 0

    def __init__(self, context: StudioContext, *, theme_set: ThemeSet | None = None) -> None:
        super().__init__()
        self.context = context
        self.theme_set = every_theme() if theme_set is None else theme_set
        colour = not colour_refused()
        wanted = last_look(context.settings, "theme") if colour else themes.ANSI_THEME
        self._colour = colour
        self.app_theme: AppTheme = self.theme_set.pick(wanted)
        self.heat = Heat.of(self.app_theme, colour=colour)
        self.keys, self.key_complaints = keymap(context.settings.keys)
        for app_theme in self.theme_set.themes.values():
            self.register_theme(app_theme.theme)
        self.theme = self.app_theme.name
        self.set_keymap(self.keys)
        for action in ACTIONS:  # a keymap only moves keys that there are
            if not action.keys and action.id in self.keys:
                self.bind(self.keys[action.id], f"screen.{action.id}", show=False)
        self.studio = Studio(context, self.heat)
        """The main screen; all others are shown over it."""
        self._asked = False
        """The question before leaving stands on the screen."""
        self.committed = False
        """Whether all typing is committed, so that its draft can be deleted."""

    # -- life --------------------------------------------------------------------------------------

    def get_default_screen(self) -> Screen[None]:
        """The studio."""
        return self.studio

    def on_mount(self) -> None:
        """Show problems with settings, keys and themes, once."""
        self.theme_changed_signal.subscribe(self, lambda _theme: self._theme_changed())
        said = [*self.context.settings.warnings, *self.key_complaints]
        said += [self.theme_set.report()] if self.theme_set.problems else []
        if said:
            self.notify("\n".join(said), severity="warning", timeout=10, markup=False)

    async def action_quit(self) -> None:
        """Leave; where the file lacks something of the text, ask first, once."""
        work = self.studio.workspace
        ask = self.context.settings.ask_unwritten and work.unwritten and not self._asked
        if ask and not self.context.play:
            self._asked = True
            self.run_worker(self._ask_to_leave())
        else:
            await self._leave()

    async def _ask_to_leave(self) -> None:
        work = self.studio.workspace
        file, behind = work.text_file, work.text_file.behind(work.text.document)
        answer = await questions.whether_to_write(self, file.name, behind)
        if answer == "write":
            path = await questions.where_to_save(self, file)
            answer = "leave" if path is not None and work.save_text(path) else None
        self._asked = False
        if answer == "leave":
            await self._leave()

    async def _leave(self) -> None:
        """Leave within a second: cancel, save, close."""
        self.committed = await self.studio.leave(SETTLE_S)
        self.exit(0)

    def action_nothing(self) -> None:
        """Ctrl+C with nothing to copy or stop: do nothing."""

    # -- looks -------------------------------------------------------------------------------------

    def action_theme(self) -> None:
        """Switch to the next theme."""
        names = list(self.theme_set.themes)
        place = names.index(self.theme) if self.theme in names else -1
        self._choose_theme(names[(place + 1) % len(names)])
        self.studio.say(self.theme_set.themes[self.theme].title)

    def _choose_theme(self, name: str) -> None:
        """Take a theme, and keep it for the session and for the next time."""
        self.theme = self.studio.workspace.theme = name
        remember_look(self.context.settings, "theme", name)

    def _theme_changed(self) -> None:
        """Apply the text styles of Textual's new theme."""
        app_theme = self.theme_set.themes.get(self.theme)
        if app_theme is not None:
            self.app_theme = app_theme
            self.heat = Heat.of(app_theme, colour=self._colour)
            self.studio.use_heat(self.heat)

    # -- help and palette --------------------------------------------------------------------------

    def action_help(self) -> None:
        """Show all keys."""
        if not isinstance(self.screen, Help):
            self.push_screen(Help(self.keys))

    def commands(self) -> Iterable[PaletteCommand]:
        """Every action that works now, and every theme by its name, for the palette."""
        studio = self.studio
        for action in ACTIONS:
            here = action.where == "studio" and studio.check_action(action.id, ())
            if action.id == "command_palette" or not (here or action.where == "app"):
                continue
            own = self.keys.get(action.id, ",".join(action.keys))
            about = f"{action.help}  {' · '.join(key_names(own.split(',')))}".rstrip()
            words = WORDS.get(action.id, "")
            yield PaletteCommand(action.name, about, self._runs(action.id), words)
        for name, theme in self.theme_set.themes.items():
            yield PaletteCommand(
                f"Theme: {theme.title}", "Switch to this theme", self._takes(name), name
            )

    def _runs(self, action: str) -> Callable[[], None]:
        def act() -> None:
            self.run_worker(self._act(action))

        return act

    async def _act(self, action: str) -> None:
        target = self if hasattr(self, f"action_{action}") else self.studio
        await self.run_action(action, target)

    def _takes(self, theme: str) -> Callable[[], None]:
        def take() -> None:
            self._choose_theme(theme)

        return take


def every_theme() -> ThemeSet:
    """The built-in themes, and the person's own, which replace them by name."""
    return themes.load((paths.themes_dir(), paths.user_themes_dir()))


def run(context: StudioContext, theme_set: ThemeSet | None = None) -> int:
    """Run the interface until a person leaves it; returns the exit code.

    In every case the session is flushed, the engine is asked to end, and the terminal is restored.
    If the engine's thread is stuck in a kernel the process ends here. Without saving, nothing is
    logged.
    """
    app = QwenTui(context, theme_set=theme_set)
    log = context.log
    if log is None and context.settings.save:
        log = paths.logs_dir() / "qwen-tui.log"
    guard = Guard(log, flush=lambda: app.studio.workspace.opened.flush())
    try:
        code = run_guarded(app, guard, mouse=context.settings.mouse)
    finally:
        ended = context.runner.close(CLOSE_S)
        app.studio.workspace.opened.close(committed=app.committed)
    return leave(code, stuck=not ended)
