"""The generations of one session: submits requests, applies events, reports changes.

Law: it knows no widget. A generation requested while the model loads waits for it; one requested
while another runs ends that one first; typing never affects a running one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from qwen_tui import chat
from qwen_tui.context_window import Window
from qwen_tui.engine.runner import Generation, Runner
from qwen_tui.session.session import Session
from qwen_tui.tui.studio.playback import Outcome
from qwen_tui.tui.studio.pump import pump
from qwen_tui.types import Backend, Emitted, Event, Finished, Mode, Request, Token, Trouble

if TYPE_CHECKING:
    from qwen_tui.settings import Settings
    from qwen_tui.tui.sampling_controls import Controls

RNG: Final = "philox4x32-10"
"""The name of the random generator, as session files record it."""
SHORTENS: Final = "“Shorten long prompts” in the command palette sends a part of it"
"""The hint for a prompt that is too long."""


How: TypeAlias = Literal["on", "again", "beside"]
""""on": continue the document; "again": complete the same text again; "beside": complete the
document, accepted text included, beside its existing completions."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A requested generation. `text` must become the document first, if it is not yet."""

    controls: Controls
    how: How = "on"
    mode: Mode = "complete"
    text: str | None = None


class Completer:
    """Runs the generations of one session, one at a time.

    `changed` is called when something other than tokens changed, `grew` with each batch's tokens of
    the shown completion, `troubled` with errors for the person.
    """

    def __init__(
        self,
        session: Session,
        runner: Runner,
        settings: Settings,
        *,
        changed: Callable[[], None],
        grew: Callable[[Sequence[Token]], None],
        troubled: Callable[[Trouble], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session = session
        self.settings = settings
        self.model: Backend | None = None
        """The model that completes, once it is open."""
        self.asked: Ask | None = None
        """The request that waits for the model."""
        self.newest = ""
        """The id of the newest generation; empty before the first."""
        self._runner = runner
        self._changed = changed
        self._grew = grew
        self._troubled = troubled
        self._clock = clock
        self._generation: Generation | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Task[None] | None = None

    # -- state -------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether a generation has not ended."""
        return self._generation is not None

    @property
    def waiting(self) -> bool:
        """Whether a request waits for the model."""
        return self.asked is not None

    @property
    def context(self) -> int:
        """The most tokens that prompt and completion may have; 0 if unknown."""
        return self.model.context if self.model else self.settings.context

    # -- asking ------------------------------------------------------------------------------------

    def ask(self, ask: Ask) -> None:
        """Begin a generation from the document, or let it wait for the model."""
        if self.model is None or (self.session.vocab is None and self.model.abilities.token_ids):
            self.asked = ask
            self._changed()
            return
        self.asked = None
        self._begin_after(self._task, ask)

    def use(self, model: Backend) -> None:
        """Use the opened model: begin a waiting request."""
        self.model = model
        self.begin_waiting()

    def begin_waiting(self) -> None:
        """Begin a waiting request, if possible."""
        if self.asked is not None:
            self.ask(self.asked)

    def lose_model(self) -> None:
        """Drop the model and any waiting request."""
        self.model = None
        self.asked = None
        self._changed()

    def stop(self) -> None:
        """Stop the running generation, keeping its text, and drop a waiting request."""
        self.asked = None
        if self._generation is not None:
            self._generation.cancel()
        self._changed()

    def _begin_after(self, earlier: asyncio.Task[None] | None, ask: Ask) -> None:
        if earlier is None or earlier.done():
            self._begin(ask)
            return
        if self._generation is not None:
            self._generation.cancel()

        async def wait() -> None:
            await asyncio.wait([earlier])
            self._begin(ask)

        # kept, so that it is not collected while it waits
        self._waiter = asyncio.get_running_loop().create_task(wait())

    def _begin(self, ask: Ask) -> None:
        assert self.model is not None
        if ask.text is not None:
            self.session.commit_typing(ask.text)
        try:
            request = self._request(ask)
        except Trouble as trouble:
            self._troubled(trouble)
            return
        self.newest, _ = self.session.start(request, self.model.environment, ask.mode, rng=RNG)
        self._submit(request)
        self._changed()

    def _request(self, ask: Ask) -> Request:
        controls, settings = ask.controls, self.settings
        assert self.model is not None
        able = self.model.abilities
        values: dict[str, Any] = {
            "max_tokens": controls.max_tokens,
            "stop": controls.stop + self._turn_stops(ask),
            "choices": min(settings.choices, able.choices),
            "branches": controls.branches,
            "ignore_eos": settings.ignore_eos,
            # A chat template writes its own.
            "bos": settings.bos and ask.mode != "chat",
            "window": Window(
                self.model.context, settings.truncate, settings.explicit("max_tokens"), SHORTENS
            ),
            "note": lambda said: self._troubled(Trouble(said)),
        }
        session = self.session
        if ask.how == "beside":
            return session.request_siblings(controls.sampling, **values)
        make = session.regenerate if ask.how == "again" else session.request
        return make(controls.sampling, **values)

    def _turn_stops(self, ask: Ask) -> tuple[str, ...]:
        """Stop strings for the answer of a model that does not end it itself."""
        vocab = self.session.vocab
        return chat.turn_stops(vocab) if ask.mode == "chat" and vocab is not None else ()

    # -- running -----------------------------------------------------------------------------------

    def _submit(self, request: Request) -> Generation:
        self._generation = generation = self._runner.submit(request)
        run = self._run(generation, self.newest)
        self._task = asyncio.get_running_loop().create_task(run)
        return generation

    async def replay(self, id: str, request: Request) -> Outcome:
        """Run a generation that the session has already, from its recording; returns its
        outcome.
        """
        run = self.session.generations[id]
        run.live = True
        self.newest = id
        generation = self._submit(request)
        await self.settle()
        run.live = False
        if generation.cancelled:
            return "stopped"
        ends = [branch.finished for branch in run.branches]
        failed = all(end is None or end.reason == "failed" for end in ends)
        return "failed" if failed else "played"

    async def _run(self, generation: Generation, id: str) -> None:
        def apply(event: Event) -> None:
            if isinstance(event, Finished) and event.message:
                self._troubled(Trouble(event.message, hint=event.hint))
            self.session.happen(id, event)

        def paint(batch: Sequence[Event]) -> None:
            self._grew(self._shown(id, batch))

        await pump(generation.channel, apply, paint, clock=self._clock)
        if self._generation is generation:
            self._generation = None
            self._leave_empty(id)
        self._changed()

    def _leave_empty(self, id: str) -> None:
        """If the shown completion ended without text, show one of the same generation that has
        some; after a stop, the newest sibling.
        """
        session, nodes = self.session, [each.node for each in self.session.generations[id].branches]
        shown = session.completion
        if shown is None or shown not in nodes or not session.is_empty(shown):
            return
        others = [each for each in session.completions() if each != shown]
        same = [each for each in others if each in nodes]
        stopped = session.tree[shown].reason == "cancelled"
        if found := same[:1] or (others[-1:] if stopped else []):
            session.show(found[0])

    def _shown(self, id: str, batch: Sequence[Event]) -> list[Token]:
        """The tokens of a batch that belong to the shown completion."""
        branches = self.session.generations[id].branches
        return [
            token
            for event in batch
            if isinstance(event, Emitted) and branches[event.branch].node == self.session.head.node
            for token in event.tokens
        ]

    async def settle(self) -> None:
        """Wait until nothing runs."""
        if self._task is not None:
            await asyncio.wait([self._task])
