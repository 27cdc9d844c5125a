"""The one daemon thread that opens a backend and runs its generations, one after the other.

Law: no exception crosses the channel; every generation ends with exactly one `Finished` per branch,
whatever happens.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal, TypeAlias, cast

from qwen_tui.engine.channel import Channel
from qwen_tui.types import (
    UNAVAILABLE,
    Backend,
    Finished,
    Progress,
    Reason,
    Request,
    Trouble,
)

log = logging.getLogger(__name__)

Report: TypeAlias = Callable[[Progress], None]
Opener: TypeAlias = Callable[[Report, threading.Event], Backend]
State: TypeAlias = Literal["idle", "loading", "ready", "failed", "closed"]

CLOSED = "the engine is closed"


class Generation:
    """One submitted request: read its events from `channel`; `cancel()` from any thread, at any
    time.
    """

    def __init__(self, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self.stop = threading.Event()
        self.channel = Channel(loop, self.stop, branches=request.branches)
        self._claim = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """True once `cancel` was called."""
        return self.stop.is_set()

    def cancel(self) -> None:
        """Ask it to stop. Emitted events stay; a generation that has not begun ends at once."""
        self.stop.set()
        self.channel.nudge()
        if self.begin():
            self.end("cancelled")

    def begin(self) -> bool:
        """Claim it: True for the one caller that may run it, or end it without running."""
        return self._claim.acquire(blocking=False)

    def end(self, reason: Reason, message: str = "", hint: str = "") -> None:
        """Finish every branch that has not finished."""
        for branch in self.channel.unfinished:
            self.channel.put(Finished(reason, branch=branch, message=message, hint=hint))


class Runner:
    """Opens a backend on its own daemon thread and runs submitted requests in order.

    Nothing is opened before `load()` or the first `submit()`. A `submit()` does not cancel the
    running generation: the caller does. `on_progress` is called on the engine's thread, with every
    stage of opening.
    """

    def __init__(self, opener: Opener, *, on_progress: Report | None = None) -> None:
        self.on_progress = on_progress
        self._opener = opener
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._live: list[Generation] = []
        self._loading: Future[Backend] | None = None
        self._load_cancel = threading.Event()
        self._backend: Backend | None = None
        self._progress: Progress | None = None
        self._trouble: Trouble | None = None
        self._closed = False

    # -- what can be seen from any thread ----------------------------------------------------------

    @property
    def state(self) -> State:
        """idle: not opened yet · loading · ready · failed: the last opening did not succeed ·
        closed.
        """
        if self._closed:
            return "closed"
        loading = self._loading
        if loading is None:
            return "idle"
        if not loading.done():
            return "loading"
        return "failed" if loading.exception() else "ready"

    @property
    def opened(self) -> Backend | None:
        """The backend while it is ready; other threads may only read its attributes."""
        loading = self._loading
        return loading.result() if loading is not None and self.state == "ready" else None

    @property
    def progress(self) -> Progress | None:
        """The latest progress of the opening under way."""
        return self._progress if self.state == "loading" else None

    @property
    def trouble(self) -> Trouble | None:
        """Why the last opening failed."""
        loading = self._loading
        if loading is None or not loading.done():
            return None
        return cast("Trouble | None", loading.exception())

    @property
    def busy(self) -> bool:
        """True while a generation runs or waits."""
        return any(not generation.channel.closed for generation in self._snapshot())

    # -- what can be asked -------------------------------------------------------------------------

    def load(self) -> Future[Backend]:
        """Open the backend if it is not open; a failed opening is tried again.

        The future resolves on the engine's thread (`asyncio.wrap_future` it) to the backend, whose
        attributes other threads may only read, or fails with `Trouble` and nothing else.
        """
        with self._guard:
            return self._load()

    def submit(self, request: Request) -> Generation:
        """Queue one generation; call it on the event loop that will read its channel."""
        generation = Generation(request, asyncio.get_running_loop())
        with self._guard:
            if not self._closed:
                self._load()
                self._live.append(generation)
                self._jobs.put(lambda: self._run(generation))
        if self._closed and generation.begin():
            generation.end("failed", CLOSED)
        return generation

    def swap(self, opener: Opener) -> Future[Backend]:
        """Switch to another backend: cancel all work and loading, close the old one, open
        the new.
        """
        self._cancel_all()
        with self._guard:
            self._opener = opener
            if not self._closed:
                self._jobs.put(self._release)
                self._loading = None
            return self._load()

    def cancel(self) -> None:
        """Cancel every generation that runs or waits."""
        for generation in self._snapshot():
            generation.cancel()

    def close(self, timeout: float = 0.5) -> bool:
        """Cancel everything, end the thread and close the backend; False if it did not end within
        `timeout` seconds.

        A thread cannot leave a native kernel. The caller then has to restore the terminal and end
        the process with `os._exit`: the interpreter's own exit would abort in the middle of that
        kernel.
        """
        with self._guard:
            first, self._closed = not self._closed, True
        self._cancel_all()
        if first:
            self._jobs.put(self._release)
            self._jobs.put(None)
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- within ------------------------------------------------------------------------------------

    def _snapshot(self) -> tuple[Generation, ...]:
        with self._guard:
            return tuple(self._live)

    def _cancel_all(self) -> None:
        self._load_cancel.set()
        self.cancel()

    def _load(self) -> Future[Backend]:
        """With the lock held: the current opening, started if there is none or the last one
        failed.
        """
        if self._loading is not None and self.state in ("loading", "ready"):
            return self._loading
        loading: Future[Backend] = Future()
        # so that nobody's wrapper can cancel it for everybody
        loading.set_running_or_notify_cancel()
        if self._closed:
            loading.set_exception(Trouble(CLOSED, code=UNAVAILABLE))
            return loading
        self._loading = loading
        self._progress = None
        self._load_cancel = cancel = threading.Event()
        opener = self._opener
        self._jobs.put(lambda: self._open(opener, loading, cancel))
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
            self._thread.start()
        return loading

    # -- on the thread -----------------------------------------------------------------------------

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _report(self, progress: Progress) -> None:
        self._progress = progress
        if self.on_progress is not None:
            self.on_progress(progress)

    def _open(self, opener: Opener, loading: Future[Backend], cancel: threading.Event) -> None:
        try:
            if cancel.is_set():
                raise Trouble("loading was cancelled")
            self._backend = backend = opener(self._report, cancel)
        except BaseException as error:  # a border; native code panics outside Exception
            _, trouble = explained(error)
            self._release()
            loading.set_exception(trouble)
        else:
            loading.set_result(backend)

    def _release(self) -> None:
        backend, self._backend = self._backend, None
        if backend is None:
            return
        try:
            backend.close()
        except Exception:
            log.exception("the backend did not close")

    def _run(self, generation: Generation) -> None:
        if generation.begin():
            try:
                self._stream(generation)
            except BaseException as error:  # a border; native code panics outside Exception
                reason, trouble = explained(error)
                generation.end(reason, trouble.message, trouble.hint)
            generation.end("failed", "the backend ended without saying why")
        with self._guard:
            self._live.remove(generation)

    def _stream(self, generation: Generation) -> None:
        backend = self._backend
        if backend is None:
            raise self.trouble or Trouble("no model is loaded")
        events = backend.stream(generation.request, generation.stop)
        try:
            for event in events:
                # A reader that is gone cancels; the stream is still run to its end, which puts the
                # cache right.
                if not generation.channel.put(event):
                    generation.stop.set()
        finally:
            close = getattr(events, "close", None)
            if close is not None:
                close()


def explained(error: BaseException) -> tuple[Reason, Trouble]:
    """The message for an exception, and the reason that a branch ends with."""
    if isinstance(error, Trouble):
        return "failed", error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        hint = "try a smaller context, --quant nf4, or another device"
        return "oom", Trouble("out of memory", hint=hint)
    log.error("the backend failed", exc_info=error)
    return "failed", Trouble(f"{type(error).__name__}: {error}", hint="the log has the details")
