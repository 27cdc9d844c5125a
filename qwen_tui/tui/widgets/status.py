"""The status line, the keys that work right now, and notices that stay until they are closed.

Law: what does not fit is left out by rank, never cut in the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from rich.cells import cell_len
from textual import events
from textual.binding import Binding
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.screen import Screen
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Static

from qwen_tui.safe_text import visible
from qwen_tui.tui.actions import BY_ID, short_key_name
from qwen_tui.tui.facts import StatusFacts

FULL_SHARE: Final = 0.9
"""Share of the context from which the meter warns."""


def meter(facts: StatusFacts) -> str:
    """The context meter: `1,204 / 131,072`; `~` before a count that is estimated."""
    if facts.tokens is None:
        return ""
    count = f"{'' if facts.exact else '~'}{facts.tokens:,}"
    return f"{count} / {facts.context:,}" if facts.context else f"{count} tokens"


class Status(Widget):
    """One line of facts."""

    DEFAULT_CSS = """
    Status {
        height: 1;
        width: 1fr;
        background: $panel;
        color: $foreground 80%;
    }
    """

    facts: reactive[StatusFacts] = reactive(StatusFacts())
    """What it tells now."""

    def _pieces(self) -> list[tuple[int, Content]]:
        """Every piece with its rank: 1 is left out last."""
        facts = self.facts
        pieces: list[tuple[int, Content]] = []

        def add(rank: int, text: str, style: str = "") -> None:
            if text:
                pieces.append((rank, Content.styled(text, style) if style else Content(text)))

        add(3, visible(facts.model), "bold $foreground")
        add(6, visible(facts.device))
        add(7, visible(facts.dtype))
        add(5, "chat" if facts.chat else "", "$secondary")
        add(2, "read-only" if facts.read_only else "", "$warning")
        add(2, visible(facts.state), "$accent" if facts.busy else "")
        if facts.tokens is not None:
            full = facts.context and facts.tokens >= facts.context * FULL_SHARE
            over = facts.context and facts.tokens >= facts.context
            style = "$error" if over else "$warning" if full else "$foreground"
            add(1, meter(facts), style)
        add(4, f"{facts.tok_s:.1f} tok/s" if facts.tok_s else "")
        add(8, f"TTFT {facts.ttft_s:.2f} s" if facts.ttft_s else "")
        add(9, f"seed {facts.seed}" if facts.seed is not None else "")
        add(2, facts.saved, facts.saved_style)
        add(2, visible(facts.file), "$warning")
        return pieces

    def render(self) -> Content:
        """As many pieces as fit, in their order."""
        pieces = self._pieces()
        width = self.size.width - 2
        while pieces and _width(pieces) > width:
            pieces.remove(max(pieces, key=lambda piece: piece[0]))
        gap = Content.styled(GAP, "$foreground 35%")
        return Content(" ") + gap.join([piece for _, piece in pieces])


GAP: Final = " · "


def _width(pieces: list[tuple[int, Content]]) -> int:
    return sum(piece.cell_length for _, piece in pieces) + len(GAP) * (len(pieces) - 1)


class KeyLine(Widget):
    """The keys that work now, the most useful first; a click presses one. A brief message may take
    their place for a moment, so that it covers nothing else.
    """

    DEFAULT_CSS = """
    KeyLine {
        height: 1;
        width: 1fr;
        background: $background;
        color: $foreground 60%;
    }
    """
    ALLOW_SELECT = False

    def __init__(
        self, shows: Callable[[str], bool] = lambda _action: True, *, id: str | None = None
    ) -> None:
        """`shows`: whether there is a place for an action that works."""
        super().__init__(id=id)
        self._shows = shows
        self._places: list[tuple[int, int, str]] = []
        self._said = ""
        self._until: Timer | None = None

    def say(self, text: str, seconds: float) -> bool:
        """Show a brief message for so many seconds, or until the next one; False if there is no
        room.
        """
        if "\n" in text or cell_len(text) > self.size.width - 2:
            return False
        self._said = text
        if self._until is not None:
            self._until.stop()
        self._until = self.set_timer(seconds, self._forget)
        self.refresh()
        return True

    def _forget(self) -> None:
        self._said = ""
        self.refresh()

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_changed)

    def _bindings_changed(self, _screen: Screen[object]) -> None:
        self.refresh()

    def _keys(self) -> list[Binding]:
        """One binding per action that works now, by rank."""
        found: dict[str, Binding] = {}
        for active in self.screen.active_bindings.values():
            name = active.binding.id or ""
            useful = active.enabled and name in BY_ID and BY_ID[name].rank > 0
            if useful and name not in found and self._shows(name):
                found[name] = active.binding
        return sorted(found.values(), key=lambda binding: BY_ID[binding.id or ""].rank)

    def render(self) -> Content:
        """As many keys as fit, help always last; or the brief message."""
        if self._said:
            self._places = []
            return Content.styled(f" {visible(self._said)}", "$foreground")
        keys = self._keys()
        tail = [binding for binding in keys if binding.id == "help"]
        room = self.size.width - 1 - sum(self._piece(each).cell_length + 2 for each in tail)
        kept: list[Binding] = []
        for binding in keys:
            room -= self._piece(binding).cell_length + 2
            if room < 0:
                break
            if binding not in tail:
                kept.append(binding)
        self._places, at = [], 1
        line = Content(" ")
        for binding in [*kept, *tail]:
            piece = self._piece(binding)
            self._places.append((at, at + piece.cell_length, binding.key))
            line += piece + Content("  ")
            at += piece.cell_length + 2
        return line

    @staticmethod
    def _piece(binding: Binding) -> Content:
        key = Content.styled(short_key_name(binding.key), "bold $accent")
        return key + Content(f" {BY_ID[binding.id or ''].name}")

    def on_click(self, event: events.Click) -> None:
        """Press the clicked key; on a brief message, show the keys again."""
        if self._said:
            self._forget()
        for start, end, key in self._places:
            if start <= event.x < end:
                self.app.simulate_key(key)


class Notice(Static):
    """A message with a hint at what to do; it stays until it is closed or its cause is gone."""

    DEFAULT_CSS = """
    Notice {
        width: 1fr;
        height: auto;
        max-height: 6;
        padding: 0 1;
        display: none;
        background: $error 15%;
        border-left: thick $error;
        color: $foreground;
        &.-shown { display: block; }
        &.-mild { background: $warning 12%; border-left: thick $warning; }
        &.-calm { background: $primary 12%; border-left: thick $primary; }
    }
    """
    ALLOW_SELECT: ClassVar[bool] = True

    class Closed(Message):
        """A person closed the notice."""

        def __init__(self, notice: Notice) -> None:
            super().__init__()
            self.notice = notice

    def __init__(self, *, id: str | None = None, closable: bool = True) -> None:
        super().__init__(Content(""), id=id, markup=False)
        self.closable = closable
        self.message = ""

    def tell(self, message: str, hint: str = "", *, kind: str = "") -> None:
        """Show a message and a hint; an empty one hides the notice. `kind`: "", mild or calm."""
        self.message = message
        self.set_class(bool(message), "-shown")
        for name in ("mild", "calm"):
            self.set_class(kind == name, f"-{name}")
        if not message:
            return
        content = Content.styled(visible(message), "bold")
        if hint:
            content += Content("\n") + Content.styled(visible(hint), "$foreground 75%")
        if self.closable:
            content = Content.styled("✕ ", "$foreground 60%") + content
        self.update(content)

    @property
    def shown(self) -> bool:
        """Whether it is visible."""
        return self.has_class("-shown")

    def on_click(self, event: events.Click) -> None:
        """The cross closes it."""
        offset = event.get_content_offset(self)
        if offset is not None and offset.y == 0 and offset.x < 2:
            self.action_close()

    def action_close(self) -> None:
        """Take it away."""
        if self.closable and self.shown:
            self.tell("")
            self.post_message(self.Closed(self))
