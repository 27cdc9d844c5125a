"""The model chooser: models on this disk, downloads, a folder, the demo, servers.

Law: nothing is downloaded until a person chooses it; whether it fits is computed from shapes and
free memory, without loading.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import OptionList, ProgressBar, Static
from textual.widgets.option_list import Option

from qwen_tui import hub
from qwen_tui.hub import Card, Known, Snapshot, size_text
from qwen_tui.paths import expanded
from qwen_tui.safe_text import visible
from qwen_tui.settings import Endpoint
from qwen_tui.tui.context import ENGINE
from qwen_tui.tui.screens.dialogs import AskLine, PathSuggester
from qwen_tui.types import Progress, Trouble

USUAL_CONTEXT: Final = 4096
"""The context in tokens for which memory needs are computed."""
FOLDER: Final = "folder:"
FETCH: Final = "fetch:"

Pull = Callable[[str, Callable[[Progress], None], threading.Event], Snapshot]


def free_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes of available main memory; 0 if the system does not report it."""
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0


def verdict(what: Card | Known, free: int) -> tuple[str, str]:
    """Whether this machine's memory holds a model: (a word for its style, what to say)."""
    full = hub.needs(what, "bf16", "none").total(USUAL_CONTEXT)
    small = hub.needs(what, "bf16", "nf4").total(USUAL_CONTEXT)
    if not free:
        return "unknown", f"{size_text(full)} of memory, {size_text(small)} in 4-bit"
    if full <= free:
        return "runs", f"runs here · {size_text(full)}"
    if small <= free:
        return "small", f"runs here in 4-bit · {size_text(small)}"
    return "never", f"needs {size_text(small)} in 4-bit · {size_text(free)} free"


@dataclass(frozen=True, slots=True)
class Offer:
    """One line of the chooser: the answer when it is chosen, its name, its description."""

    key: str
    name: str
    about: str
    fit: str
    verdict: str


def _offer(key: str, path: Path, name: str, place: str, free: int) -> Offer | None:
    """A checkpoint on this disk; None if it cannot be read."""
    try:
        card = hub.card(path, name)
    except Trouble:
        return None
    kind = "instruct" if card.instruct else "base"
    size = card.parameters / 1e6
    about = f"{size / 1e3:.1f}B · {kind}" if size > 500 else f"{size:.1f}M · {kind}"
    fit, said = verdict(card, free)
    return Offer(key, name, f"{about} · {place}", fit, said)


def offers(
    free: int,
    found: tuple[Snapshot, ...],
    engines: tuple[Endpoint, ...] = (),
    recent: Sequence[str] = (),
) -> list[Offer]:
    """Models on this disk first, then recent folders, servers, downloads, and last another
    folder.
    """
    known_here = [
        _offer(each.name, each.path, each.name, each.place, free) for each in found if each.complete
    ]
    folders = [_offer(each, Path(each), Path(each).name, "folder", free) for each in recent]
    lines = [offer for offer in (*known_here, *folders) if offer is not None]
    for server in engines:
        what = server.model or "its own model"
        lines.append(
            Offer(ENGINE + server.name, server.name, what, "unknown", f"at {server.host_port}")
        )
    here = {each.name for each in found if each.complete}
    broken = {each.name: each.problems[0] for each in found if each.problems}
    for known in hub.KNOWN.values():
        if known.name in here:
            continue
        size = f"{known.parameters / 1e9:.1f}B · {size_text(known.download_bytes)} to fetch"
        if known.name in broken:
            size += " · begun"
        fit, said = verdict(known, free)
        lines.append(Offer(FETCH + known.name, known.name, size, fit, said))
    lines.append(Offer(FOLDER, "A folder…", "any checkpoint on this disk", "unknown", ""))
    return lines


