"""The pane of the sampling controls, with an explanation of the current one on its lower edge."""

from __future__ import annotations

from textual import on, work
from textual.content import Content

from qwen_tui.presets import Preset
from qwen_tui.safe_text import visible
from qwen_tui.settings import Settings
from qwen_tui.tui.facts import ShownSampling
from qwen_tui.tui.sampling_controls import ROWS, Controls
from qwen_tui.tui.studio import questions
from qwen_tui.tui.studio.frame import Frame
from qwen_tui.tui.studio.remembered import controls_set
from qwen_tui.tui.widgets.sampling import SamplingControls


class SamplingPane(Frame):
    """The sampling controls in a frame."""

    def __init__(self, settings: Settings) -> None:
        own: dict[str, Preset] = dict(settings.presets)
        self.panel = SamplingControls(controls_set(settings), own=own)
        super().__init__(self.panel, inside=self.panel, title="Sampling")

    @property
    def controls(self) -> Controls:
        """The current values."""
        return self.panel.controls

    @controls.setter
    def controls(self, controls: Controls) -> None:
        self.panel.controls = controls

    def show(self, shown: ShownSampling) -> None:
        """Take in the checkpoint's recommended sampling, and the values of the shown completion."""
        self.panel.checkpoint = shown.checkpoint
        self.panel.last_seed = shown.last_seed
        self.panel.made = shown.made
        self.panel.several = shown.several
        self._fit()

    @on(SamplingControls.Changed)
    def _fit(self) -> None:
        """Be as high as the rows are many, where there is room."""
        self.set_class(bool(self.controls.sampling.logit_bias), "-biased")
        self.set_class(len(self.controls.rows) > len(ROWS) + 1, "-more")

    @on(SamplingControls.Said)
    def _show_help(self, message: SamplingControls.Said) -> None:
        self.border_subtitle = Content(visible(message.text))
        self.set_class(message.wrong, "-wrong")

    @on(SamplingControls.EditStops)
    @work
    async def _edit_stops(self) -> None:
        stops = await questions.stop_strings(self.app, self.controls.stop)
        if stops is not None:
            self.panel.take_stops(stops)

    # -- what a person asks for, and the words that say what it did --------------------------------

    def neutralise(self) -> str:
        """Switch every stage off."""
        self.panel.neutralise()
        return "Sampling is neutral: the model's own distribution."

    def next_preset(self) -> str:
        """Set the controls from the next preset."""
        self.panel.next_preset()
        return f"Preset: {self.panel.preset_label()}"

    def fix_seed(self) -> str:
        """Keep the last seed, or take a fresh one each time."""
        self.panel.toggle_seed()
        seed = self.controls.sampling.seed
        return "A fresh seed each time." if seed is None else f"Seed {seed} stays."
