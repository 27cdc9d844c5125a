"""The panes of the studio: what each shows, where it is, and which are folded away.

Law: it shows the workspace and changes nothing in it; for appended tokens only those are painted.
At every size the pane a person works in is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.geometry import Size

from qwen_tui.settings import Settings
from qwen_tui.tui.studio import layout, view
from qwen_tui.tui.studio.completion_pane import CompletionPane
from qwen_tui.tui.studio.document_pane import DocumentPane
from qwen_tui.tui.studio.document_tokens import DocumentTokens
from qwen_tui.tui.studio.frame import Frame
from qwen_tui.tui.studio.layout import Pane
from qwen_tui.tui.studio.sampling_pane import SamplingPane
from qwen_tui.tui.studio.side_panes import AlternativesPane, BranchesPane
from qwen_tui.tui.studio.workspace import Workspace
from qwen_tui.tui.theme.heat import Heat
from qwen_tui.tui.widgets.alternatives import Alternatives
from qwen_tui.tui.widgets.editor import Editor
from qwen_tui.tui.widgets.output import OutputPane
from qwen_tui.types import Token


class Panes(Horizontal):
    """All panes in two columns, folded to the terminal's size."""

    def __init__(self, settings: Settings, key_of: Callable[[str], str]) -> None:
        super().__init__()
        self.document = DocumentPane(key_of("generate"), show_heat=settings.heat, tab=settings.tab)
        self.completion = CompletionPane(show_heat=settings.heat)
        self.sampling = SamplingPane(settings)
        self.alternatives = AlternativesPane()
        self.branches = BranchesPane()
        self.frames: dict[Pane, Frame] = {
            "document": self.document,
            "completion": self.completion,
            "sampling": self.sampling,
            "alternatives": self.alternatives,
            "branches": self.branches,
        }
        self.pane: Pane = "document"
        """The pane a person works in."""
        self.branches_open = False
        """Whether the tree of branches is shown in the right column."""
        self.inline = False
        """Whether the completion is shown in the document."""
        self.inspected: DocumentTokens | None = None
        """The document's tokens while the inspector walks them; None: it walks the completion."""
        self._terminal = Size(0, 0)

    def compose(self) -> ComposeResult:
        """Document and completion on the left, controls and inspector on the right."""
        with Vertical(id="left"):
            yield from (self.frames[pane] for pane in layout.LEFT)
        with Vertical(id="right"):
            yield from (self.frames[pane] for pane in layout.PANES if pane not in layout.LEFT)

    # -- what is shown -----------------------------------------------------------------------------

    def show(self, work: Workspace) -> None:
        """Show everything as it is now."""
        self.completion.output.special = work.special
        self.completion.show(view.completion(work))
        self.set_class(work.text.chatting, "-chatting")
        self.document.invite(chatting=work.text.chatting)
        if self.inline != view.stands_inline(work):
            self.inline = not self.inline
            self.fold()
        if self.branches_open:
            self.branches.show(work.session.tree, work.session.head)
        self.colour(work)
        self.show_frames(work)

    def show_frames(self, work: Workspace) -> None:
        """Show the frames, and the completion if it is inline."""
        if self.inspected and (self.inspected.head != work.session.head or work.text.dirty):
            self.inspect(None)
        frame = view.completion_frame(work)
        self.completion.show_frame(frame)
        tokens = self.completion.tokens
        inline = min(view.inline_count(work), len(tokens))
        self.document.show_tail(work.session.head, tokens, inline)
        self.document.show_frame(view.document_title(work, frame), view.document_badge(work))
        self.sampling.show(view.shown_sampling(work))
        self.look()

    def grow(self, work: Workspace, tokens: Sequence[Token]) -> None:
        """Show new tokens of the completion."""
        node = view.shown_node(work)
        self.completion.grow(tokens, node.reason if node else None)
        self.show_frames(work)

    def look(self) -> None:
        """Show the alternatives of the current token."""
        if self.inspected is not None:
            self.alternatives.show(self.inspected.token, self.inspected.at, len(self.inspected))
            return
        token, at = self.completion.marked
        self.alternatives.show(token, at, len(self.completion.tokens))

    def inspect(self, tokens: DocumentTokens | None) -> None:
        """Walk the document's tokens from now on; None: the completion's."""
        self.inspected = tokens
        self.document.editor.mark_token(tokens.span if tokens else None)
        self.look()

    @on(OutputPane.TokenSelected)
    def _token_selected(self, message: OutputPane.TokenSelected) -> None:
        if message.index is not None and self.inspected is not None:
            self.inspect(None)
        self.look()

    @on(Alternatives.Walk)
    def _walk(self, message: Alternatives.Walk) -> None:
        if self.inspected is None:
            self.completion.output.action_step(message.steps)
        else:
            self.inspected.walk(message.steps)
            self.inspect(self.inspected)

    def colour(self, work: Workspace) -> None:
        """Colour the model's text in the document by probability, while the document is in the
        editor.
        """
        if not work.text.chatting and not work.text.dirty:
            key = (work.session.head, work.text.revision)
            self.document.colour(key, lambda: view.document_tokens(work))

    def use_heat(self, heat: Heat, work: Workspace) -> None:
        """Paint with a theme's text styles."""
        self.document.editor.heat = heat
        self.completion.use_heat(heat)
        self.colour(work)
        self.show_frames(work)

    def turn_heat(self) -> None:
        """Colour tokens by probability, or not."""
        self.document.show_heat = self.completion.show_heat = not self.completion.show_heat

    # -- where a person works ----------------------------------------------------------------------

    def go_to(self, pane: Pane) -> None:
        """Work in a pane, unfolding it where it is folded away."""
        self.pane = pane
        self.fold()
        self.frames[pane].inside.focus()

    def go_to_next(self) -> None:
        """Work in the next pane, cyclically."""
        self.go_to(layout.after(self.pane, branches=self.branches_open))

    @on(Editor.FindAsked)
    def find(self) -> None:
        """Search the document and the completion."""
        needle = self.document.editor.selected_text
        self.go_to("document")
        self.document.find_bar.open(self.document.editor, self.completion.output, needle=needle)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """The pane that has the focus is the one a person works in."""
        for pane, frame in self.frames.items():
            if frame in event.widget.ancestors:
                self.pane = pane
        if self.pane == "document":
            self.inspect(None)
        self.fold()

    # -- folding -----------------------------------------------------------------------------------

    @property
    def folded(self) -> bool:
        """Whether some pane is neither shown nor replaced by another."""
        there = (3 if self.branches_open else 4) - self.inline
        return len(self._shown()) < there

    def fit(self, terminal: Size) -> None:
        """Fold for a terminal of this size."""
        self._terminal = terminal
        self.completion.roomy = terminal.width >= layout.TWO_COLUMNS
        self.fold()

    def fold(self) -> None:
        """Show the panes that fit now."""
        width, height = self._terminal
        shown = self._shown()
        for pane, frame in self.frames.items():
            frame.display = pane in shown
        self.query_one("#left").display = bool(shown & set(layout.LEFT))
        self.query_one("#right").display = bool(shown - set(layout.LEFT))
        self.set_class(width < layout.TWO_COLUMNS, "-one-column")
        self.set_class(layout.TWO_COLUMNS <= width < layout.WIDE, "-tight")
        self.set_class(height < layout.ROOMY, "-short")
        self.set_class(height < layout.BORDERED, "-bare")

    def _shown(self) -> frozenset[Pane]:
        return layout.shown(
            *self._terminal,
            self.pane,
            branches=self.branches_open,
            inline=self.inline,
            inspected="document" if self.inspected else "completion",
        )
