"""The sampling controls, by keyboard, typing and mouse.

Law: a value out of its range is not applied. Ranges come from `numeric_settings`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from textual import events
from textual.binding import Binding
from textual.content import Content
from textual.geometry import Region, Size
from textual.message import Message

from qwen_tui import presets
from qwen_tui.presets import Preset
from qwen_tui.tui.actions import bindings
from qwen_tui.tui.sampling_controls import (
    BIAS,
    PRESET,
    ROW_SETTINGS,
    SEED,
    STOP,
    Controls,
    at_fraction,
    made_words,
    read_value,
    row_help,
)
from qwen_tui.tui.widgets.sampling_view import NAME_CELLS, SamplingView
from qwen_tui.tui.widgets.slider import LEAST_CELLS


class SamplingControls(SamplingView, can_focus=True):
    """The panel of sampling controls. Moving one posts `Changed`."""

    BINDINGS: ClassVar = [
        *bindings("dials"),
        Binding("shift+left", "dial_less(10)", show=False),
        Binding("shift+right", "dial_more(10)", show=False),
    ]

    @dataclass
    class Changed(Message):
        """A person changed a control."""

        controls: Controls

    @dataclass
    class Said(Message):
        """The text to show under the controls: the range of the one under the cursor, or why the
        typed value is invalid.
        """

        text: str
        wrong: bool

    @dataclass
    class EditStops(Message):
        """A person wants to edit the stop strings."""

    def __init__(
        self, controls: Controls, *, own: dict[str, Preset] | None = None, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self.own = own or {}
        self._dragging: str | None = None
        self.set_reactive(SamplingControls.controls, controls)

    # -- what it shows -----------------------------------------------------------------------------

    def on_mount(self) -> None:
        self.watch_controls()
        self._say()

    def watch_controls(self) -> None:
        """A row may have come or gone."""
        self.virtual_size = Size(0, len(self.controls.rows))
        self.cursor = min(self.cursor, len(self.controls.rows) - 1)
        if self.made is not None:
            self._say()

    def _say(self) -> None:
        complaint = self.complaint
        self.set_class(bool(complaint), "-wrong")
        was = made_words(self.row, self.controls, self.made)
        words = " · ".join(filter(None, [was, row_help(self.row)]))
        self.post_message(self.Said(complaint or words, bool(complaint)))
        setting = ROW_SETTINGS.get(self.row)
        self.tooltip = Content(f"{setting.label}: {setting.help}") if setting else None

    def watch_cursor(self, _old: int, cursor: int) -> None:
        self._say()
        if self.is_mounted:
            self.scroll_to_region(Region(0, cursor, 1, 1), animate=False, force=True)

    def watch_typed(self) -> None:
        self._say()

    def watch_made(self) -> None:
        if self.is_mounted:
            self._say()

    # -- keys --------------------------------------------------------------------------------------

    def action_dial_up(self) -> None:
        self._leave_typing()
        self.cursor = (self.cursor - 1) % len(self.controls.rows)

    def action_dial_down(self) -> None:
        self._leave_typing()
        self.cursor = (self.cursor + 1) % len(self.controls.rows)

    def action_dial_less(self, steps: int = 1) -> None:
        self.step(self.row, -steps)

    def action_dial_more(self, steps: int = 1) -> None:
        self.step(self.row, steps)

    def action_dial_lowest(self) -> None:
        if setting := ROW_SETTINGS.get(self.row):
            self._set(self.row, setting.check(setting.low))

    def action_dial_highest(self) -> None:
        if setting := ROW_SETTINGS.get(self.row):
            self._set(self.row, setting.check(min(setting.usual, setting.high)))

    def action_dial_neutral(self) -> None:
        self.typed = None
        if setting := ROW_SETTINGS.get(self.row):
            self._set(self.row, setting.check(setting.neutral))
        elif self.row == SEED:
            self._set(SEED, None)
        elif self.row == BIAS:
            self._set(BIAS, ())
        elif self.row == STOP:
            self._changed(replace(self.controls, stop=()))

    def action_dial_edit(self) -> None:
        """Begin typing a value; while typing, apply it."""
        if self.typed is not None:
            self._apply_typed()
        elif self.row == STOP:
            self.post_message(self.EditStops())
        elif self.row == PRESET:
            self.step(PRESET, 1)
        elif self.row == SEED:
            self.typed = str(self.controls.sampling.seed or "")
        elif self.row != BIAS:
            self.typed = ""

    @property
    def _takes_text(self) -> bool:
        return self.row not in (PRESET, STOP, BIAS)

    def on_key(self, event: events.Key) -> None:
        """Digits begin typing a value; everything typed stays in the row until Enter or Esc."""
        if event.key == "backspace" and self.typed is not None:
            self.typed = self.typed[:-1]
        elif event.character and event.character in "0123456789.-+" and self._takes_text:
            self.typed = (self.typed or "") + event.character
        elif self.typed is not None and event.is_printable and event.character:
            self.typed += event.character
        else:
            return
        event.stop()
        event.prevent_default()

    def on_paste(self, event: events.Paste) -> None:
        if self._takes_text:
            self.typed = (self.typed or "") + "".join(event.text.split())[:32]
            event.stop()

    def leave_typing(self) -> bool:
        """Discard the typed value; False if there is none."""
        was, self.typed = self.typed is not None, None
        return was

    def _leave_typing(self) -> None:
        """Leaving a row applies the typed value if it is valid, and discards it if not."""
        self._apply_typed()
        self.typed = None

    def on_blur(self) -> None:
        self._leave_typing()

    def _apply_typed(self) -> None:
        typed = (self.typed or "").strip()
        if not self.complaint:  # else it stays on the screen, with the reason under it
            self.typed = None
            if typed:
                self._set(self.row, read_value(self.row, typed))

    # -- changing ----------------------------------------------------------------------------------

    def step(self, name: str, steps: int) -> None:
        """Move one row by so many steps."""
        self.typed = None
        if name == PRESET:
            self.next_preset(steps)
        else:
            self._changed(self.controls.stepped(name, steps))

    def next_preset(self, steps: int = 1) -> None:
        """Set everything from the preset `steps` further on."""
        self._changed(self._presets.after(self.controls, steps))

    def take_preset(self, name: str) -> None:
        """Set every sampling value from a preset; the seed stays."""
        self._changed(self._presets.taken(self.controls, name))

    def take_stops(self, stops: tuple[str, ...]) -> None:
        """Set the stop strings."""
        self._changed(replace(self.controls, stop=stops))

    def neutralise(self) -> None:
        """Switch every stage off."""
        sampling = presets.neutralise(self.controls.sampling)
        self._changed(replace(self.controls, sampling=sampling, preset="raw"))

    def switch_on(self, name: str) -> None:
        """Switch a sampler on and go to its row."""
        self._changed(self.controls.switched_on(name))
        self.cursor = self.controls.rows.index(name)

    def toggle_seed(self) -> None:
        """Fix the last seed, or return to a fresh one for each generation."""
        fixed = self.controls.sampling.seed is not None
        self._set(SEED, None if fixed else (self.last_seed or 0))

    def _set(self, name: str, value: Any) -> None:
        self._changed(self.controls.with_value(name, value))

    def _changed(self, controls: Controls) -> None:
        if controls != self.controls:
            self.controls = controls
            self.post_message(self.Changed(controls))

    # -- mouse -------------------------------------------------------------------------------------

    def _under(self, event: events.MouseEvent) -> tuple[int, int] | None:
        """Row and column under the mouse, or None outside the rows."""
        offset = event.get_content_offset(self)
        if offset is None:
            return None
        row = offset.y + self.scroll_offset.y
        return (row, offset.x) if row < len(self.controls.rows) else None

    def on_mouse_down(self, event: events.MouseDown) -> None:
        under = self._under(event)
        if under is None:
            return
        self._leave_typing()
        self.cursor, column = under
        start, cells = self._bar(self.scrollable_content_region.width, self.row)
        if self.row in ROW_SETTINGS and cells >= LEAST_CELLS and start <= column < start + cells:
            self._dragging = self.row
            self.capture_mouse()
            self._drag(column)
        elif self.row == PRESET and column > NAME_CELLS:
            self.step(PRESET, 1)
        elif self.row == STOP and column > NAME_CELLS:
            self.post_message(self.EditStops())

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if self._dragging is not None:
            self._drag(event.x - self.gutter.left)

    def on_mouse_up(self) -> None:
        if self._dragging is not None:
            self._dragging = None
            self.release_mouse()

    def _drag(self, column: int) -> None:
        if self._dragging is None:
            return
        start, cells = self._bar(self.scrollable_content_region.width, self._dragging)
        if cells >= LEAST_CELLS:
            part = (column - start) / (cells - 1)
            self._set(self._dragging, at_fraction(ROW_SETTINGS[self._dragging], part))

    def _on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        if not self._wheel(event, 1):
            super()._on_mouse_scroll_up(event)

    def _on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        if not self._wheel(event, -1):
            super()._on_mouse_scroll_down(event)

    def _wheel(self, event: events.MouseEvent, steps: int) -> bool:
        """Change the setting under the mouse; over the names scroll the panel."""
        under = self._under(event)
        if under is None or under[1] <= NAME_CELLS:
            return False
        self.cursor = under[0]
        self.step(self.row, steps)
        event.stop()
        event.prevent_default()
        return True
