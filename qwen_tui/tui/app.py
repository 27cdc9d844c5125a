"""The application: themes, keys, palette, crash and quit around the studio.

Law: `run(doors)` is the one entry; it is given a runner and a session and makes neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import ClassVar, Final

from textual.app import SystemCommand
from textual.binding import Binding
from textual.filter import LineFilter, Monochrome, NoColor
from textual.screen import Screen

from qwen_tui import paths
from qwen_tui.tui.actions import ACTIONS, bindings, key_names, keymap
from qwen_tui.tui.context import Doors
from qwen_tui.tui.screens.help import Help
from qwen_tui.tui.studio.screen import Studio
from qwen_tui.tui.terminal.guard import Guard, GuardedApp, leave
from qwen_tui.tui.terminal.guard import run as run_guarded
from qwen_tui.tui.terminal.key_order import OrderedKeys
from qwen_tui.tui.terminal.line_filters import NoColours, NoControls
from qwen_tui.tui.theme import themes
from qwen_tui.tui.theme.heat import Heat
from qwen_tui.tui.theme.themes import Shelf, Skin

CLOSE_S: Final = 0.5
"""How long leaving waits for the engine's thread."""
SETTLE_S: Final = 0.25
"""How long leaving waits for a cancelled generation to say its end."""


class QwenTui(OrderedKeys[int], GuardedApp[int]):
    """The interface. `doors` is everything it is given."""

    CSS_PATH = "app.tcss"
    TITLE = "qwen-tui"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "f24"  # the table of actions has its own
    BINDINGS: ClassVar = [
        *bindings("app"),
        Binding("ctrl+c", "nothing", show=False, system=True),
    ]
    INLINE_PADDING = 0

    def __init__(self, doors: Doors, *, shelf: Shelf | None = None) -> None:
        super().__init__()
        self.doors = doors
        self.shelf = every_theme() if shelf is None else shelf
        colour = not themes.colour_refused()
        wanted = doors.settings.theme if colour else themes.ANSI_THEME
        self._colour = colour
        self.skin: Skin = self.shelf.pick(wanted)
        self.heat = Heat.of(self.skin, colour=colour)
        self.keys, self.key_complaints = keymap(doors.settings.keys)
        for skin in self.shelf.skins.values():
            self.register_theme(skin.theme)
        self.theme = self.skin.name
        self.set_keymap(self.keys)
        for action in ACTIONS:  # a keymap only moves keys that there are
            if not action.keys and action.id in self.keys:
                self.bind(self.keys[action.id], f"screen.{action.id}", show=False)
        self.studio = Studio(doors, self.heat)
        """The one screen that is always there."""
        self.committed = False
        """No typing waits that the draft has to keep."""

    # -- life --------------------------------------------------------------------------------------

    def get_default_screen(self) -> Screen[None]:
        """The studio is the one screen; all others stand over it."""
        return self.studio

    def on_mount(self) -> None:
        """Say what is wrong with settings, keys and themes, once."""
        self.theme_changed_signal.subscribe(self, lambda _theme: self._wear())
        said = [*self.doors.settings.warnings, *self.key_complaints]
        said += [self.shelf.report()] if self.shelf.problems else []
        if said:
            self.notify("\n".join(said), severity="warning", timeout=10, markup=False)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's, and the one that lets no control character pass; ours where colour is refused
        (an empty `NO_COLOR` refuses nothing, as Textual would have it).
        """
        if not self._colour:
            return [_NO_CONTROLS, _NO_COLOURS]
        kept = [
            each
            for each in super().get_line_filters()
            if not isinstance(each, Monochrome | NoColor)
        ]
        return [*kept, _NO_CONTROLS]

    async def action_quit(self) -> None:
        """Leave within a second: cancel, keep, close."""
        studio = self.studio
        studio.keep_text()
        self.committed = not studio.dirty
        studio.writer.stop()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(studio.writer.settle(), SETTLE_S)
        self.exit(0)

    def action_nothing(self) -> None:
        """Ctrl+C where there is nothing to copy or stop."""

    # -- looks -------------------------------------------------------------------------------------

    def action_theme(self) -> None:
        """The next theme of the shelf."""
        names = list(self.shelf.skins)
        place = names.index(self.theme) if self.theme in names else -1
        self.theme = names[(place + 1) % len(names)]
        self.notify(self.shelf.skins[self.theme].title, timeout=2, markup=False)

    def _wear(self) -> None:
        """Textual has another theme: our text styles follow."""
        skin = self.shelf.skins.get(self.theme)
        if skin is not None:
            self.skin = skin
            self.heat = Heat.of(skin, colour=self._colour)
            self.studio.wear(self.heat)

    # -- help and palette --------------------------------------------------------------------------

    def action_help(self) -> None:
        """All keys."""
        if not isinstance(self.screen, Help):
            self.push_screen(Help(self.keys))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Every action of the table, and every theme by its name."""
        studio = self.studio
        for action in ACTIONS:
            if action.where == "app":
                if action.id not in ("command_palette",):
                    yield SystemCommand(action.name, action.help, self._runs(action.id))
            elif action.where == "studio" and studio.check_action(action.id, ()):
                own = self.keys.get(action.id, ",".join(action.keys))
                about = f"{action.help}  {' · '.join(key_names(own.split(',')))}"
                yield SystemCommand(action.name, about.rstrip(), self._runs(action.id))
        for name, skin in self.shelf.skins.items():
            yield SystemCommand(f"Theme: {skin.title}", "Take this theme", self._takes(name))

    def _runs(self, action: str) -> Callable[[], None]:
        def act() -> None:
            self.run_worker(self._act(action))

        return act

    async def _act(self, action: str) -> None:
        target = self if hasattr(self, f"action_{action}") else self.studio
        await self.run_action(action, target)

    def _takes(self, theme: str) -> Callable[[], None]:
        def take() -> None:
            self.theme = theme

        return take


_TEXTUALS: Final = (Monochrome, NoColor)
_NO_CONTROLS: Final = NoControls()
_NO_COLOURS: Final = NoColours()


def every_theme() -> Shelf:
    """The themes that ship, and the person's own over them."""
    return themes.load((paths.themes_dir(), paths.user_themes_dir()))


def run(doors: Doors, shelf: Shelf | None = None) -> int:
    """Run the interface until a person leaves it; the exit code.

    Whatever happens the session is flushed, the engine is asked to end, and the terminal is as it
    was. Where the engine's thread is stuck in a kernel the process ends here.
    """
    app = QwenTui(doors, shelf=shelf)
    log = doors.log or paths.made(paths.logs_dir()) / "qwen-tui.log"
    guard = Guard(log, flush=lambda: app.studio.desk.flush())
    try:
        code = run_guarded(app, guard, mouse=doors.settings.mouse)
    finally:
        ended = doors.runner.close(CLOSE_S)
        app.studio.desk.close(committed=app.committed)
    return leave(code, stuck=not ended)
