"""Our own Qwen2 forward pass over fused weights: one product for q, k and v, one for gate and up.

Law: in float32 its greedy ids are the reference's, for any batch, chunking and reused prefix. A
cancelled forward pass leaves the cache's length unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen_tui.backends.local.nn import fbgemm
from qwen_tui.backends.local.nn.attention import FOLDED_POSITIONS, KEYS_MULTIPLE, attended, gated
from qwen_tui.backends.local.nn.kernel.kernel_linear import KernelLinear
from qwen_tui.backends.local.nn.linear import Dense, Linear
from qwen_tui.backends.local.nn.model import Cancelled
from qwen_tui.backends.local.nn.torchscript import scripted
from qwen_tui.hub import Shape

KV_GROWTH: Final = 512
"""Positions the cache grows by at least; it doubles beyond that."""
WHOLE_ROWS: Final = 16
"""Up to this many positions a layer runs as one scripted function, too short to need cancelling."""


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One decoder layer's fused weights; norms are [hidden]."""

    norm1: Tensor
    qkv: Linear
    out: Linear
    norm2: Tensor
    gate_up: Linear
    down: Linear


class KV:
    """The KV cache: preallocated keys and values, one [B, kv_heads, capacity, head] pair per layer;
    it grows by reallocation, never by concatenation.

    All rows have the same `length`, in positions.
    """

    def __init__(
        self, shape: Shape, dtype: torch.dtype, device: torch.device, context: int = 0
    ) -> None:
        """`context`: the most positions to allocate ahead of need; 0: the checkpoint's context
        length.
        """
        self.shape, self.dtype, self.device = shape, dtype, device
        self.context = context or shape.context
        self.rows = 1
        self.length = 0
        self.capacity = 0
        self._finite = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(part.nbytes for part in (*self.keys, *self.values))

    def reserve(self, positions: int) -> None:
        """Make room for `positions` in every row; the contents are kept."""
        if positions <= self.capacity:
            return
        room = min(max(2 * self.capacity, KV_GROWTH), self.context)
        grown = max(positions, room)
        self._reshape(self.rows, grown, list(range(self.rows)))

    def pad(self, positions: int) -> None:
        """Make room for `positions` and zero what was not written yet: masked positions have no
        weight, but a NaN among them would still spread.
        """
        self.reserve(positions)
        start = max(self._finite, self.length)
        if positions > start:
            for part in (*self.keys, *self.values):
                part[:, :, start:positions] = 0
            self._finite = positions

    def rewind(self, positions: int) -> None:
        """Forget all positions after the first `positions`."""
        if not 0 <= positions <= self.length:
            raise ValueError(f"cannot rewind {self.length} positions to {positions}")
        self.length = positions

    def select(self, rows: list[int]) -> None:
        """Row i becomes a copy of row `rows[i]`: duplicate, drop or reorder rows."""
        if rows == list(range(self.rows)):
            return
        # More rows with all of one row's room could be more than was planned for.
        room = self.length + KV_GROWTH if len(rows) > self.rows else self.capacity
        self._reshape(len(rows), min(self.capacity, room), rows)

    @torch.inference_mode()
    def extract(self, row: int, start: int, stop: int) -> Tensor:
        """A copy of one row's positions start … stop − 1: [2, layers, kv_heads, n, head]."""
        sides = (self.keys, self.values)
        return torch.stack(
            [torch.stack([layer[row, :, start:stop] for layer in side]) for side in sides]
        )

    @torch.inference_mode()
    def graft(self, part: Tensor) -> None:
        """Append the positions of what `extract` returned to the one row."""
        end = self.length + part.shape[3]
        self.reserve(end)
        for side, added in zip((self.keys, self.values), part, strict=True):
            for layer, positions in zip(side, added, strict=True):
                layer[0, :, self.length : end] = positions
        self.length = end

    @torch.inference_mode()
    def _reshape(self, rows: int, capacity: int, sources: list[int]) -> None:
        heads, head = self.shape.kv_heads, self.shape.head
        for side in (self.keys, self.values):
            for layer in range(self.shape.layers):
                fresh = torch.empty(
                    rows, heads, capacity, head, dtype=self.dtype, device=self.device
                )
                if self.length:
                    old = side[layer][:, :, : self.length]
                    for row, source in enumerate(sources):
                        fresh[row, :, : self.length] = old[source]
                if layer < len(side):
                    side[layer] = fresh
                else:
                    side.append(fresh)
        self.rows, self.capacity, self._finite = rows, capacity, self.length


