"""The studio's bench: which panes there are, where they stand, and which are folded away.

Law: at every size the pane a person works in is shown.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widget import Widget

from qwen_tui.session.opening import OpenSession
from qwen_tui.session.session import Session
from qwen_tui.session.tree import Place
from qwen_tui.tui.actions import BY_ID, key_name, keymap
from qwen_tui.tui.context import StudioContext
from qwen_tui.tui.sampling_controls import Controls
from qwen_tui.tui.studio import layout
from qwen_tui.tui.studio.layout import Pane
from qwen_tui.tui.studio.model_loading import Loader
from qwen_tui.tui.studio.text_file import Seen
from qwen_tui.tui.theme.heat import Heat
from qwen_tui.tui.widgets.alternatives import Alternatives
from qwen_tui.tui.widgets.branch_tree import BranchTree
from qwen_tui.tui.widgets.editor import Editor
from qwen_tui.tui.widgets.find import FindBar
from qwen_tui.tui.widgets.output import OutputPane
from qwen_tui.tui.widgets.sampling import Dials
from qwen_tui.tui.widgets.status import KeyLine, Notice, Status
from qwen_tui.tui.widgets.tabs import SiblingTabs

INVITATION: Final = "Write the beginning of a text. {} lets the model go on."
NOTHING_YET: Final = "The completion appears here."


class Bench(Screen[None]):
    """The panes and what lies on the desk."""

    folded = False
    """Some pane is not shown."""
    built = False
    """The widgets are there."""
    editor: Editor
    output: OutputPane
    dials: Dials
    choices: Alternatives
    branches: BranchTree
    status: Status
    notice: Notice

    def __init__(self, doors: StudioContext, heat: Heat) -> None:
        super().__init__()
        self.doors = doors
        self._heat = heat
        self.settings = doors.settings
        self.keys = keymap(doors.settings.keys)[0]
        self.desk: OpenSession = doors.desk
        self.file: Path | None = doors.file
        self.pane: Pane = "editor"
        self.roads_open = False
        self.chatting = False
        self.instruct = False
        self._other: tuple[Place, str | None] = (Place(None, 0), None)
        self.loader = Loader(doors, self.tell)
        self.seen = Seen.of(self.file) if self.file else Seen(None)
        self.recorded = doors.desk.session.entries if doors.play else []
        if doors.play:
            self.desk = OpenSession(Session(vocab=doors.desk.session.vocab))

    def key_of(self, action: str) -> str:
        """The first key of an action as a person has it, in words."""
        own = self.keys.get(action, "").split(",")[0]
        return key_name(own or BY_ID[action].keys[0])

    def say(self, text: str, *, seconds: float = 3.0) -> None:
        """A passing word; never the model's."""
        self.notify(text, timeout=seconds, markup=False)

    def tell(self, message: Any) -> None:
        """Post a message from any thread; nothing once the screen is gone."""
        if self.is_attached and self.app.is_running:
            with suppress(RuntimeError):
                self.post_message(message)

    def compose(self) -> ComposeResult:
        settings = self.settings
        controls = Controls(
            settings.sampling,
            settings.max_tokens,
            settings.stop,
            settings.branches,
            settings.preset,
        )
        with Horizontal(id="bench"):
            with Vertical(id="left"):
                with Vertical(id="editor-pane", classes="pane"):
                    yield Editor(
                        id="editor", placeholder=INVITATION.format(self.key_of("generate"))
                    )
                    yield FindBar(id="find")
                with Vertical(id="output-pane", classes="pane"):
                    yield SiblingTabs(id="tabs")
                    yield OutputPane(id="output", hint=NOTHING_YET)
            with Vertical(id="right"):
                with Vertical(id="dials-pane", classes="pane"):
                    yield Dials(controls, own=dict(settings.presets), id="dials")
                with Vertical(id="choices-pane", classes="pane"):
                    yield Alternatives(id="choices")
                with Vertical(id="branches-pane", classes="pane"):
                    yield BranchTree(id="branches")
        yield Notice(id="save-notice", closable=False)
        yield Notice(id="notice")
        yield Status(id="status")
        yield KeyLine(id="keys")

    def name_panes(self) -> None:
        self.query_one("#dials-pane").border_title = Content("Sampling")
        self.query_one("#choices-pane").border_title = Content("Alternatives")
        self.query_one("#branches-pane").border_title = Content("Branches")

    # -- folding -----------------------------------------------------------------------------------

    def on_resize(self, event: events.Resize) -> None:
        self.fold()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        for pane in layout.PANES:
            with suppress(NoMatches):
                if event.widget in self.query_one(f"#{pane}-pane").walk_children(with_self=True):
                    self.pane = pane
        self.fold()

    def fold(self) -> None:
        width, height = self.size
        shown = self.panes()
        for pane in layout.PANES:
            self.query_one(f"#{pane}-pane").display = pane in shown
        self.query_one("#left").display = bool(shown & set(layout.LEFT))
        self.query_one("#right").display = bool(shown - set(layout.LEFT))
        self.set_class(width < layout.TWO_COLUMNS, "-one-column")
        self.set_class(layout.TWO_COLUMNS <= width < layout.WIDE, "-tight")
        self.set_class(height < layout.ROOMY, "-short")
        self.set_class(height < layout.BORDERED, "-bare")
        self.folded = len(shown) < self.panes_in_all()
        self.show_legend()

    def panes(self) -> frozenset[Pane]:
        """The panes that are shown now."""
        return layout.shown(*self.size, self.pane, roads=self.roads_open)

    def panes_in_all(self) -> int:
        """How many stand side by side where there is room."""
        return 3 if self.roads_open else 4

    def go_to_pane(self, pane: Pane) -> None:
        """Work in a pane, unfolding it where it is folded away."""
        self.pane = pane
        self.fold()
        self.query_one(f"#{pane}", Widget).focus()

    def show_legend(self) -> None:
        """The colours' meaning; the picture knows it."""
