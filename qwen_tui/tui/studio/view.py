"""What is shown of the workspace, as values: titles, tabs, hints, the status line.

Law: the only place that decides what a person reads; it changes nothing and knows no Textual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from qwen_tui.safe_text import visible
from qwen_tui.session.generations import GenerationState, sampling_of
from qwen_tui.session.tree import Node
from qwen_tui.tui.facts import (
    Completion,
    CompletionFrame,
    ShownSampling,
    StatusFacts,
    Tab,
    TabState,
)
from qwen_tui.tui.studio import chat
from qwen_tui.tui.studio.asking import SEVERAL
from qwen_tui.tui.studio.workspace import Workspace
from qwen_tui.tui.text.wording import (
    END_MARKS,
    model_name,
    precision,
    progress_words,
    short,
)
from qwen_tui.types import Reason, Sampling, Token, text_of

NOTHING_YET: Final = "The completion appears here."
WITHOUT_TEXT: Final[Mapping[Reason, str]] = {
    "eos": "The model ends the text here, without another word.",
    "stop": "A stop string came before any text.",
    "cancelled": "Stopped before the first token.",
}
"""Messages for a completion that ended without text, by its reason."""


def completion(work: Workspace) -> Completion:
    """The shown completion."""
    session = work.session
    node = shown_node(work)
    return Completion(
        session.head,
        session.tail if node else (),
        chat.transcript(session) if work.text.chatting else "",
        node.reason if node else None,
    )


def shown_node(work: Workspace) -> Node | None:
    """The node whose tokens are shown as the completion."""
    node = work.session.head.node
    return work.session.tree[node] if node and work.text.has_tail else None


def completion_frame(work: Workspace) -> CompletionFrame:
    """The frame around the completion."""
    session = work.session
    shown, completions = session.completion, session.completions()
    place = completions.index(shown) if shown in completions else None
    stale = work.text.dirty and (work.text.has_tail or shown is not None)
    tabs = [Tab(_state(work, session.tree[id]), len(session.tree[id].tokens)) for id in completions]
    title = "Chat" if work.text.chatting else "Completion"
    if len(tabs) > 1 and place is not None:
        title += f" {place + 1} of {len(tabs)}"
    elif len(tabs) > 1 and shown is None:
        title = f"{len(tabs)} completions, none shown"
    if stale:
        title += " of the text before the edit"
    elif shown and _state(work, session.tree[shown]) == "interrupted":
        title += f" · interrupted, {work.key_of('generate')} goes on"
    return CompletionFrame(title, tabs, place, _hint(work), stale)


def _state(work: Workspace, node: Node) -> TabState:
    run = work.session.generation_of(node.id)
    if node.reason in ("failed", "nan", "oom", "eof"):
        return "failed"
    if node.source != "model" or node.reason is not None:
        return "ended"
    return "running" if run is not None and run.running else "interrupted"


def _hint(work: Workspace) -> str:
    """The text of the pane while the completion is empty."""
    if work.completer.waiting:
        return f"{work.loader.words() or 'Opening the model'}\nThe completion begins then."
    if work.completer.running:
        run = work.session.generations.get(work.completer.newest)
        progress = run.progress if run else None
        return progress_words(progress) if progress else "Reading the text …"
    nothing = "The conversation appears here." if work.text.unsaid else NOTHING_YET
    return _without_text(work) or nothing


def _without_text(work: Workspace) -> str:
    """A message if the shown completion ended without text, and what to do; "" if it did not."""
    session, shown = work.session, work.session.completion
    if shown is None or work.text.dirty or not session.is_empty(shown):
        return ""
    words = WITHOUT_TEXT.get(session.tree[shown].reason or "cancelled", "No text came.")
    return f"{words}\n{work.key_of('regenerate')} asks again."


# -- the document ----------------------------------------------------------------------------------


def stands_inline(work: Workspace) -> bool:
    """Whether the completion is shown inline: a person wants that, it is not a conversation, and no
    character or template joins the two.
    """
    session = work.session
    id, at = session.head
    if not work.inline or work.text.chatting or session.text.endswith("\ufffd"):
        return False
    return not any(part.node.folded and part.stop > at for part in session.tree.chain(id))


def inline_count(work: Workspace) -> int:
    """How many tokens of the completion are tentative text in the document; an eos is not."""
    id, at = work.session.head
    if id is None or work.text.dirty or not work.text.has_tail or not stands_inline(work):
        return 0
    return work.session.accept_end(id) - at


def document_tokens(work: Workspace) -> list[Token]:
    """The tokens of the document's text, without a template's."""
    parts = work.session.parts()
    return [token for part in parts if not part.node.folded for token in part.tokens]


def inspects_document(work: Workspace, *, within: bool) -> bool:
    """Whether the inspector walks the document's tokens rather than the completion's. `within`: the
    cursor is in the document, before its end.
    """
    text = work.text
    if text.chatting or not text.buffer.text or work.session.vocab is None:
        return False
    return within or not text.has_tail


def document_title(work: Workspace, frame: CompletionFrame) -> str:
    """The title: what is written, whether some of it is uncommitted, and inline the state of the
    completion.
    """
    name = work.session.title or work.text_file.name or "Untitled"
    name = "Message" if work.text.chatting else name
    title = visible(name) + (" ✎" if work.text.dirty else "")
    words = _standing(work, frame) if stands_inline(work) else ""
    return f"{title} · {words}" if words else title


def _standing(work: Workspace, frame: CompletionFrame) -> str:
    if work.text.dirty and work.completer.running:
        return "the completion goes on beside it"
    if work.completer.waiting or (work.completer.running and not work.text.has_tail):
        return frame.hint.partition("\n")[0]
    node = shown_node(work)
    if node is None or work.text.dirty:
        return _without_text(work).partition("\n")[0]
    mark = END_MARKS[node.reason] if node.reason else ""
    return f"{frame.title} {mark}".rstrip()


def document_badge(work: Workspace) -> str:
    """What the model reads before the text (a BOS), what is unusual about the text and which key
    mends it; "" if nothing is.
    """
    start = text_of(_opening(work))
    odd = "" if work.text.composed else f"not NFC, {work.key_of('normalise')}"
    return " · ".join(filter(None, [f"after {visible(start)}" if start else "", odd]))


def _opening(work: Workspace) -> Sequence[Token]:
    vocab = work.session.vocab
    if vocab is None or work.text.chatting or not work.settings.bos:
        return ()
    return vocab.opening(work.session.tokens)


# -- the status line -------------------------------------------------------------------------------


def shown_run(work: Workspace) -> GenerationState | None:
    """The running generation, else the one of the shown completion or of the document's end."""
    session = work.session
    if work.busy:
        return session.generations.get(work.completer.newest)
    node = session.completion or session.head.node
    return session.generation_of(node) if node is not None else None


