"""A layer between its products: rotary embedding, attention, the gated activation.

Law: written so that TorchScript can run it on a CPU and Python anywhere; the numbers are the same.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

KEYS_MULTIPLE: Final = 16
"""In 16 bits on a CPU a step of few positions attends to a multiple of so many keys, the last of
them masked: torch's kernel sums a remainder in another order, and what a position gives must not
depend on how many are run beside it."""
FOLDED_POSITIONS: Final = 8
"""Up to this many new positions folding pays on a CPU too: torch's kernel there goes over the keys
once for every query head, and in bf16 a single position takes its slowest path."""


def attended(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    start: int,
    mask: Tensor | None,
    few: int = FOLDED_POSITIONS,
    most_rows: int = 32,
) -> Tensor:
    """Rotate queries and keys of a fused [B·T, (H + 2·Hkv)·D], store keys and values from position
    `start` on, attend over all that is stored → [B·T, H·D]. `sin` has its first half negated.
    Without a mask attention is causal: T is 1, or `start` 0; a mask [T, N] may reach beyond the new
    positions. Up to `few` positions are folded on a CPU, in 16 bits at most `most_rows` rows at a
    time, for the same reason as `KEYS_MULTIPLE` (arguments: TorchScript reads no constants of a
    module).
    """
    count, kv_heads, head = cos.shape[0], keys.shape[1], cos.shape[1]
    qkv = qkv.view(keys.shape[0], count, -1, head).transpose(1, 2)
    heads = qkv.shape[1] - 2 * kv_heads
    end = start + count
    both = qkv.narrow(1, 0, heads + kv_heads)
    # The half-split convention of rotary embedding: (a, b) → (a·cos − b·sin, b·cos + a·sin).
    turned = torch.addcmul(both * cos, torch.roll(both, [head // 2], [3]), sin)
    keys.narrow(2, start, count).copy_(turned.narrow(1, heads, kv_heads))
    values.narrow(2, start, count).copy_(qkv.narrow(1, heads + kv_heads, kv_heads))
    reach = end if mask is None else mask.shape[1]
    query, keys, values = (
        turned.narrow(1, 0, heads),
        keys.narrow(2, 0, reach),
        values.narrow(2, 0, reach),
    )
    alone = start == 0 and count > 1
    if not alone and (count <= few or keys.device.type != "cpu"):
        part = count
        if mask is not None and keys.device.type == "cpu" and keys.dtype != torch.float32:
            part = max(1, most_rows * kv_heads // heads)
        if mask is None or count <= part:
            mixed = folded(query, keys, values, mask)
        else:
            parts = [
                folded(query[:, :, at : at + part], keys, values, mask[at : at + part])
                for at in range(0, count, part)
            ]
            mixed = torch.cat(parts, 2)
    else:
        mixed = F.scaled_dot_product_attention(
            query,
            keys,
            values,
            mask,
            0.0,
            alone,
            enable_gqa=heads != kv_heads,
        )
    return mixed.transpose(1, 2).reshape(qkv.shape[0] * count, heads * head)


def folded(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of grouped queries [B, H, T, D] to keys and values [B, Hkv, N, D] with the queries
    of a group as further positions of its head, so that a key is read once for all of them. On GPUs
    the kernels that take a mask do not take groups, and what serves both copies every key for every
    query head.
    """
    batch, heads, count, head = query.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    query = query.reshape(batch, kv_heads, group * count, head).contiguous()
    if mask is not None:
        mask = mask.repeat(group, 1)
    mixed = F.scaled_dot_product_attention(query, keys, values, mask)
    return mixed.reshape(batch, heads, count, head)


def gated(gate_up: Tensor) -> Tensor:
    """[M, 2·I] → silu of the first half times the second, [M, I]."""
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate).mul_(up)
