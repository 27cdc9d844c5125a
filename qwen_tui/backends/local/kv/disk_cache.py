"""What a model's cache held of long texts, kept on disk in blocks, so that they resume at once.

Law: what comes back is what this very model computed for the very same ids; the cache is whole at
every moment; nothing that lies or happens on the disk raises out of here.

A block is a few hundred positions of one text, named by all ids up to its end. So texts that begin
alike share their beginning, only what is new is written, and an edit costs the blocks behind it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor

from qwen_tui import __version__, paths
from qwen_tui.backends.local.kv import block_file
from qwen_tui.backends.local.kv.disk_writer import Block, Writer
from qwen_tui.backends.local.kv.prefix_cache import Held
from qwen_tui.backends.local.nn import linear_factory
from qwen_tui.backends.local.nn.linear import Kind
from qwen_tui.backends.local.nn.model import Cancelled, Model
from qwen_tui.backends.local.planning.plan import Plan
from qwen_tui.backends.local.weights.packed_file import sampled
from qwen_tui.backends.local.weights.transformers_loader import DTYPES
from qwen_tui.hub import Shape
from qwen_tui.settings import Settings
from qwen_tui.types import Progress
from qwen_tui.vocab.alignment import shared_length

CLOSING_S: Final = 0.3
"""Seconds that closing may take: leaving the program must feel immediate."""
CLOSING_BYTES: Final = 64 << 20
"""About what a disk takes in that time."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measures:
    """From when on the disk is worth its while, in positions.

    `block`: in one file. `least`: shorter texts are not kept. `fresh`: so many must be new before
    something is written, `last` at the end of all. `worth`: so many more than are held must come
    from the disk. `pending`: bytes that may wait to be written; they are copied before the next
    generation begins, so that is about half a second, and what is beyond is taken after that one.
    """

    block: int = 256
    least: int = 512
    fresh: int = 256
    last: int = 32
    worth: int = 256
    pending: int = 256 << 20


