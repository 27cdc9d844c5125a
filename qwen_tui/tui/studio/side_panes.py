"""The side panes: the alternatives of a token, and the tree of branches."""

from __future__ import annotations

from textual.content import Content

from qwen_tui.session.tree import Place, Tree
from qwen_tui.tui.studio.frame import Frame
from qwen_tui.tui.widgets.alternatives import Alternatives
from qwen_tui.tui.widgets.branch_tree import BranchTree
from qwen_tui.types import Token


class AlternativesPane(Frame):
    """Shows the alternatives of one token."""

    def __init__(self) -> None:
        self.list = Alternatives()
        super().__init__(self.list, inside=self.list, title="Alternatives")

    def show(self, token: Token | None, at: int, total: int) -> None:
        """Show token `at` of `total`; None: there is none."""
        self.list.show(token, at)
        self.border_subtitle = Content(f"{at + 1:,} of {total:,}" if total else "")


class BranchesPane(Frame):
    """Shows every branch of the session."""

    def __init__(self) -> None:
        self.tree_view = BranchTree()
        super().__init__(self.tree_view, inside=self.tree_view, title="Branches")

    def show(self, tree: Tree, head: Place) -> None:
        """Show the tree; the document ends at `head`."""
        self.tree_view.show(tree, head)
