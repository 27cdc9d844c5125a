"""One session being written on: asks the runner, applies what comes, says what changed.

Law: it knows no widget. A generation asked for while the model loads waits for it; one asked for
while another runs ends that one first; typing never touches a running one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from qwen_tui import chat
from qwen_tui.context_window import Window
from qwen_tui.engine.runner import Generation, Runner
from qwen_tui.session.session import Session
from qwen_tui.tui.studio.playback import Outcome
from qwen_tui.tui.studio.pump import pump
from qwen_tui.types import Backend, Event, Finished, Mode, Progress, Request, Trouble

if TYPE_CHECKING:
    from qwen_tui.settings import Settings
    from qwen_tui.tui.sampling_controls import Controls

RNG: Final = "philox4x32-10"
"""The generator behind every draw, as session files name it."""
SHORTENS: Final = "“Shorten long prompts” in the command palette sends a part of it"
"""What to do about a prompt that is too long, in the studio."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A generation that was asked for. `again` completes the same text once more; `text` is what
    has to become the document first, where it is not yet.
    """

    controls: Controls
    branches: int = 1
    again: bool = False
    mode: Mode = "complete"
    text: str | None = None


class Writer:
    """Runs the generations of one session.

    `changed` is called when something other than tokens changed, `painted` after every batch of
    events, `troubled` with what a person should know.
    """

    def __init__(
        self,
        session: Session,
        runner: Runner,
        settings: Settings,
        *,
        changed: Callable[[], None],
        painted: Callable[[], None],
        troubled: Callable[[Trouble], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session = session
        self.runner = runner
        self.settings = settings
        self.opened: Backend | None = None
        self.wish: Wish | None = None
        """What waits for the model."""
        self.last_seed: int | None = None
        self._changed = changed
        self._painted = painted
        self._troubled = troubled
        self._clock = clock
        self._generation: Generation | None = None
        self._id = ""
        self._task: asyncio.Task[None] | None = None

    # -- state -------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """A generation has not ended."""
        return self._generation is not None

    @property
    def waiting(self) -> bool:
        """A generation waits for the model."""
        return self.wish is not None

    @property
    def generation(self) -> str:
        """The id of the newest generation; empty before the first."""
        return self._id

    @property
    def context(self) -> int:
        """The most tokens prompt and completion may hold; 0 while that is not known."""
        return self.opened.context if self.opened else self.settings.context

    # -- asking ------------------------------------------------------------------------------------

    def ask(self, wish: Wish) -> None:
        """Begin a generation from the document, or let it wait for the model."""
        if self.opened is None or (self.session.vocab is None and self.opened.abilities.token_ids):
            self.wish = wish
            self._changed()
            return
        self.wish = None
        self._begin_after(self._task, wish)

    def ready(self, opened: Backend) -> None:
        """The model is open: begin what waited."""
        self.opened = opened
        self.fulfil()

    def fulfil(self) -> None:
        """Begin what waits, if it can."""
        if self.wish is not None:
            self.ask(self.wish)

    def lost(self) -> None:
        """The model is gone; nothing waits for it any more."""
        self.opened = None
        self.wish = None
        self._changed()

    def stop(self) -> None:
        """End what runs, keeping its text, and forget what waits."""
        self.wish = None
        if self._generation is not None:
            self._generation.cancel()
        self._changed()

    def _begin_after(self, earlier: asyncio.Task[None] | None, wish: Wish) -> None:
        if earlier is None or earlier.done():
            self._begin(wish)
            return
        if self._generation is not None:
            self._generation.cancel()

        async def wait() -> None:
            await asyncio.wait([earlier])
            self._begin(wish)

        # kept, so that it is not collected while it waits
        self._waiter = asyncio.get_running_loop().create_task(wait())

    def _begin(self, wish: Wish) -> None:
        assert self.opened is not None
        if wish.text is not None:
            self.session.commit(wish.text)
        try:
            request = self._request(wish)
        except Trouble as trouble:
            self._troubled(trouble)
            return
        self.last_seed = request.sampling.seed
        self._id, _ = self.session.start(request, self.opened.environment, wish.mode, rng=RNG)
        self._generation = self.runner.submit(request)
        self._task = asyncio.get_running_loop().create_task(self._run(self._generation, self._id))
        self._changed()

    def _request(self, wish: Wish) -> Request:
        controls, settings = wish.controls, self.settings
        assert self.opened is not None
        able = self.opened.abilities
        values: dict[str, Any] = {
            "max_tokens": controls.max_tokens,
            "stop": controls.stop + self._turn_stops(wish),
            "choices": min(settings.choices, able.choices),
            "branches": wish.branches,
            "ignore_eos": settings.ignore_eos,
            "window": Window(
                self.opened.context, settings.truncate, settings.explicit("max_tokens"), SHORTENS
            ),
            "note": lambda said: self._troubled(Trouble(said)),
        }
        make = self.session.regenerate if wish.again else self.session.request
        return make(controls.sampling, **values)

    def _turn_stops(self, wish: Wish) -> tuple[str, ...]:
        """What ends an answer of a model that does not end it itself."""
        vocab = self.session.vocab
        return chat.turn_stops(vocab) if wish.mode == "chat" and vocab is not None else ()

    async def replay(self, id: str, request: Request) -> Outcome:
        """Run a generation that the session knows already; how that went."""
        run = self.session.generations[id]
        run.live = True
        self._id = id
        self._generation = generation = self.runner.submit(request)
        self._task = asyncio.get_running_loop().create_task(self._run(generation, id))
        await asyncio.wait([self._task])
        run.live = False
        if generation.cancelled:
            return "stopped"
        ends = [branch.finished for branch in run.branches]
        failed = all(end is None or end.reason == "failed" for end in ends)
        return "failed" if failed else "played"

    async def _run(self, generation: Generation, id: str) -> None:
        def happen(event: Event) -> None:
            if isinstance(event, Finished) and event.message:
                self._troubled(Trouble(event.message, hint=event.hint))
            self.session.happen(id, event)

        await pump(generation.channel, happen, self._painted, clock=self._clock)
        if self._generation is generation:
            self._generation = None
        self._changed()

    async def settle(self) -> None:
        """Wait until nothing runs."""
        if self._task is not None:
            await asyncio.wait([self._task])


@dataclass(slots=True)
class Estimate:
    """How long a stage will still take, from how far it came and when it began."""

    stage: str = ""
    began: float = 0.0
    first: int = 0
    progress: Progress | None = None

    def update(self, progress: Progress, now: float) -> None:
        """A newer report at `now` (monotonic seconds)."""
        if progress.stage != self.stage:
            self.stage, self.began, self.first = progress.stage, now, progress.done
        self.progress = progress

    def seconds_left(self, now: float) -> float | None:
        """Seconds until the stage ends at its pace so far; None while that is not known."""
        progress = self.progress
        if progress is None or not progress.total or progress.done <= self.first:
            return None
        passed = now - self.began
        if passed < 0.5:
            return None
        return passed * (progress.total - progress.done) / (progress.done - self.first)
