"""The disk cache: KV blocks of long texts on disk, so that a text resumes without a prefill.

Law: a block is used only for the same model and the same ids; the prefix cache is consistent at
every moment; errors of the disk never leave this module.

A block is a few hundred positions of one text, named by a hash of all ids up to its end. Texts with
a common beginning share blocks, and an edit invalidates only the blocks after it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor

from qwen_tui import __version__, paths
from qwen_tui.backends.local.kv import block_file
from qwen_tui.backends.local.kv.disk_writer import BlockWriter, QueuedBlock
from qwen_tui.backends.local.kv.prefix_cache import PrefixCache
from qwen_tui.backends.local.nn import linear_factory
from qwen_tui.backends.local.nn.linear import Kind
from qwen_tui.backends.local.nn.model import Cancelled
from qwen_tui.backends.local.planning.plan import Plan
from qwen_tui.backends.local.weights.packed_file import sampled
from qwen_tui.backends.local.weights.transformers_loader import DTYPES
from qwen_tui.hub import Shape
from qwen_tui.settings import Settings
from qwen_tui.types import Progress
from qwen_tui.vocab.alignment import shared_length

CLOSING_S: Final = 0.3
"""Most seconds that closing may take: leaving the program must feel immediate."""
CLOSING_BYTES: Final = 64 << 20
"""Roughly what a disk writes in that time."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Numbers of positions from which the disk is used.

    `block`: positions in a file. `min_text`: shorter texts are not written. `min_new`: positions
    not yet on disk that are needed for a write, `min_new_at_end` when the program ends.
    `min_restored`: positions beyond the prefix cache that are needed for a read. `max_queued`:
    bytes that may wait to be written; copying them delays the next generation by about half a
    second at most.
    """

    block: int = 256
    min_text: int = 512
    min_new: int = 256
    min_new_at_end: int = 32
    min_restored: int = 256
    max_queued: int = 256 << 20


@dataclass(frozen=True, slots=True)
class KVShape:
    """The shape of one position: [2, layers, kv_heads, head] numbers of one dtype."""

    layers: int
    kv_heads: int
    head: int
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of a position."""
        return 2 * self.layers * self.kv_heads * self.head * self.dtype.itemsize

    def sizes(self, positions: int) -> tuple[int, ...]:
        """The shape of several positions."""
        return (2, self.layers, self.kv_heads, positions, self.head)


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A file that has positions `start` … `stop` − 1 of a text."""

    file: Path
    start: int
    stop: int


class DiskCache:
    """The blocks of one model's texts below `top`, within `budget` bytes for all models there.

    Used by the thread that runs the model; another thread writes. `clock` is wall time in
    nanoseconds.
    """

    def __init__(
        self,
        top: Path,
        model: str,
        fingerprint: str,
        shape: KVShape,
        budget: int,
        thresholds: Thresholds = Thresholds(),
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._folder = block_file.BlockFolder.of(top, model, fingerprint, shape.nbytes)
        self._shape, self._budget, self._clock = shape, budget, clock
        self._thresholds = thresholds
        self._writer = BlockWriter(top, self._folder, budget)
        self._last: list[int] = []
        self._finished = False
        block_file.sweep(top)

    # -- from the disk -----------------------------------------------------------------------------

    def restore(
        self, cache: PrefixCache, ids: Sequence[int], cancelled: Callable[[], bool]
    ) -> Iterator[Progress]:
        """Lengthen `cache` along `ids`, where the disk has enough more of them; at least one id is
        left to be run. Raises `Cancelled`.
        """
        most, least = len(ids) - 1, cache.length + self._thresholds.min_restored
        if most < least:
            return
        blocks = self._stored(ids[:most])
        if not blocks or blocks[-1].stop < least:
            return
        for block in blocks:
            if block.stop <= cache.length:
                continue
            if cancelled():
                raise Cancelled
            part = self._read(block, ids)
            if part is None:
                break
            cache.graft(part, block.start, ids[: block.stop])
            yield Progress("prefill", block.stop, len(ids))
        self._touch(blocks)

    def _stored(self, ids: Sequence[int]) -> list[StoredBlock]:
        """The blocks on disk along `ids`, as far as they reach; only the last of them may differ
        from `ids` before its end.
        """
        found: list[StoredBlock] = []
        blocks, parent, size = self._folder.blocks(), block_file.ROOT, self._thresholds.block
        for start in range(0, len(ids), size):
            part = ids[start : start + size]
            own, children = block_file.chained(parent, part), blocks.get(parent, set())
            shared, file = len(part), self._folder.file(parent, own)
            if own not in children:
                shared, file = self._nearest(parent, children, part)
            if shared:
                found.append(StoredBlock(file, start, start + shared))
            if own not in children or shared < size:
                break
            parent = own
        return found

    def _nearest(self, parent: str, children: set[str], part: Sequence[int]) -> tuple[int, Path]:
        """The block after `parent` with the longest common prefix with `part`: that length, and its
        file.
        """
        best = (0, self._folder.path)
        for own in sorted(children):
            file = self._folder.file(parent, own)
            try:
                shared = shared_length(block_file.ids_in(self._folder, file), part)
            except block_file.DamagedBlock as why:
                _discard(file, why)
            except OSError:
                continue
            else:
                best = max(best, (shared, file))
        return best

    def _read(self, block: StoredBlock, ids: Sequence[int]) -> Tensor | None:
        """Keys and values of a block; None if it is unreadable or damaged."""
        try:
            found, data = block_file.read(self._folder, block.file)
            if shared_length(found, ids[block.start : block.stop]) < block.stop - block.start:
                raise block_file.DamagedBlock("it holds another text than its name says")
        except block_file.DamagedBlock as why:
            _discard(block.file, why)
            return None
        except OSError:
            return None
        flat = torch.frombuffer(data, dtype=self._shape.dtype)
        return flat.view(self._shape.sizes(len(found)))

    def _touch(self, blocks: Sequence[StoredBlock]) -> int:
        """Mark blocks as used now, each before those that depend on it, so that it is deleted after
        them. Returns the time.
        """
        now = self._clock()
        for index, block in enumerate(blocks):
            with suppress(OSError):
                os.utime(block.file, ns=(now - index, now - index))
        return now

    # -- to the disk -------------------------------------------------------------------------------

    def keep_prompt(self, cache: PrefixCache, prompt: int) -> None:
        """After a generation: write the first `prompt` ids' keys and values.

        A completion is written once it is part of a prompt, when the program ends, or if it is a
        long text itself: most completions are rejected, and would evict other texts.
        """
        ids = cache.ids
        long = len(ids) - prompt >= self._thresholds.min_text
        self._last = list(ids if long else ids[:prompt])
        self._queue(cache, self._last, self._thresholds.min_new, self._thresholds.max_queued)

    def _queue(self, cache: PrefixCache, ids: Sequence[int], min_new: int, max_queued: int) -> int:
        """Queue the blocks of `ids` for writing, if enough of them is new; returns how many
        positions were queued.
        """
        size = (self._shape.nbytes + 8) * len(ids)
        short = len(ids) < self._thresholds.min_text or size > self._budget
        if short or self._writer.broken or self._finished:
            return 0
        stored = self._stored(ids)
        reached = stored[-1].stop if stored else 0
        missing = self._missing(ids, reached)
        if sum(stop - max(start, reached) for _, _, start, stop in missing) < min_new:
            return 0
        now, queued = self._touch(stored), 0
        for parent, own, start, stop in missing:
            size = (stop - start) * self._shape.nbytes
            if stop > cache.length or self._writer.size() + size > max_queued:
                break
            data = self._copied(cache, start, stop)
            if data is None:
                break
            used = now - start // self._thresholds.block
            self._writer.put(QueuedBlock(parent, own, list(ids[start:stop]), data, used))
            queued += stop - start
        return queued

    def _missing(self, ids: Sequence[int], reached: int) -> list[tuple[str, str, int, int]]:
        """The blocks of `ids` that go beyond `reached` and are not queued: parent, name, start,
        stop.
        """
        missing, parent, size = [], block_file.ROOT, self._thresholds.block
        queued = self._writer.names()
        for start in range(0, len(ids), size):
            stop = min(start + size, len(ids))
            own = block_file.chained(parent, ids[start:stop])
            if stop > reached and (parent, own) not in queued:
                missing.append((parent, own, start, stop))
            parent = own
        return missing

    def _copied(self, cache: PrefixCache, start: int, stop: int) -> memoryview | None:
        """A copy of the cache's positions in main memory; None if there is no memory for it."""
        try:
            part = cache.model.extract(0, start, stop)
            if not isinstance(part, Tensor) or part.dtype != self._shape.dtype:
                return None
            if tuple(part.shape) != self._shape.sizes(stop - start):
                return None
            host = part.to("cpu").contiguous()
        except (RuntimeError, MemoryError):  # no memory for a copy, or a device that is gone
            return None
        # numpy has no bfloat16: bytes are all a file needs.
        return host.view(torch.uint8).numpy().reshape(-1).data

    # -- the end -----------------------------------------------------------------------------------

    def finish(self, cache: PrefixCache, seconds: float, stopped: Callable[[], bool]) -> None:
        """Wait up to `seconds` until the last prompt is on disk; nothing is written afterwards."""
        end = time.monotonic() + seconds
        queued, thresholds = 0, self._thresholds
        while not stopped() and time.monotonic() < end:
            if not self._writer.wait(end - time.monotonic(), stopped):
                break
            # What was queued once and is missing again has no room.
            if queued >= len(self._last):
                break
            new = self._queue(cache, self._last, thresholds.min_new, thresholds.max_queued)
            if not new:
                break
            queued += new
        self._finished = True

    def close(self, cache: PrefixCache) -> None:
        """Write the current text as far as the time at closing allows, and end the writer."""
        self._queue(cache, cache.ids, self._thresholds.min_new_at_end, CLOSING_BYTES)
        self._writer.close(CLOSING_S)


