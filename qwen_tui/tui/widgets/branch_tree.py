"""The tree of branches: where each forked, its first words, how it ended; Enter goes there.

Law: shows the session's tree. The continuation of a row's end is below it, at the same depth; other
branches are deeper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip

from qwen_tui.safe_text import visible
from qwen_tui.session.tree import Node, Place, Tree
from qwen_tui.tui.actions import bindings
from qwen_tui.tui.messages import GoTo
from qwen_tui.tui.text.wording import END_MARKS
from qwen_tui.tui.widgets.part_styles import PartStyles
from qwen_tui.types import text_of

FIRST_WORDS: Final = 60
"""Tokens of a node that may show in its row."""
MARKS: Final = {"user": "✎", "file": "▤", "edit": "✎", "choice": "◇", "import": "⇣", "model": "●"}
"""Marks for the source of a node."""


@dataclass(frozen=True, slots=True)
class BranchRow:
    """One node at its depth; `fork` counts tokens from its parent's end, 0 for a continuation."""

    node: Node
    depth: int
    fork: int


def rows_of(tree: Tree, here: str | None = None) -> list[BranchRow]:
    """Every visible node: forks first, one level deeper, then the continuation, at the same
    depth.
    """

    def seen(id: str) -> bool:
        node = tree[id]
        empty = node.source == "model" and node.reason is not None
        empty = empty and len(node.tokens) <= (node.reason == "eos") and not tree.children(id)
        return not node.hidden and (id == here or not empty)

    rows: list[BranchRow] = []
    stack = [(id, 0) for id in reversed(tree.roots()) if seen(id)]
    while stack:
        id, depth = stack.pop()
        node = tree[id]
        parent = tree[node.parent] if node.parent is not None else None
        rows.append(BranchRow(node, depth, parent.end - node.at if parent else 0))
        children = [child for child in tree.children(id) if seen(child)]
        onward = [child for child in children if tree[child].at == node.end]
        main = onward[-1:]
        others = [child for child in children if child not in main]
        stack += [(child, depth) for child in main]
        stack += [(child, depth + 1) for child in reversed(others)]
    return rows


def words_of(node: Node) -> str:
    """The first words of a node on one line."""
    text = text_of(node.tokens[:FIRST_WORDS])
    return visible(" ".join(text.split())) or "⟨empty⟩"


def ending(node: Node) -> str:
    """How a node's generation ended, in a word; empty for what a person wrote."""
    if node.source != "model":
        return ""
    return END_MARKS[node.reason] if node.reason else "┄ open"


class BranchTree(PartStyles, can_focus=True):
    """The panel with the tree of branches."""

    DEFAULT_CSS = """
    BranchTree {
        height: 1fr;
        overflow-x: hidden;
        scrollbar-size-vertical: 1;
        & > .branch-tree--here { color: $accent; text-style: bold; }
        & > .branch-tree--path { color: $foreground; }
        & > .branch-tree--other { color: $foreground 55%; }
        & > .branch-tree--guide { color: $foreground 25%; }
        & > .branch-tree--end { color: $foreground 45%; }
        & > .branch-tree--cursor { background: $primary 18%; }
    }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "branch-tree--here",
        "branch-tree--path",
        "branch-tree--other",
        "branch-tree--guide",
        "branch-tree--end",
        "branch-tree--cursor",
    }
    BINDINGS: ClassVar = [
        *bindings("branches"),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "edge(-1)", show=False),
        Binding("end", "edge(1)", show=False),
    ]

    cursor: reactive[int] = reactive(0)
    """The row the keys act on."""

    @dataclass
    class Hide(Message):
        """Hide a node and its descendants."""

        node: str

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.rows: list[BranchRow] = []
        self._path: frozenset[str] = frozenset()
        self._here: str | None = None

    def show(self, tree: Tree, head: Place) -> None:
        """Show the tree; if the panel was empty the cursor goes to the end of the document."""
        standing = self.rows[self.cursor].node.id if self.rows else head.node
        self.rows = rows_of(tree, head.node)
        self._path = frozenset(piece.node.id for piece in tree.chain(*head))
        self._here = head.node
        places = {row.node.id: number for number, row in enumerate(self.rows)}
        self.cursor = places.get(standing or "", max(0, len(self.rows) - 1))
        self.virtual_size = Size(0, len(self.rows))
        self.refresh()

    def watch_cursor(self, _old: int, cursor: int) -> None:
        if self.is_mounted:
            self.scroll_to_region(Region(0, cursor, 1, 1), animate=False, force=True)

    def render_line(self, y: int) -> Strip:
        """One node."""
        place = y + self.scroll_offset.y
        width = self.scrollable_content_region.width
        if place >= len(self.rows):
            text = " Nothing written yet." if not self.rows and y == 0 else ""
            note = Segment(text, self._part("other"))
            return Strip([note]).adjust_cell_length(width, self.part(""))
        over = "branch-tree--cursor" if place == self.cursor and self.has_focus else ""
        segments = self._row(self.rows[place], width, over)
        return Strip(segments).adjust_cell_length(width, self.part("", over))

    def _part(self, name: str, over: str = "") -> Style:
        return self.part(f"branch-tree--{name}", over)

    def _row(self, row: BranchRow, width: int, over: str) -> list[Segment]:
        node = row.node
        here = node.id == self._here
        style = self._part("here" if here else "path" if node.id in self._path else "other", over)
        depth = min(row.depth, max(0, width // 2 - 8) // 2)
        fork = f"↰{row.fork} " if row.fork else ""
        end = f" {ending(node)} {len(node.tokens)}"
        room = max(4, width - 4 - 2 * depth - len(fork) - len(end))
        words = Strip([Segment(words_of(node), style)]).adjust_cell_length(room, style)
        mark = "★" if node.marked else MARKS.get(node.source, "·")
        return [
            Segment("▸" if here else " ", self._part("here", over)),
            Segment("│ " * depth, self._part("guide", over)),
            Segment(f"{mark} ", style),
            Segment(fork, self._part("guide", over)),
            *words,
            Segment(end, self._part("end", over)),
        ]

    # -- keys and mouse ----------------------------------------------------------------------------

    def action_branch_up(self) -> None:
        self.cursor = max(0, self.cursor - 1)

    def action_branch_down(self) -> None:
        self.cursor = max(0, min(len(self.rows) - 1, self.cursor + 1))

    def action_page(self, by: int) -> None:
        step = by * max(1, self.size.height - 1)
        self.cursor = max(0, min(len(self.rows) - 1, self.cursor + step))

    def action_edge(self, side: int) -> None:
        self.cursor = 0 if side < 0 else max(0, len(self.rows) - 1)

    def action_branch_go(self) -> None:
        if self.rows:
            node = self.rows[self.cursor].node
            self.post_message(GoTo(node.id, node.end))

    def action_branch_hide(self) -> None:
        if self.rows:
            self.post_message(self.Hide(self.rows[self.cursor].node.id))

    def on_click(self, event: events.Click) -> None:
        """A click chooses a row; a double click goes there."""
        offset = event.get_content_offset(self)
        if offset is None:
            return
        place = offset.y + self.scroll_offset.y
        if 0 <= place < len(self.rows):
            self.cursor = place
            if event.chain == 2:
                self.action_branch_go()
