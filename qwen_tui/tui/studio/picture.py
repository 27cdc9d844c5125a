"""The studio's picture of the session: document, completion, tabs, inspector, status, notices.

Law: it changes nothing of the session; what only grew is painted as what grew.
"""

from __future__ import annotations

import time
from typing import Final

from rich.text import Text
from textual.content import Content

from qwen_tui.safe_text import visible
from qwen_tui.session import drafts
from qwen_tui.session.drafts import Drafts
from qwen_tui.session.generations import GenerationState
from qwen_tui.session.tree import Node, Place
from qwen_tui.tui.context import StudioContext
from qwen_tui.tui.studio import chat, layout
from qwen_tui.tui.studio.bench import NOTHING_YET, Bench
from qwen_tui.tui.studio.generation import Estimate, Wish, Writer
from qwen_tui.tui.text.editor_document import heat_spans
from qwen_tui.tui.text.wording import model_name, precision, progress_words, short
from qwen_tui.tui.theme.heat import Heat
from qwen_tui.tui.widgets.status import Facts, Notice
from qwen_tui.tui.widgets.tabs import SiblingTabs, Tab
from qwen_tui.types import Token, Trouble, text_of
from qwen_tui.vocab import is_nfc

_LOST: Final = "The session's file was replaced; what stands here is what it was."
MOST_COLOURED: Final = 20_000
"""Tokens of the document that wear their heat, counted from its end."""
POLL_S: Final = 0.25
"""How often the store is asked how saving stands."""
_READ_ONLY: Final = "{} makes a session of your own that begins with all of this one."


