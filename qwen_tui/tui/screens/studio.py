"""The studio: prompt editor, streaming output, sampling controls, token inspector, status and keys.

Law: every widget is a picture of the session; what is typed and not committed stays the editor's.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input, TextArea

from qwen_tui.hub import size_text
from qwen_tui.session import drafts
from qwen_tui.session.drafts import Drafts
from qwen_tui.session.session import Session
from qwen_tui.session.tree import Node, Place
from qwen_tui.tui import fold, talk
from qwen_tui.tui.actions import BY_ID, bindings, key_name
from qwen_tui.tui.doors import Desk, Doors
from qwen_tui.tui.files import Seen
from qwen_tui.tui.fold import Pane
from qwen_tui.tui.heat import Heat
from qwen_tui.tui.loading import Loader, VocabRead
from qwen_tui.tui.messages import Failed, GoTo, Loading, Ready, ShowSibling, TakeChoice
from qwen_tui.tui.playing import play
from qwen_tui.tui.screens.deeds import Deeds
from qwen_tui.tui.widgets.branches import Branches
from qwen_tui.tui.widgets.choices import Choices
from qwen_tui.tui.widgets.dials import Controls, Dials
from qwen_tui.tui.widgets.editor import Editor
from qwen_tui.tui.widgets.find import FindBar
from qwen_tui.tui.widgets.output import OutputPane
from qwen_tui.tui.widgets.status import Facts, KeyLine, Notice, Status
from qwen_tui.tui.widgets.tabs import SiblingTabs, Tab
from qwen_tui.tui.writer import Estimate, Writer
from qwen_tui.types import NO_INPUT, Environment, Progress, Token, Trouble
from qwen_tui.visible import visible

if TYPE_CHECKING:
    from qwen_tui.tui.app import QwenTui

POLL_S: Final = 0.25
"""How often the store is asked how saving stands."""
STAGES: Final = {
    "import": "starting the engine",
    "download": "fetching",
    "load": "loading weights",
    "quantise": "quantising",
    "pack": "packing weights",
    "prefill": "reading the text",
}
INVITATION: Final = "Write the beginning of a text. Ctrl+J lets the model go on."
_READ_ONLY: Final = "Alt+F makes a session of your own that begins with all of this one."
NOTHING_YET: Final = "The completion appears here."


class Studio(Deeds, Screen[None]):
    """The main screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings("studio"),
        Binding("tab", "app.focus_next", show=False),
    ]

    def __init__(self, doors: Doors, heat: Heat) -> None:
        super().__init__()
        self.doors = doors
        self._heat = heat
        self.settings = doors.settings
        self.desk: Desk = doors.desk
        self.file: Path | None = doors.file
        self.pane: Pane = "editor"
        self.roads_open = False
        self.chatting = False
        self.instruct = False
        self._other: tuple[Place, str | None] = (Place(None, 0), None)
        self.loader = Loader(doors, self.tell)
        self.writer = self.make_writer()
        self.seen = Seen.of(self.file) if self.file else Seen(None)
        self.trouble: Trouble | None = None
        self.recorded = doors.desk.session.entries if doors.play else []
        if doors.play:
            self.desk = Desk(Session(vocab=doors.desk.session.vocab))
            self.writer = self.make_writer()
        self._estimate = Estimate()
        self._painted: tuple[str | None, int, int] = (None, 0, 0)
        self._count: int | None = None
        self._version = -1

    @property
    def qwen(self) -> QwenTui:
        """The app, by its own type."""
        return cast("QwenTui", self.app)

    def tell(self, message: Any) -> None:
        """Post a message from any thread; nothing once the screen is gone."""
        if self.is_attached and self.app.is_running:
            with suppress(RuntimeError):
                self.post_message(message)

    def make_writer(self) -> Writer:
        """A writer for the session on the desk."""
        return Writer(
            self.desk.session,
            self.doors.runner,
            self.settings,
            changed=self.sync,
            painted=self.paint,
            troubled=self.show_trouble,
        )

    # -- what stands where -------------------------------------------------------------------------

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
                    yield Editor(id="editor", placeholder=INVITATION)
                    yield FindBar(id="find")
                with Vertical(id="output-pane", classes="pane"):
                    yield SiblingTabs(id="tabs")
                    yield OutputPane(id="output", hint=NOTHING_YET)
            with Vertical(id="right"):
                with Vertical(id="dials-pane", classes="pane"):
                    yield Dials(controls, own=dict(settings.presets), id="dials")
                with Vertical(id="choices-pane", classes="pane"):
                    yield Choices(id="choices")
                with Vertical(id="branches-pane", classes="pane"):
                    yield Branches(id="branches")
        yield Notice(id="save-notice", closable=False)
        yield Notice(id="notice")
        yield Status(id="status")
        yield KeyLine(id="keys")

    def on_mount(self) -> None:
        """Show the document at once; the model is opened after the first paint."""
        self.editor = self.query_one(Editor)
        self.output = self.query_one(OutputPane)
        self.dials = self.query_one(Dials)
        self.choices = self.query_one(Choices)
        self.branches = self.query_one(Branches)
        self.status = self.query_one(Status)
        self.notice = self.query_one("#notice", Notice)
        self.built = True
        self.output.show_heat = self.settings.heat
        self.wear(self._heat)
        self.restore()
        self.editor.focus()
        self.set_interval(POLL_S, self._poll)
        self.call_after_refresh(self.loader.begin, self.settings)

    def restore(self) -> None:
        """Show the session on the desk as it was left, with the typing that was not committed."""
        desk = self.desk
        session = desk.session
        self.chatting = talk.is_chat(session)
        self._other = (Place(None, 0), None)
        self.set_class(self.chatting, "-chatting")
        self.editor.set_text("" if self.chatting else session.text, keep_cursor=False)
        if desk.drafts is None and desk.store is not None:
            before = "" if self.chatting else session.text
            draft = drafts.restore(session.id, session.head, before)
            if draft is not None:
                self.editor.select(0, self.editor.size_in_characters)
                self.editor.paste_more(draft[0])
                self.editor.caret = draft[1]
            desk.drafts = Drafts(session.id)
        if self.doors.text and not session.text and not self._text_taken:
            self.editor.set_text(self.doors.text)
        self.notice.tell(desk.read_only, _READ_ONLY if desk.read_only else "", mood="mild")
        self.sync()

    def wear(self, heat: Heat) -> None:
        """Paint with a theme's text styles."""
        self.editor.heat = heat
        self.output.heat = heat
        self.show_legend()
        self._titles()

    def _titles(self) -> None:
        self.query_one("#dials-pane").border_title = Content("Sampling")
        self.query_one("#choices-pane").border_title = Content("What it beat")
        self.query_one("#branches-pane").border_title = Content("Roads")

    # -- folding -----------------------------------------------------------------------------------

    def on_resize(self, event: events.Resize) -> None:
        self._fold()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        for pane in fold.PANES:
            with suppress(NoMatches):
                if event.widget in self.query_one(f"#{pane}-pane").walk_children(with_self=True):
                    self.pane = pane
        self._fold()

    def _fold(self) -> None:
        width, height = self.size
        shown = fold.shown(width, height, self.pane, roads=self.roads_open)
        for pane in fold.PANES:
            self.query_one(f"#{pane}-pane").display = pane in shown
        self.query_one("#left").display = bool(shown & set(fold.LEFT))
        self.query_one("#right").display = bool(shown - set(fold.LEFT))
        self.set_class(width < fold.TWO_COLUMNS, "-one-column")
        self.set_class(fold.TWO_COLUMNS <= width < fold.WIDE, "-tight")
        self.set_class(height < fold.ROOMY, "-short")
        self.set_class(height < fold.BORDERED, "-bare")
        self.folded = len(shown) < (3 if self.roads_open else 4)
        self.show_legend()

    def go_to_pane(self, pane: Pane) -> None:
        """Work in a pane, unfolding it where it is folded away."""
        self.pane = pane
        self._fold()
        self.query_one(f"#{pane}", Widget).focus()

    # -- the picture -------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """There is typing that is not committed; a message that is not sent is none."""
        session = self.desk.session
        return not self.chatting and (
            self.editor.size_in_characters != len(session.text) or self.editor.text != session.text
        )

    @property
    def tentative(self) -> bool:
        """There is a completion to take, and it belongs to the text as it stands."""
        return self.has_tail and not self.chatting and not self.dirty

    @property
    def has_tail(self) -> bool:
        """Something goes on from the document, and more than an eos that ended it."""
        session = self.desk.session
        id, at = session.head
        return id is not None and session.accept_end(id) > at

    @property
    def tail(self) -> list[Token]:
        """What the output pane shows."""
        return self.desk.session.tail if self.has_tail else []

    def show_document(self) -> None:
        """Make the editor show the session's document, in place of typing that waits."""
        if not self.chatting:
            self.editor.set_text(self.desk.session.text)
        self.sync()

    def turn_to(self, *, chatting: bool) -> None:
        """Show the conversation, or the document; where the other one stands is remembered."""
        session = self.desk.session
        self.chatting = chatting
        here, (there, typed) = (session.head, self.editor.text), self._other
        self._other = here
        session.go(there.node, there.at)
        default = "" if chatting else session.text
        self.editor.set_text(default if typed is None else typed)
        self.set_class(chatting, "-chatting")
        if chatting and not self.instruct:
            self.notice.tell(talk.BASE, mood="mild")
        self.sync()

    def sync(self) -> None:
        """Everything but the editor's text, after anything changed."""
        if not self.built:
            return
        session = self.desk.session
        node = self._shown_node()
        context = talk.transcript(session) if self.chatting else ""
        self.output.show(self.tail, context=context, reason=node.reason if node else None)
        self._painted = (session.head.node, session.head.at, len(self.output.tokens))
        self._hint()
        self._tabs()
        self._look()
        if self.roads_open:
            self.branches.show(session.tree, session.head)
        self._measure()
        self.paint_status()
        self.refresh_bindings()

    def paint(self) -> None:
        """After a batch of tokens: only what grew."""
        session = self.desk.session
        head = session.head
        if self._painted[:2] != (head.node, head.at) or head.node is None:
            self.sync()
            return
        node = session.tree[head.node]
        have = head.at + self._painted[2] - node.at
        fresh = node.tokens[have:] if have >= 0 else []
        if fresh:
            self.output.extend(fresh)
            self._painted = (head.node, head.at, self._painted[2] + len(fresh))
            self._look()
        if node.reason is not None:
            self.output.finish(node.reason)
        self._hint()
        self._tabs()
        self.paint_status()

    def _shown_node(self) -> Node | None:
        head = self.desk.session.head
        return self.desk.session.tree[head.node] if head.node and self.has_tail else None

    def _hint(self) -> None:
        """What the empty output pane says."""
        writer = self.writer
        if writer.waiting:
            hint = f"{self._loading_words() or 'Opening the model'}\nThe completion begins then."
        elif writer.running:
            run = self.desk.session.runs.get(writer.generation)
            progress = run.progress if run else None
            hint = _progress_words(progress) if progress else "Reading the text …"
        else:
            hint = NOTHING_YET
        if self.output.hint != hint:
            self.output.hint = hint

    def _tabs(self) -> None:
        session = self.desk.session
        completions = session.completions()
        shown = session.completion
        place = completions.index(shown) if shown in completions else 0
        tabs = [
            Tab(self._state(session.tree[id]), len(session.tree[id].tokens)) for id in completions
        ]
        self.query_one(SiblingTabs).show(tabs, place)
        pane = self.query_one("#output-pane")
        kind = "Chat" if self.chatting else "Completion"
        title = kind if len(tabs) < 2 else f"{kind} {place + 1} of {len(tabs)}"
        if shown and self._state(session.tree[shown]) == "interrupted":
            title += " · interrupted, Ctrl+J goes on"
        pane.border_title = Content(title)

    def _state(self, node: Node) -> str:
        run = self.desk.session.run_of(node.id)
        if node.reason in ("failed", "nan", "oom", "eof"):
            return "failed"
        if node.source != "model" or node.reason is not None:
            return "ended"
        return "running" if run is not None and run.running else "interrupted"

    def show_legend(self) -> None:
        """The colours' meaning, on the output's lower edge."""
        if not self.built:
            return
        pane = self.query_one("#output-pane")
        if not self.output.show_heat:
            pane.border_subtitle = Content("colours off")
            return
        legend = Text(" ").join(
            Text(f"{label}", style=style) for label, style in self.output.heat.legend()
        )
        pane.border_subtitle = legend if self.size.width >= fold.TWO_COLUMNS else Content("")

    def _look(self) -> None:
        """Show what the token under the cursor beat."""
        cursor = self.output.cursor
        tokens = self.output.tokens
        if cursor is None and tokens:
            self.choices.show(tokens[-1], len(tokens) - 1)
        elif cursor is not None and cursor < len(tokens):
            self.choices.show(tokens[cursor], cursor)
        else:
            self.choices.show(None, 0)
        at, total = self.choices.at, len(tokens)
        subtitle = f"{at + 1:,} of {total:,}" if total else ""
        self.query_one("#choices-pane").border_subtitle = Content(subtitle)

    # -- counting ----------------------------------------------------------------------------------

    def _measure(self) -> None:
        """Count the tokens of the text as it stands in the editor."""
        session = self.desk.session
        if session.vocab is None:
            self._count = max(session.head.at, (self.editor.size_in_characters + 3) // 4)
        elif self.chatting:
            self._count = session.head.at + len(session.vocab.encode(self.editor.text))
        elif self.dirty:
            self._count = session.measure(self.editor.text)
        else:
            self._count = session.head.at
        self._document_title()

    def _document_title(self) -> None:
        pane = self.query_one("#editor-pane")
        name = self.file.name if self.file else self.desk.session.title or "Untitled"
        name = "Message" if self.chatting else name
        pane.border_title = Content(visible(name) + (" ✎" if self.dirty else ""))
        row, column = self.editor.cursor_location
        pane.border_subtitle = Content(f"{row + 1}:{column + 1}")

    def paint_status(self) -> None:
        """The line of facts."""
        session, writer = self.desk.session, self.writer
        run = session.runs.get(writer.generation)
        opened = writer.opened
        environment = opened.environment if opened else None
        saved, saved_style = self._saved_words()
        tail = 0 if self.dirty else len(self.output.tokens)
        ttft = run.ttft_ms if run else None
        self.status.facts = Facts(
            model=_short(_model_name(environment) or self.settings.model),
            device=environment.device if environment else "",
            dtype=_precision(environment) if environment else "",
            state=self._state_words(),
            busy=writer.running or writer.waiting or self.doors.runner.state == "loading",
            tokens=(self._count or 0) + tail,
            exact=session.vocab is not None,
            context=writer.context,
            tok_s=run.tok_s if run else 0.0,
            ttft_s=ttft / 1000 if ttft is not None else 0.0,
            seed=run.seed if run else None,
            saved=saved,
            saved_style=saved_style,
            chat=self.chatting,
            read_only=bool(self.desk.read_only),
        )
        if run is not None and run.seed is not None:
            self.dials.last_seed = run.seed

    def _state_words(self) -> str:
        if self.writer.running:
            return "writing"
        if self.writer.waiting:
            return f"queued · {self._loading_words()}"
        return self._loading_words()

    def _loading_words(self) -> str:
        if self.doors.runner.state != "loading":
            return ""
        progress = self._estimate.progress
        if progress is None:
            return "opening the model"
        words = _progress_words(progress)
        left = self._estimate.seconds_left(time.monotonic())
        return f"{words} · {left:.0f} s left" if left is not None else words

    def _saved_words(self) -> tuple[str, str]:
        """How saving stands, and its style."""
        store = self.desk.store
        if store is None:
            return ("" if self.desk.read_only else "not saved"), "$foreground 60%"
        state = store.state
        if state.reason:
            return "✗ not saved", "bold $error"
        if not len(self.desk.session.tree):
            return "", ""
        return ("✓ saved", "$success") if state.saved else ("saving …", "$foreground 60%")

    # -- what is told ------------------------------------------------------------------------------

    def show_trouble(self, trouble: Trouble) -> None:
        """Say what failed and how to mend it; it stays until it is closed."""
        self.notice.tell(trouble.message, trouble.hint)
        self.refresh_bindings()

    def _poll(self) -> None:
        store = self.desk.store
        if store is not None:
            state = store.state
            banner = self.query_one("#save-notice", Notice)
            said = f"Not saved: {state.reason}" if state.reason else ""
            if said != banner.message:
                banner.tell(said, f"{state.path} · {state.held:,} bytes are held in memory")
            if state.notice and state.notice != self._told_notice:
                self._told_notice = state.notice
                self.notice.tell(state.notice, mood="mild")
        self._follow()
        self.paint_status()

    def _follow(self) -> None:
        """Show what another process writes to the session."""
        follower = self.desk.follower
        if follower is not None and (entries := follower.poll()):
            clean = not self.dirty
            for entry in entries:
                self.desk.session.apply(entry)
            if clean:
                self.show_document()
            else:
                self.sync()

    _told_notice = ""
    _text_taken = False

    @on(Loading)
    def _loading(self, message: Loading) -> None:
        self._estimate.update(message.progress, time.monotonic())
        self._hint()
        self.paint_status()

    @on(VocabRead)
    def _vocab_read(self, message: VocabRead) -> None:
        session = self.desk.session
        session.vocab = message.vocab
        if self.doors.text and not self._text_taken and not len(session.tree):
            # only now: without the tokenizer it would be cut into words, and cut again later
            session.commit(self.doors.text, "file" if self.file else None)
        self._text_taken = True
        if message.vocab is not None:
            self.output.special = message.special
        self.dials.checkpoint = message.checkpoint
        self.instruct = message.instruct
        self.writer.fulfil()
        self.sync()

    @on(Ready)
    def _ready(self, message: Ready) -> None:
        self.notice.tell("")
        self.writer.ready(message.opened)
        if self.recorded:
            entries, self.recorded = self.recorded, []
            writer = self.writer
            self.run_worker(play(entries, writer.session, writer.replay, self.show_document))
        self.sync()

    @on(Failed)
    def _failed(self, message: Failed) -> None:
        self.writer.lost()
        self.trouble = message.trouble
        hint = message.trouble.hint
        other = f"{key_name(BY_ID['models'].keys[0])} chooses another model"
        self.show_trouble(
            Trouble(message.trouble.message, hint=f"{hint} · {other}" if hint else other)
        )
        if message.trouble.code == NO_INPUT and not self.loader.asked:
            self.loader.asked = True
            self.action_models(note=message.trouble.message)
        self.sync()

    # -- what widgets say --------------------------------------------------------------------------

    @on(Editor.Edited)
    def _edited(self) -> None:
        self._measure()
        self.keep_draft()
        self.paint_status()
        self.refresh_bindings()

    @on(TextArea.SelectionChanged)
    def _moved(self) -> None:
        self._document_title()

    @on(Editor.FindAsked)
    def _find(self) -> None:
        self.action_find()

    @on(Editor.PasteCut)
    def _paste_cut(self, message: Editor.PasteCut) -> None:
        self.ask_for_the_rest(message)

    @on(OutputPane.TokenSelected)
    def _selected(self) -> None:
        self._look()

    @on(OutputPane.TokenActivated)
    def _activated(self) -> None:
        self.action_inspect()

    @on(Choices.Walk)
    def _walk(self, message: Choices.Walk) -> None:
        self.output.action_step(message.steps)

    @on(TakeChoice)
    def _take(self, message: TakeChoice) -> None:
        self.take_choice(message.at, message.choice)

    @on(Dials.Changed)
    def _dialled(self) -> None:
        self.refresh_bindings()

    @on(Dials.EditStops)
    def _stops(self) -> None:
        self.edit_stops()

    @on(Dials.Said)
    def _dial_said(self, message: Dials.Said) -> None:
        pane = self.query_one("#dials-pane")
        pane.border_subtitle = Content(visible(message.text))
        pane.set_class(message.wrong, "-wrong")

    @on(ShowSibling)
    def _sibling(self, message: ShowSibling) -> None:
        self.show_sibling(message.place)

    @on(GoTo)
    def _go(self, message: GoTo) -> None:
        self.go_there(message.node, message.at)

    @on(Branches.Hide)
    def _hide(self, message: Branches.Hide) -> None:
        self.hide_road(message.node)

    # -- which actions work now --------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether an action does anything now; its key is shown, and taken, only then."""
        if not self.built:
            return action not in BY_ID
        typing_elsewhere = isinstance(self.focused, Input)
        match action:
            case "stop":
                return not typing_elsewhere and self.can_leave()
            case "copy_or_stop" | "find" | "undo" | "redo":
                return not typing_elsewhere
            case "accept" | "accept_word":
                return not typing_elsewhere and self.tentative
            case "regenerate":
                return self.writer.running or self._regenerates()
            case "sibling_next" | "sibling_previous":
                return len(self.desk.session.siblings()) > 1
            case "inspect":
                return bool(self.output.tokens)
        return True

    def _regenerates(self) -> bool:
        """There is a completion, shown or just accepted, that can be asked for again."""
        session = self.desk.session
        last = session.tree.resolve(*session.head).node
        return session.completion is not None or (
            last is not None and session.tree[last].source == "model"
        )

    def worth_showing(self, action: str) -> bool:
        """Whether the line of keys has a place for an action that works."""
        if action == "stop":
            return self.writer.running or self.writer.waiting
        if action == "next_pane":
            return self.folded
        if action == "generate":
            return not self.writer.running or self.dirty
        return True

    folded = False
    built = False
    """The widgets are there."""


def _short(model: str) -> str:
    """A model's name as the status line has room for."""
    return model.rstrip("/").rpartition("/")[2] or model


def _model_name(environment: Environment | None) -> str:
    """What an environment calls its model; empty when it does not."""
    model = environment.model if environment is not None else {}
    return str(model.get("repo") or model.get("path") or "")


def _precision(environment: Environment) -> str:
    """The quantisation, where there is one, else the dtype."""
    return environment.dtype if environment.quant in ("", "none") else environment.quant


def _progress_words(progress: Progress) -> str:
    """A stage and how far it is: `loading weights 1.2 of 4.7 GB`."""
    words = STAGES.get(progress.stage, progress.stage)
    if progress.total <= 1:
        return words
    if progress.stage in ("download", "load"):
        return f"{words} {size_text(progress.done)} of {size_text(progress.total)}"
    if progress.stage == "prefill":
        return f"{words} {progress.done:,} of {progress.total:,} tokens"
    return f"{words} {100 * progress.done // progress.total} %"