def _discard(file: Path, why: block_file.DamagedBlock) -> None:
    log.warning("%s was deleted: %s", file.name, why)
    with suppress(OSError):
        file.unlink()


def for_model(
    folder: Path,
    shape: Shape,
    plan: Plan,
    settings: Settings,
    thresholds: Thresholds | None = None,
) -> DiskCache | None:
    """The disk cache of the checkpoint in `folder`, run as planned by our own forward pass; None if
    writing is not allowed.
    """
    budget = int(settings.kv_disk * 2**30)
    if not budget or not settings.save:
        return None
    try:
        print_ = fingerprint(folder, plan)
    except OSError:
        return None
    position = KVShape(shape.layers, shape.kv_heads, shape.head, DTYPES[plan.computes])
    return DiskCache(
        paths.kv_dir(), folder.name, print_, position, budget, thresholds or Thresholds()
    )


def fingerprint(folder: Path, plan: Plan) -> str:
    """A hash of all that keys and values depend on: checkpoint, plan, versions, processor."""
    digest = sampled(folder)
    device = torch.device(plan.device)
    computer = torch.backends.cpu.get_cpu_capability()
    if device.type == "cuda":
        computer = torch.cuda.get_device_name(device)
    layout = linear_factory.layout(cast("Kind", plan.quant)) if device.type == "cpu" else ""
    parts = (
        block_file.VERSION, __version__, torch.__version__, plan.quant, plan.dtype, device.type,
        plan.packing, computer, layout,
    )  # fmt: skip
    digest.update("\0".join(map(str, parts)).encode())
    return str(digest.hexdigest()[:24])