class Picture(Bench):
    """Paints what the session says."""

    def __init__(self, doors: StudioContext, heat: Heat) -> None:
        super().__init__(doors, heat)
        self.writer = self.make_writer()
        self.estimate = Estimate()
        self._painted: tuple[str | None, int, int] = (None, 0, 0)
        self._count: int | None = None
        self._composed = True
        """The text is NFC, as what models learn from is."""
        self._told_notice = ""
        self.completion_title = ""
        """Which completion is shown, in words."""
        self.unmet: Wish | None = None
        """What was asked of a model that could not be opened."""
        self._shown_text = ""
        """The document as it was last shown; what differs from it in the editor is typing."""
        self._coloured: tuple[Place, bool, Heat] | None = None
        self.text_taken = False
        """The text to begin with has been put into the session."""

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

    def restore(self) -> None:
        """Show the session on the desk as it was left, with the typing that was not committed."""
        desk = self.desk
        session = desk.session
        self.chatting = chat.is_chat(session)
        self._other, self._coloured = (Place(None, 0), None), None
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
        if self.doors.text and not session.text and not self.text_taken:
            self.editor.set_text(self.doors.text)
        told = (desk.read_only, "interrupted")  # the output pane's title says the latter
        suffered = " · ".join(
            badge for badge in desk.badges if not any(word and word in badge for word in told)
        )
        hint = _READ_ONLY.format(self.key_of("fork_session")) if desk.read_only else ""
        self.notice.tell(desk.read_only or suffered, hint, mood="mild")
        self.sync()

    def wear(self, heat: Heat) -> None:
        """Paint with a theme's text styles."""
        self.editor.heat = heat
        self.output.heat = heat
        self.show_legend()
        self.name_panes()
        self.colour_document()

    # -- the document ------------------------------------------------------------------------------

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
            self._shown_text = self.desk.session.text
            self._coloured = None
        self.sync()

    def turn_to(self, *, chatting: bool) -> None:
        """Show the conversation, or the document; where the other one stands is remembered."""
        session = self.desk.session
        self.chatting = chatting
        here, (there, typed) = (session.head, self.editor.text), self._other
        self._other = here
        session.go(there.node, there.at)
        default = "" if chatting else session.text
        self._coloured = None
        self.editor.set_text(default if typed is None else typed)
        self.set_class(chatting, "-chatting")
        if chatting and not self.instruct:
            self.notice.tell(chat.BASE, mood="mild")
        self.sync()

    # -- the completion ----------------------------------------------------------------------------

    def sync(self) -> None:
        """Everything but the editor's text, after anything changed."""
        if not self.built:
            return
        session = self.desk.session
        self._follow_head()
        node = self._shown_node()
        context = chat.transcript(session) if self.chatting else ""
        self.output.show(self.tail, context=context, reason=node.reason if node else None)
        self._painted = (session.head.node, session.head.at, len(self.output.tokens))
        self.hint()
        self.colour_document()
        self._tabs()
        self.look()
        if self.roads_open:
            self.branches.show(session.tree, session.head)
        self.measure()
        self.paint_status()
        self.refresh_bindings()

    def _follow_head(self) -> None:
        """Where the editor holds nothing of its own, it shows the document, wherever that went."""
        text = self.desk.session.text
        if self.chatting or text == self._shown_text:
            return
        if self.editor.text == self._shown_text:
            self.editor.set_text(text)
        self._shown_text = text

    def colour_document(self) -> None:
        """What the model wrote of the document wears its heat there too, while the editor shows
        nothing else. Of a very long document the end is coloured.
        """
        session, on = self.desk.session, self.output.show_heat
        key = (session.head, on, self.editor.heat)
        if self.chatting or key == self._coloured or self.editor.text != session.text:
            return
        self._coloured = key
        tokens = [
            token for part in session.parts() if not part.node.folded for token in part.tokens
        ]
        plain, coloured = tokens[:-MOST_COLOURED], tokens[-MOST_COLOURED:]
        start = len(text_of(plain))
        self.editor.paint(heat_spans(coloured, self.editor.heat, start=start) if on else ())

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
            self.look()
        if node.reason is not None:
            self.output.finish(node.reason)
        self.hint()
        self._tabs()
        self.paint_status()

    def _shown_node(self) -> Node | None:
        head = self.desk.session.head
        return self.desk.session.tree[head.node] if head.node and self.has_tail else None

    def hint(self) -> None:
        """What the empty output pane says."""
        writer = self.writer
        if writer.waiting:
            hint = f"{self._loading_words() or 'Opening the model'}\nThe completion begins then."
        elif writer.running:
            run = self.desk.session.generations.get(writer.generation)
            progress = run.progress if run else None
            hint = progress_words(progress) if progress else "Reading the text …"
        else:
            hint = NOTHING_YET
        if self.output.hint != hint:
            self.output.hint = hint

    def _tabs(self) -> None:
        session = self.desk.session
        completions = session.completions()
        shown = session.completion
        place = completions.index(shown) if shown in completions else None
        tabs = [
            Tab(self._state(session.tree[id]), len(session.tree[id].tokens)) for id in completions
        ]
        self.query_one(SiblingTabs).show(tabs, place)
        self.title_completion()

    def title_completion(self) -> None:
        """Which completion is shown, of how many, and whether it goes on from the text as it is."""
        session = self.desk.session
        shown, completions = session.completion, session.completions()
        stale = self.dirty and (self.has_tail or shown is not None)
        title = "Chat" if self.chatting else "Completion"
        if len(completions) > 1 and shown in completions:
            title += f" {completions.index(shown) + 1} of {len(completions)}"
        elif len(completions) > 1 and shown is None:
            title = f"{len(completions)} completions, none shown"
        if stale:
            title += " of the text before the edit"
        elif shown and self._state(session.tree[shown]) == "interrupted":
            title += f" · interrupted, {self.key_of('generate')} goes on"
        self.output.stale = stale
        self.query_one("#output-pane").border_title = Content(title)
        self.completion_title = title

    def _state(self, node: Node) -> str:
        run = self.desk.session.generation_of(node.id)
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
        pane.border_subtitle = legend if self.size.width >= layout.TWO_COLUMNS else Content("")

    def look(self) -> None:
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

    # -- counting and status -----------------------------------------------------------------------

    def measure(self) -> None:
        """Count the tokens of the text as it stands in the editor."""
        session = self.desk.session
        self._composed = is_nfc(self.editor.text)
        if session.vocab is None:
            self._count = max(session.head.at, (self.editor.size_in_characters + 3) // 4)
        elif self.chatting:
            self._count = session.head.at + len(session.vocab.encode(self.editor.text))
        elif self.dirty:
            self._count = session.measure(self.editor.text)
        else:
            self._count = session.head.at
        self.title_document()

    def title_document(self) -> None:
        pane = self.query_one("#editor-pane")
        pane.border_title = Content(self.document_title())
        row, column = self.editor.cursor_location
        badge = "" if self._composed else f"not NFC, {self.key_of('normalise')} · "
        pane.border_subtitle = Content(f"{badge}{row + 1}:{column + 1}")

    def document_title(self) -> str:
        """What is written, and whether some of it is not committed."""
        name = self.desk.session.title or (self.file.name if self.file else "Untitled")
        name = "Message" if self.chatting else name
        return visible(name) + (" ✎" if self.dirty else "")

    def shown_run(self) -> GenerationState | None:
        """The generation that is written, or else the one that wrote what is shown: the completion,
        or the end of the document.
        """
        session, writer = self.desk.session, self.writer
        if writer.running or writer.waiting:
            return session.generations.get(writer.generation)
        node = session.completion or session.head.node
        return session.generation_of(node) if node is not None else None

    def paint_status(self) -> None:
        """The line of facts."""
        session, writer = self.desk.session, self.writer
        run = self.shown_run()
        opened = writer.opened
        environment = opened.environment if opened else None
        saved, saved_style = self._saved_words()
        tail = 0 if self.dirty else len(self.output.tokens)
        ttft = run.ttft_ms if run else None
        self.status.facts = Facts(
            model=short(model_name(environment) or self.settings.model),
            device=environment.device if environment else "",
            dtype=precision(environment) if environment else "",
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
        elif not session.generations:
            self.dials.last_seed = None

    def _state_words(self) -> str:
        if self.writer.running:
            return "writing"
        if self.writer.waiting:
            return f"queued · {self._loading_words()}".removesuffix(" · ")
        return self._loading_words()

    def _loading_words(self) -> str:
        if self.loader.reading:
            return "reading the tokenizer"
        if self.doors.runner.state != "loading":
            return ""
        progress = self.estimate.progress
        if progress is None:
            return "opening the model"
        words = progress_words(progress)
        left = self.estimate.seconds_left(time.monotonic())
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

    def poll(self) -> None:
        store = self.desk.store
        if store is not None:
            state = store.state
            banner = self.query_one("#save-notice", Notice)
            said = f"Not saved: {state.reason}" if state.reason else ""
            if said != banner.message:
                elsewhere = f"{self.key_of('save_elsewhere')} saves the session elsewhere"
                held = f"{state.unsaved:,} bytes are held in memory"
                banner.tell(said, f"{state.path} · {held} · {elsewhere}")
            if state.notice and state.notice != self._told_notice:
                self._told_notice = state.notice
                self.notice.tell(state.notice, mood="mild")
        self._follow()
        self.paint_status()

    def _follow(self) -> None:
        """Show what another process writes to the session."""
        follower = self.desk.follower
        if follower is not None and follower.lost and self._told_notice != _LOST:
            self._told_notice = _LOST
            self.notice.tell(_LOST, mood="mild")
        if follower is not None and (entries := follower.poll()):
            clean = not self.dirty
            for entry in entries:
                self.desk.session.apply(entry)
            if clean:
                self.show_document()
            else:
                self.sync()