def shown_sampling(work: Workspace) -> ShownSampling:
    """What the sampling controls show of the model and the shown completion."""
    several = f"{work.key_of('several').replace('Ctrl+', '^')} {SEVERAL}"
    return ShownSampling(work.checkpoint, last_seed(work), made_with(work), several)


def made_with(work: Workspace) -> Sampling | None:
    """The sampling values of the shown completion; None without one."""
    node = shown_node(work)
    run = work.session.generation_of(work.session.completion or node.id) if node else None
    return sampling_of(run.params) if run else None


def last_seed(work: Workspace) -> int | None:
    """The seed of the shown completion, else of the newest generation."""
    run = shown_run(work) or next(reversed(work.session.generations.values()), None)
    return run.seed if run else None


def facts(work: Workspace, completion_tokens: int) -> StatusFacts:
    """The status line's values; the shown completion has so many tokens.

    A playback has no tokenizer to count with and no context to fill: its tokens are the recorded
    ones.
    """
    playing = work.context.play
    count = work.session.head.at if playing else work.text.count
    model, run = work.model, shown_run(work)
    environment = model.environment if model else None
    saved, saved_style = _saved(work)
    ttft = run.ttft_ms if run else None
    return StatusFacts(
        model=short(model_name(environment) or work.settings.model),
        device=environment.device if environment else "",
        dtype=precision(environment) if environment else "",
        state=_doing(work),
        busy=work.busy or work.context.runner.state == "loading",
        tokens=count + (0 if work.text.dirty else completion_tokens),
        exact=playing or work.session.vocab is not None,
        context=0 if playing else work.completer.context,
        tok_s=run.tok_s if run else 0.0,
        ttft_s=ttft / 1000 if ttft is not None else 0.0,
        seed=run.seed if run else None,
        saved=saved,
        saved_style=saved_style,
        file=file_words(work),
        chat=work.text.chatting,
        read_only=bool(work.opened.read_only),
    )


def _doing(work: Workspace) -> str:
    if work.completer.running:
        return "writing"
    loading = work.loader.words()
    return f"queued · {loading}".removesuffix(" · ") if work.completer.waiting else loading


def _saved(work: Workspace) -> tuple[str, str]:
    """The state of saving in words, and its style."""
    store = work.opened.store
    if store is None:
        return ("" if work.opened.read_only else "not saved"), "$foreground 60%"
    if store.state.reason:
        return "✗ not saved", "bold $error"
    if not len(work.session.tree):
        return "", ""
    if not store.state.saved:
        return "saving …", "$foreground 60%"
    return ("✓ session saved" if file_words(work) else "✓ saved"), "$success"


def file_words(work: Workspace) -> str:
    """How far the file is behind the document; "" if it is not, or there is none."""
    behind = work.text_file.behind(work.text.document)
    if behind:
        return f"file: {behind:,} character{'s' if behind > 1 else ''} behind"
    return "file: changed on the disk" if work.text_file.changed else ""


def saving_failure(work: Workspace) -> tuple[str, str]:
    """Why the session is not saved, and what to do; ("", "") while it is."""
    state = work.opened.store.state if work.opened.store is not None else None
    if state is None or not state.reason:
        return "", ""
    elsewhere = f"{work.key_of('save_elsewhere')} saves the session elsewhere"
    hint = f"{state.path} · {state.unsaved:,} bytes are held in memory · {elsewhere}"
    return f"Not saved: {state.reason}", hint


# -- actions ---------------------------------------------------------------------------------------


def works(work: Workspace, action: str) -> bool:
    """Whether an action has an effect on the text now."""
    match action:
        case "accept":
            return work.text.tentative or (work.busy and not work.text.dirty)
        case "accept_word":
            return work.text.tentative
        case "regenerate":
            return work.completer.running or work.text.regenerates
        case "sibling_next" | "sibling_previous":
            written = work.text.dirty and not work.text.has_tail
            return len(work.session.siblings()) > 1 and not written
        case "take_back_message":
            return work.text.chatting and chat.last_message(work.session) is not None
        case "inline":
            return not work.text.chatting
    return True