@dataclass(frozen=True, slots=True)
class Positions:
    """What all layers share in one forward pass: RoPE tables [T, head] for the new positions (see
    `attended`), and an additive mask or None.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor | None


class Qwen2:
    """The network, ids and a cache in, logits out; it has no state of its own between calls."""

    def __init__(
        self,
        shape: Shape,
        embed: Tensor,
        layers: list[DecoderLayer],
        norm: Tensor,
        lm_head: Linear,
        *,
        dtype: torch.dtype,
    ) -> None:
        self.shape, self.dtype, self.device = shape, dtype, embed.device
        self.embed, self.layers, self.norm, self.lm_head = embed, layers, norm, lm_head
        steps = torch.arange(0, shape.head, 2, dtype=torch.float32) / shape.head
        self._frequencies = (1.0 / shape.theta**steps).to(self.device)
        self._cos = self._sin = torch.empty(0, device=self.device)
        on_cpu = self.device.type == "cpu"
        self._attended = scripted(attended) if on_cpu else attended
        self._gated = scripted(gated) if on_cpu else gated
        self._whole = [
            fbgemm.whole(layer.qkv, layer.out, layer.gate_up, layer.down) for layer in layers
        ]

    @property
    def nbytes_per_token(self) -> int:
        """Weight bytes that one decoding step reads, whatever the batch."""
        layers = sum(
            part.nbytes
            for layer in self.layers
            for part in (layer.qkv, layer.out, layer.gate_up, layer.down)
        )
        return layers + self.lm_head.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        shared = isinstance(self.lm_head, Dense) and self.lm_head.weight is self.embed
        return self.nbytes_per_token + (0 if shared else self.embed.nbytes)

    def cache(self, context: int = 0) -> KV:
        """An empty cache for this network, sized for texts of up to `context` tokens."""
        return KV(self.shape, self.dtype, self.device, context)

    def forward(
        self,
        ids: Tensor,
        cache: KV,
        *,
        last: int = 1,
        stopped: Callable[[], bool] | None = None,
    ) -> Tensor:
        """`layer_by_layer` in one call."""
        passes = self.layer_by_layer(ids, cache, last=last, stopped=stopped)
        while True:
            try:
                next(passes)
            except StopIteration as end:
                logits: Tensor = end.value
                return logits

    @torch.inference_mode()
    def layer_by_layer(
        self,
        ids: Tensor,
        cache: KV,
        *,
        last: int = 1,
        stopped: Callable[[], bool] | None = None,
    ) -> Generator[float, None, Tensor]:
        """Run ids [B, T] (int64) after the cache's contents; B is the cache's number of rows.

        Returns float32 logits [B, last, V] of the last `last` positions (none when 0); the cache is
        then T positions longer. `stopped` is called before every large product; if it returns True
        `Cancelled` is raised and the cache's length is as before. Yields the share of layers that
        is done.
        """
        batch, count = ids.shape
        end = cache.length + count
        positions = self.positions(count, cache)
        x = self.embedded(ids)
        for index in range(len(self.layers)):
            x = self.through(index, x, cache, positions, stopped)
            yield (index + 1) / len(self.layers)
        if last:
            tail = x.view(batch, count, -1)[:, count - last :].reshape(batch * last, -1)
            logits = self.logits(tail).view(batch, last, -1)
        else:
            logits = torch.empty(batch, 0, self.shape.vocab)
        cache.length = end
        return logits

    def embedded(self, ids: Tensor) -> Tensor:
        """Ids [B, T] → hidden states [B·T, hidden]."""
        return F.embedding(ids, self.embed).to(self.dtype).view(ids.numel(), -1)

    def positions(self, count: int, cache: KV) -> Positions:
        """The next `count` positions of every row; the cache makes room for them."""
        start, end = cache.length, cache.length + count
        cache.reserve(end)
        self._reach(end)
        step = count <= FOLDED_POSITIONS and start > 0
        if step and self.dtype != torch.float32 and self.device.type == "cpu":
            reach = -(-end // KEYS_MULTIPLE) * KEYS_MULTIPLE
            cache.pad(reach)
            return Positions(
                self._cos[start:end], self._sin[start:end], self._mask(start, reach, count)
            )
        mask = self._mask(start, end, count) if count > 1 and start else None
        return Positions(self._cos[start:end], self._sin[start:end], mask)

    def through(
        self,
        index: int,
        x: Tensor,
        cache: KV,
        positions: Positions,
        stopped: Callable[[], bool] | None = None,
    ) -> Tensor:
        """One layer: hidden states [B·T, hidden] → the same; its keys and values are stored."""
        layer, eps = self.layers[index], self.shape.eps
        _check(stopped)
        keys, values = cache.keys[index], cache.values[index]
        shared = (positions.cos, positions.sin, keys, values, cache.length, positions.mask)
        whole = self._whole[index]
        if whole is not None and len(x) <= WHOLE_ROWS:
            return whole(x, layer.norm1, layer.norm2, eps, *shared)
        mixed = self._attended(layer.qkv.normed(x, layer.norm1, eps), *shared)
        x = layer.out.added_to(x, mixed)
        _check(stopped)
        gate_up = layer.gate_up.normed(x, layer.norm2, eps)
        _check(stopped)
        if isinstance(layer.down, KernelLinear):
            return layer.down.gated_added_to(x, gate_up)
        return layer.down.added_to(x, self._gated(gate_up))

    def logits(self, x: Tensor) -> Tensor:
        """Hidden states [M, hidden] → float32 logits [M, V]."""
        return self.lm_head.normed(x, self.norm, self.shape.eps).float()

    def _mask(self, start: int, reach: int, count: int) -> Tensor:
        """Additive causal mask [count, reach] for the positions from `start` on."""
        mask = torch.zeros(count, reach, dtype=self.dtype, device=self.device)
        place = torch.arange(reach - start, device=self.device)
        mask[:, start:].masked_fill_(place > place[:count, None], float("-inf"))
        return mask

    def _reach(self, positions: int) -> None:
        """RoPE tables [positions, D] in the compute dtype, computed in float32; the first half of
        the sines is negated.
        """
        if positions <= self._cos.shape[0]:
            return
        reach = max(positions, min(2 * positions, self.shape.context))
        angles = torch.arange(reach, device=self.device).float()[:, None] * self._frequencies
        cos, sin = angles.cos(), angles.sin()
        self._cos = torch.cat((cos, cos), dim=-1).to(self.dtype)
        self._sin = torch.cat((-sin, sin), dim=-1).to(self.dtype)


def _check(stopped: Callable[[], bool] | None) -> None:
    if stopped is not None and stopped():
        raise Cancelled
