"""The sampling controls as they are shown: one row each with name, value and slider.

Law: a value out of its range is shown as such; a row that the completion on the screen was made
with another value of is marked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual.reactive import reactive
from textual.strip import Strip

from qwen_tui.presets import Preset
from qwen_tui.safe_text import visible
from qwen_tui.tui.sampling_controls import (
    PRESET,
    ROW_SETTINGS,
    SEED,
    SHORT,
    STOP,
    Controls,
    PresetChoices,
    made_words,
    read_value,
    row_words,
)
from qwen_tui.tui.widgets.part_styles import PartStyles
from qwen_tui.tui.widgets.slider import slider
from qwen_tui.types import Sampling

NAME_CELLS: Final = 15
VALUE_CELLS: Final = 7
DIFFERS: Final = "≠"
"""Marks a row whose value differs from that of the shown completion."""


class SamplingView(PartStyles):
    """Paints the rows; the one under the cursor shows what is typed."""

    DEFAULT_CSS = """
    SamplingView {
        height: 1fr;
        overflow-x: hidden;
        scrollbar-size-vertical: 1;
        & > .sampling--name { color: $foreground 75%; }
        & > .sampling--value { color: $foreground; text-style: bold; }
        & > .sampling--neutral { color: $foreground 45%; }
        & > .sampling--track { color: $foreground 20%; }
        & > .sampling--fill { color: $primary; }
        & > .sampling--knob { color: $accent; }
        & > .sampling--cursor { background: $primary 18%; }
        & > .sampling--edit { color: $background; background: $accent; }
        & > .sampling--wrong { color: $error; text-style: bold underline; }
    }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"sampling--{part}"
        for part in ["name", "value", "neutral", "track", "fill", "knob", "cursor", "edit", "wrong"]
    }
    controls: reactive[Controls] = reactive(Controls(Sampling()), layout=False)
    """The current values."""
    cursor: reactive[int] = reactive(1)
    """The row the keys act on."""
    typed: reactive[str | None] = reactive[str | None](None)
    """The text being typed into the row, or None."""
    last_seed: reactive[int | None] = reactive[int | None](None)
    """The seed the last generation used."""
    made: reactive[Sampling | None] = reactive[Sampling | None](None)
    """The values of the shown completion; rows that differ from it are marked."""
    several: reactive[str] = reactive("")
    """Which key makes how many completions while the control says one; empty: none does."""

    own: Mapping[str, Preset] = {}
    """A person's own presets, by name."""
    checkpoint: Sampling | None = None
    """The sampling that the checkpoint recommends, once it is known."""

    @property
    def row(self) -> str:
        """The name of the row under the cursor."""
        return self.controls.rows[min(self.cursor, len(self.controls.rows) - 1)]

    @property
    def complaint(self) -> str:
        """Why the typed value is invalid; "" if it is valid."""
        if self.typed is None or not self.typed.strip():
            return ""
        try:
            read_value(self.row, self.typed)
        except ValueError as error:
            return str(error)
        return ""

    @property
    def _presets(self) -> PresetChoices:
        return PresetChoices(self.own, self.checkpoint)

    def preset_label(self) -> str:
        """The name of the preset whose values these are, or `custom`."""
        return self._presets.label(self.controls)

    # -- painting ----------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """One row: name, value, slider."""
        place = y + self.scroll_offset.y
        width = self.scrollable_content_region.width
        rows = self.controls.rows
        if place >= len(rows):
            return Strip.blank(width, self.part(""))
        name = rows[place]
        here = place == self.cursor and self.has_focus
        over = "sampling--cursor" if here else ""
        segments = self._row(name, width, over, here)
        return Strip(segments).adjust_cell_length(width, self.part("", over))

    def _style(self, part: str, over: str) -> Style:
        return self.part(f"sampling--{part}", over)

    def _row(self, name: str, width: int, base: str, here: bool) -> list[Segment]:
        label = SHORT.get(name) or (ROW_SETTINGS[name].label if name in ROW_SETTINGS else name)
        narrow = width <= 34 and name in (PRESET, STOP, SEED)
        wide = len(PRESET) if narrow else NAME_CELLS
        differs = made_words(name, self.controls, self.made)
        segments = [
            Segment("▌" if here else DIFFERS if differs else " ", self._style("knob", base)),
            Segment(f"{label:<{wide}.{wide}}", self._style("name", base)),
        ]
        if here and self.typed is not None:
            style = self._style("wrong" if self.complaint else "edit", base)
            return [*segments, Segment(f" {visible(self.typed)}▏", style)]
        if name not in ROW_SETTINGS:
            text, neutral = row_words(name, self.controls, self.preset_label(), self.last_seed)
            style = self._style("neutral" if neutral else "value", base)
            return [*segments, Segment(" " + text, style)]
        value = self.controls.value(name)
        setting = ROW_SETTINGS[name]
        neutral = value == setting.neutral
        style = self._style("neutral" if neutral else "value", base)
        segments.append(Segment(f"{setting.show(value):>{VALUE_CELLS}} ", style))
        track, fill = self._style("track", base), self._style("fill", base)
        knob = self._style("neutral" if neutral else "knob", base)
        cells, note = self._bar(width, name)[1], self._note(name)
        bar = slider(setting, value, cells, track=track, fill=fill, knob=knob)
        space = " " if note and bar else ""
        return [*segments, *bar, Segment(space + note, self._style("neutral", base))]

    def _note(self, name: str) -> str:
        """What stands behind a row's slider."""
        return self.several if name == "branches" and self.controls.branches == 1 else ""

    def _bar(self, width: int, name: str = "") -> tuple[int, int]:
        """First column and cells of a row's slider."""
        start = 1 + NAME_CELLS + VALUE_CELLS + 1
        note = self._note(name)
        return start, max(0, width - start - 1 - (len(note) + 1 if note else 0))
