"""`Model` over our own Qwen2 forward pass: one network, one preallocated KV cache.

Law: a forward pass that is cancelled or runs out of memory leaves the cache's length unchanged.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from qwen_tui.backends.local.nn.fbgemm import Packed8, Packed16
from qwen_tui.backends.local.nn.int4 import Int4, block_rows
from qwen_tui.backends.local.nn.linear import Dense, Linear, multiplies
from qwen_tui.backends.local.nn.qwen2 import KV, Qwen2

DENSE_DRAFT: Final = 7
QUANTISED_DRAFT: Final = 3
"""Most drafted ids to verify in a step with quantised weights: their kernels take rows in fours. A
dense product reads its weights once for many more."""
GPU_ROW_COST: Final = 0.02
CHUNKS: Final = {"cpu": 256, "cuda": 512, "mps": 256}
"""Positions prefilled at once, by device; the mask over a long context grows with them."""
UNPACKED_CHUNK: Final = 1024
"""The same on a CPU that unpacks quantised weights for a prefill: each chunk unpacks every matrix
again, so there should be few chunks."""
FBGEMM_CHUNK: Final = 64
"""With FBGEMM more rows are no faster per id, and small chunks can be cancelled sooner."""
ROW_BY_ROW_CHUNK: Final = 16
"""Where every position unpacks all weights again, only small chunks can be cancelled in time."""


class FastModel:
    """`Model` over a `Qwen2` network. `packed` is the file its weights are mapped from, if any;
    `context` is how many positions memory was planned for (0: the checkpoint's context length).
    """

    def __init__(self, network: Qwen2, *, packed: Path | None = None, context: int = 0) -> None:
        self.packed = packed
        self._network, self._context = network, context
        self._cache: KV = network.cache(context)

    @property
    def _linear(self) -> Linear:
        """The largest linear layer; all layers of a network have the same format."""
        return self._network.layers[0].gate_up

    @property
    def row_cost(self) -> float:
        """The cost of each further row of a decoding step, in steps of one row."""
        return self._linear.row_cost if self._on_cpu else GPU_ROW_COST

    @property
    def max_draft(self) -> int:
        """Most drafted ids to verify in a step."""
        return DENSE_DRAFT if self._dense else QUANTISED_DRAFT

    @property
    def chunk(self) -> int:
        """Positions to prefill at once."""
        if isinstance(self._linear, Packed8 | Packed16):
            return FBGEMM_CHUNK
        if isinstance(self._linear, Int4) and not block_rows():
            return ROW_BY_ROW_CHUNK
        if self._on_cpu and not self._dense and multiplies(torch.bfloat16):
            return UNPACKED_CHUNK
        return CHUNKS.get(self._network.device.type, 256)

    def step_cost(self, of: FastModel) -> float:
        """The cost of one of its steps in steps of the model `of`: the ratio of bytes read, and on
        a GPU, where kernel launches count too, at least the ratio of layers.
        """
        ours, theirs = self._network, of._network
        cost = ours.nbytes_per_token / theirs.nbytes_per_token
        return cost if self._on_cpu else max(cost, ours.shape.layers / theirs.shape.layers)

    @property
    def _dense(self) -> bool:
        return isinstance(self._linear, Dense)

    @property
    def _on_cpu(self) -> bool:
        return self._network.device.type == "cpu"

    @property
    def length(self) -> int:
        """Positions each row of the cache holds."""
        return self._cache.length

    @property
    def rows(self) -> int:
        """Rows of the cache."""
        return self._cache.rows

    @property
    def vocab_rows(self) -> int:
        """Logits a position has, padding rows included."""
        return self._network.shape.vocab

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, mapped ones too."""
        return self._network.nbytes

    @property
    def step_bytes(self) -> int:
        """Weight bytes that one decoding step reads, whatever the batch."""
        return self._network.nbytes_per_token

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values that one position adds to a row of the cache."""
        shape = self._network.shape
        return 2 * shape.layers * shape.kv_heads * shape.head * self._network.dtype.itemsize

    def forward(
        self, ids: Sequence[Sequence[int]], *, every: bool = False, cancel: threading.Event
    ) -> Tensor:
        """Run `ids` [rows][n]; float32 logits [rows, V], or [rows, n, V] with `every`.

        `cancel` is checked before every large product of more than one position; a single decoding
        step is short and is not interrupted.
        """
        batch = torch.tensor(ids, dtype=torch.int64, device=self._network.device)
        count = batch.shape[1]
        logits = self._network.forward(
            batch,
            self._cache,
            last=count if every else 1,
            stopped=cancel.is_set if count > 1 else None,
        )
        return logits if every else logits[:, 0]

    def prefill(
        self, ids: Sequence[int], *, every: bool = False, cancel: threading.Event
    ) -> Generator[float, None, Tensor]:
        """`forward` for a chunk of one row's prompt; yields the share done after each layer."""
        batch = torch.tensor([ids], dtype=torch.int64, device=self._network.device)
        logits = yield from self._network.layer_by_layer(
            batch, self._cache, last=len(ids) if every else 1, stopped=cancel.is_set
        )
        return logits if every else logits[:, 0]

    def rewind(self, length: int) -> int:
        """Forget all positions from `length` on."""
        self._cache.rewind(min(length, self._cache.length))
        return self._cache.length

    def branch(self, rows: int) -> None:
        """Turn the one row into `rows` equal rows."""
        self._cache.select([0] * rows)

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows only, in this order."""
        self._cache.select(list(rows))

    def extract(self, row: int, start: int, stop: int) -> Tensor:
        """Keys and values [2, layers, kv_heads, stop − start, head] of one row."""
        return self._cache.extract(row, start, stop)

    def graft(self, part: Tensor, start: int, stop: int) -> None:
        """Append positions start … stop − 1 of what `extract` returned to the one row."""
        self._cache.graft(part[:, :, :, start:stop])

    def reset(self) -> None:
        """Forget everything and give the cache's memory back."""
        self._cache = self._network.cache(self._context)

    def memory(self) -> int:
        """Bytes of weights (mapped ones too) and cache."""
        return self._network.nbytes + self._cache.nbytes

    def close(self) -> None:
        """Release the weights."""
        self.reset()
        self._network = None  # type: ignore[assignment]  # nothing may be called after it