class Models(ModalScreen[str | None]):
    """The chooser. It returns the model a person chose, once that is on this disk, or None.
    `recent` are folders chosen before.
    """

    DEFAULT_CSS = """
    Models { align: center middle; background: $background 60%; }
    Models > Vertical {
        width: 96; max-width: 96%; height: auto; max-height: 92%;
        border: round $primary; border-title-color: $primary; border-title-style: bold;
        border-subtitle-color: $foreground 50%;
        background: $surface; padding: 0 1;
    }
    Models OptionList { height: auto; max-height: 18; border: none; background: $surface; }
    Models OptionList:focus { border: none; }
    Models OptionList > .option-list--option-highlighted {
        background: $primary 22%; color: $foreground; text-style: none;
    }
    Models .note { color: $foreground 65%; height: auto; margin: 0 0 1 0; }
    Models .wrong { color: $error; height: auto; }
    Models ProgressBar { display: none; width: 1fr; }
    Models ProgressBar.-shown { display: block; }
    Models Bar { width: 1fr; }
    """
    BINDINGS: ClassVar = [Binding("escape", "leave", "Leave")]

    class Fetching(Message):
        """Progress of the download; a newer one replaces an older one."""

        def __init__(self, progress: Progress) -> None:
            super().__init__()
            self.progress = progress

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, Models.Fetching)

    @dataclass
    class Fetched(Message):
        """The download ended: the model's name, or the error."""

        name: str
        trouble: str
        hint: str = ""

    def __init__(
        self,
        *,
        note: str = "",
        free: int | None = None,
        found: tuple[Snapshot, ...] | None = None,
        engines: tuple[Endpoint, ...] = (),
        recent: Sequence[str] = (),
        pull: Pull = hub.pull,
    ) -> None:
        super().__init__()
        self._note = note
        self._free = free_memory() if free is None else free
        self._found = found
        self._engines = engines
        self._recent = recent
        self._pull = pull
        self._cancel = threading.Event()
        self.fetching = ""
        """The model that is being downloaded."""

    def compose(self) -> ComposeResult:
        box = Vertical()
        box.border_title = "Model"
        box.border_subtitle = "Enter chooses · Esc leaves"
        with box:
            yield Static(Content(visible(self._note)), classes="note", markup=False)
            yield OptionList(id="offers", markup=False)
            yield Static(Content(""), classes="wrong", markup=False)
            yield ProgressBar(show_eta=True)

    def on_mount(self) -> None:
        self.query_one(".note").display = bool(self._note)
        choose = self.query_one(OptionList)
        found = hub.installed() if self._found is None else self._found
        for offer in offers(self._free, found, self._engines, self._recent):
            choose.add_option(Option(_line(offer), id=offer.key))
        choose.highlighted = 0
        choose.focus()

    def on_unmount(self) -> None:
        self._cancel.set()

    def action_leave(self) -> None:
        """Stop a running download (its files are kept), or leave."""
        if self.fetching:
            self._cancel.set()
        else:
            self.dismiss(None)

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        key = event.option.id or ""
        if self.fetching:
            return
        if key == FOLDER:
            self.app.push_screen(
                AskLine(
                    "A folder",
                    placeholder="~/models/Qwen2.5-7B",
                    note="Tab completes the path.",
                    check=_complaint,
                    suggester=PathSuggester(folders=True),
                ),
                self._folder,
            )
        elif key.startswith(FETCH):
            self._fetch(key.removeprefix(FETCH))
        else:
            self.dismiss(key)

    def _folder(self, answer: str | None) -> None:
        if answer:
            self.dismiss(str(expanded(answer)))

    # -- fetching ----------------------------------------------------------------------------------

    def _fetch(self, name: str) -> None:
        self.fetching = name
        self._cancel = cancel = threading.Event()
        self.query_one(".wrong", Static).update(Content(""))
        self.query_one(ProgressBar).add_class("-shown")
        self.query_one(Vertical).border_subtitle = Content(f"fetching {name} · Esc stops")

        def work() -> None:
            try:
                self._pull(name, lambda progress: self._say(self.Fetching(progress)), cancel)
            except hub.Stopped:
                self._say(self.Fetched(name, "stopped", "what was fetched stays; Enter goes on"))
            except Trouble as trouble:
                self._say(self.Fetched(name, trouble.message, trouble.hint))
            else:
                self._say(self.Fetched(name, ""))

        threading.Thread(target=work, name="fetch", daemon=True).start()

    def _say(self, message: Message) -> None:
        if self.is_attached:
            self.post_message(message)

    def on_models_fetching(self, message: Fetching) -> None:
        progress = message.progress
        self.query_one(ProgressBar).update(
            total=progress.total or None, progress=float(progress.done)
        )
        done, total = size_text(progress.done), size_text(progress.total)
        self.query_one(Vertical).border_subtitle = Content(
            f"{self.fetching} · {done} of {total} · Esc stops"
        )

    def on_models_fetched(self, message: Fetched) -> None:
        self.fetching = ""
        self.query_one(ProgressBar).remove_class("-shown")
        self.query_one(Vertical).border_subtitle = "Enter chooses · Esc leaves"
        if not message.trouble:
            self.dismiss(message.name)
            return
        said = Content(visible(message.trouble))
        if message.hint:
            said += Content("\n") + Content.styled(visible(message.hint), "$foreground 75%")
        self.query_one(".wrong", Static).update(said)


def _complaint(text: str) -> str:
    """Why a folder is not a model; "" if it is."""
    try:
        hub.find(str(expanded(text)))
    except Trouble as trouble:
        return f"{trouble.message} {trouble.hint}".strip()
    return ""


FETCHABLE: Final = "↓"
"""Marks a model that is not on this disk and fits into memory, or whose fit is unknown."""
_STYLES: Final = {
    "runs": ("✓", "$success"),
    "small": ("✓", "$warning"),
    "never": ("✗", "$error"),
    "unknown": (" ", "$foreground 50%"),
}


def _line(offer: Offer) -> Content:
    mark, style = _STYLES[offer.fit]
    if offer.key.startswith(FETCH) and offer.fit != "never":
        mark = FETCHABLE
    name = visible(offer.name)
    return (
        Content.styled(f"{mark} ", style)
        + Content.styled(f"{name:<28} ", "bold")
        + Content.styled(f"{offer.about:<34} ", "$foreground 70%")
        + Content.styled(offer.verdict, style)
    )