@dataclass(frozen=True, slots=True)
class Form:
    """What one position of a cache is: [2, layers, kv_heads, head] numbers of one dtype."""

    layers: int
    kv_heads: int
    head: int
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of a position."""
        return 2 * self.layers * self.kv_heads * self.head * self.dtype.itemsize

    def sizes(self, positions: int) -> tuple[int, ...]:
        """The shape of a clip of so many positions."""
        return (2, self.layers, self.kv_heads, positions, self.head)


@dataclass(frozen=True, slots=True)
class Step:
    """A block on disk that holds positions `start` … `stop` − 1 of a text."""

    file: Path
    start: int
    stop: int


class Archive:
    """Blocks of one model's texts below `top`, within `budget` bytes over all models there.

    Used by the thread that runs the model; a thread of its own does the writing. `clock` counts
    nanoseconds of wall time.
    """

    def __init__(
        self,
        top: Path,
        model: str,
        fingerprint: str,
        form: Form,
        budget: int,
        measures: Measures = Measures(),
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._place = block_file.Place.of(top, model, fingerprint, form.nbytes)
        self._form, self._budget, self._measures, self._clock = form, budget, measures, clock
        self._writer = Writer(top, self._place, budget)
        self._last: list[int] = []
        self._done = False
        block_file.sweep(top)

    # -- from the disk -----------------------------------------------------------------------------

    def bring(
        self, model: Model, held: Held, ids: Sequence[int], cancelled: Callable[[], bool]
    ) -> Generator[Progress, None, int]:
        """Make `model` hold more of `ids` than it does, where the disk has enough more of them;
        returns how many it holds. At least one id is left to be run. Raises `Cancelled`.
        """
        most, worth = len(ids) - 1, self._measures.worth
        if most - len(held.ids) < worth:
            return len(held.ids)
        road = self._road(ids[:most])
        reach = road[-1].stop if road else 0
        if reach - len(held.ids) < worth:
            return len(held.ids)
        for step in road:
            if step.stop <= len(held.ids):
                continue
            if cancelled():
                raise Cancelled
            part = self._part(step, ids)
            if part is None:
                break
            model.graft(part, len(held.ids) - step.start, step.stop - step.start)
            held.ids = list(ids[: step.stop])
            yield Progress("prefill", step.stop, len(ids))
        self._touch(road)
        return len(held.ids)

    def _road(self, ids: Sequence[int]) -> list[Step]:
        """The blocks on disk that lead along `ids`, as far as they go; only the last of them may
        part from `ids` before its end.
        """
        road: list[Step] = []
        blocks, parent, size = self._place.blocks(), block_file.ROOT, self._measures.block
        for start in range(0, len(ids), size):
            part = ids[start : start + size]
            own, there = block_file.chained(parent, part), blocks.get(parent, set())
            shared, file = len(part), self._place.file(parent, own)
            if own not in there:
                shared, file = self._nearest(parent, there, part)
            if shared:
                road.append(Step(file, start, start + shared))
            if own not in there or shared < size:
                break
            parent = own
        return road

    def _nearest(self, parent: str, there: set[str], part: Sequence[int]) -> tuple[int, Path]:
        """How far the block after `parent` goes along `part` that goes furthest, and its file."""
        best = (0, self._place.folder)
        for own in sorted(there):
            file = self._place.file(parent, own)
            try:
                shared = shared_length(block_file.ids_in(self._place, file), part)
            except block_file.Unusable as why:
                self._discard(file, why)
            except OSError:
                continue
            else:
                best = max(best, (shared, file))
        return best

    def _part(self, step: Step, ids: Sequence[int]) -> Tensor | None:
        """The keys and values of a block; None where they cannot be had."""
        try:
            found, data = block_file.read(self._place, step.file)
            if shared_length(found, ids[step.start : step.stop]) < step.stop - step.start:
                raise block_file.Unusable("it holds another text than its name says")
        except block_file.Unusable as why:
            self._discard(step.file, why)
            return None
        except OSError:
            return None
        flat = torch.frombuffer(data, dtype=self._form.dtype)
        return flat.view(self._form.sizes(len(found)))

    def _discard(self, file: Path, why: block_file.Unusable) -> None:
        log.warning("%s was deleted: %s", file.name, why)
        with suppress(OSError):
            file.unlink()

    def _touch(self, road: Sequence[Step]) -> int:
        """They were of use now; a beginning more so than what hangs on it, so that it goes last.
        Returns the time.
        """
        now = self._clock()
        for index, step in enumerate(road):
            with suppress(OSError):
                os.utime(step.file, ns=(now - index, now - index))
        return now

    # -- to the disk -------------------------------------------------------------------------------

    def keep_prompt(self, model: Model, ids: Sequence[int], prompt: int) -> None:
        """After a generation: keep what `model` holds of its prompt, out of the held `ids`.

        A completion is kept once it is part of a prompt, or at the end, or where it is a long text
        itself: most are rejected, and would only drive other texts out.
        """
        long = len(ids) - prompt >= self._measures.least
        self._last = list(ids if long else ids[:prompt])
        self.keep(model, self._last)

    def keep(
        self,
        model: Model,
        ids: Sequence[int],
        *,
        fresh: int | None = None,
        pending: int | None = None,
    ) -> int:
        """Hand what `model` holds for `ids` to the writer, if enough of it is new; returns how many
        positions that are.
        """
        measures = self._measures
        size = (self._form.nbytes + 8) * len(ids)
        if len(ids) < measures.least or size > self._budget or self._writer.broken or self._done:
            return 0
        road = self._road(ids)
        reached = road[-1].stop if road else 0
        missing = self._missing(ids, reached)
        new = sum(stop - max(start, reached) for _, _, start, stop in missing)
        if new < (measures.fresh if fresh is None else fresh):
            return 0
        now = self._touch(road)
        most = measures.pending if pending is None else pending
        handed = 0
        for parent, own, start, stop in missing:
            size = (stop - start) * self._form.nbytes
            if stop > model.length or self._writer.size() + size > most:
                break
            data = self._clipped(model, start, stop)
            if data is None:
                break
            used = now - start // measures.block
            self._writer.put(Block(parent, own, list(ids[start:stop]), data, used))
            handed += stop - start
        return handed

    def _missing(self, ids: Sequence[int], reached: int) -> list[tuple[str, str, int, int]]:
        """The blocks of `ids` that hold something beyond `reached` and are not on their way:
        parent, name, start, stop.
        """
        missing, parent, size = [], block_file.ROOT, self._measures.block
        coming = self._writer.names()
        for start in range(0, len(ids), size):
            stop = min(start + size, len(ids))
            own = block_file.chained(parent, ids[start:stop])
            if stop > reached and (parent, own) not in coming:
                missing.append((parent, own, start, stop))
            parent = own
        return missing

    def _clipped(self, model: Model, start: int, stop: int) -> memoryview | None:
        """A copy in main memory of what `model` holds there; None where it cannot be had."""
        try:
            part = model.clip(0, start, stop)
            if not isinstance(part, Tensor) or part.dtype != self._form.dtype:
                return None
            if tuple(part.shape) != self._form.sizes(stop - start):
                return None
            host = part.to("cpu").contiguous()
        except (RuntimeError, MemoryError):  # no memory for a copy, or a device that is gone
            return None
        # numpy has no bfloat16: bytes are all a file needs.
        return host.view(torch.uint8).numpy().reshape(-1).data

    # -- the end -----------------------------------------------------------------------------------

    def finish(self, model: Model, seconds: float, stopped: Callable[[], bool]) -> None:
        """Wait until the last prompt is on disk, at most for so long; then nothing more is kept."""
        end = time.monotonic() + seconds
        handed = 0
        while not stopped() and time.monotonic() < end:
            if not self._writer.wait(end - time.monotonic(), stopped):
                break
            # What was handed over once and is missing again has no room.
            new = self.keep(model, self._last) if handed < len(self._last) else 0
            if not new:
                break
            handed += new
        self._done = True

    def close(self, model: Model, ids: Sequence[int]) -> None:
        """Keep the text as it is at the end, as far as that goes in a moment; no file is left half
        written.
        """
        self.keep(model, ids, fresh=self._measures.last, pending=CLOSING_BYTES)
        self._writer.close(CLOSING_S)


def for_model(
    folder: Path, shape: Shape, plan: Plan, settings: Settings, measures: Measures | None = None
) -> Archive | None:
    """The archive of the checkpoint in `folder`, run as planned by our own forward; None where
    nothing may be kept.
    """
    budget = int(settings.kv_disk * 2**30)
    if not budget or not settings.save:
        return None
    try:
        print_ = fingerprint(folder, plan)
    except OSError:
        return None
    form = Form(shape.layers, shape.kv_heads, shape.head, DTYPES[plan.computes])
    return Archive(paths.kv_dir(), folder.name, print_, form, budget, measures or Measures())


def fingerprint(folder: Path, plan: Plan) -> str:
    """Names all that makes keys and values: the checkpoint, how it is run, and what computes."""
    digest = sampled(folder)
    device = torch.device(plan.device)
    computer = torch.backends.cpu.get_cpu_capability()
    if device.type == "cuda":
        computer = torch.cuda.get_device_name(device)
    lies = linear_factory.layout(cast("Kind", plan.quant)) if device.type == "cpu" else ""
    parts = (
        block_file.VERSION, __version__, torch.__version__, plan.quant, plan.dtype, device.type,
        plan.packing, computer, lies,
    )  # fmt: skip
    digest.update("\0".join(map(str, parts)).encode())
    return str(digest.hexdigest()[:24])
