"""The completion's pane: the tokens as they stream, its siblings as tabs, the legend of colours.

Law: it shows what it is given; for appended tokens only those are painted.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.content import Content
from textual.reactive import reactive

from qwen_tui.session.tree import Place
from qwen_tui.tui.facts import Completion, CompletionFrame
from qwen_tui.tui.studio.frame import Frame
from qwen_tui.tui.theme.heat import Heat
from qwen_tui.tui.widgets.output import OutputPane
from qwen_tui.tui.widgets.tabs import SiblingTabs
from qwen_tui.types import Reason, Token


class CompletionPane(Frame):
    """Shows the document's completion, and which of its siblings it is."""

    show_heat: reactive[bool] = reactive(True, init=False)
    """Whether tokens are coloured by probability, with a legend on the lower edge."""
    roomy: reactive[bool] = reactive(True, init=False)
    """Whether the lower edge has room for the legend."""

    def __init__(self, *, show_heat: bool) -> None:
        self.tabs = SiblingTabs()
        self.output = OutputPane()
        super().__init__(self.tabs, self.output, inside=self.output)
        self.set_reactive(CompletionPane.show_heat, show_heat)
        self.output.set_reactive(OutputPane.show_heat, show_heat)
        self._place: Place | None = None

    # -- what is shown -----------------------------------------------------------------------------

    def show(self, completion: Completion) -> None:
        """Show these tokens. If others were shown before, no token is marked any more."""
        if completion.place != self._place:
            self._place = completion.place
            self.output.cursor = None
        self.output.show(completion.tokens, context=completion.context, reason=completion.reason)

    def grow(self, tokens: Sequence[Token], reason: Reason | None) -> None:
        """Append tokens as they come; `reason`: why the completion ended."""
        if tokens:
            self.output.extend(tokens)
        if reason is not None:
            self.output.finish(reason)

    def show_frame(self, frame: CompletionFrame) -> None:
        """Show which completion it is, and the text of an empty pane."""
        self.border_title = Content(frame.title)
        self.tabs.show(list(frame.tabs), frame.shown)
        self.output.hint = frame.hint
        self.output.stale = frame.stale

    def follow(self) -> None:
        """Mark no token, and follow the end while tokens come."""
        self.output.cursor = None
        self.output.follow = True

    # -- the tokens a person looks at --------------------------------------------------------------

    @property
    def tokens(self) -> Sequence[Token]:
        """The tokens shown; read only."""
        return self.output.tokens

    @property
    def marked(self) -> tuple[Token | None, int]:
        """The current token and its index: the marked one, else the last."""
        tokens, cursor = self.output.tokens, self.output.cursor
        at = len(tokens) - 1 if cursor is None else cursor
        return (tokens[at], at) if 0 <= at < len(tokens) else (None, 0)

    # -- colours -----------------------------------------------------------------------------------

    def use_heat(self, heat: Heat) -> None:
        """Paint with a theme's text styles from now on."""
        self.output.heat = heat
        self._show_legend()

    def watch_show_heat(self, show_heat: bool) -> None:
        """Colour the tokens, or not."""
        self.output.show_heat = show_heat
        self._show_legend()

    def watch_roomy(self) -> None:
        """Show the legend if there is room."""
        self._show_legend()

    def _show_legend(self) -> None:
        if not self.show_heat:
            self.border_subtitle = Content("colours off")
        elif not self.roomy:
            self.border_subtitle = Content("")
        else:
            levels = self.output.heat.legend()
            self.border_subtitle = Text(" ").join(Text(label, style) for label, style in levels)
