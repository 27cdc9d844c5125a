"""Attention and activation of one decoder layer: rotary embedding, KV cache, the gated activation.

Law: plain tensor functions that give the same numbers whether TorchScript or Python runs them.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

KEYS_MULTIPLE: Final = 16
"""On a CPU in 16 bits, a step of few positions attends to a number of keys rounded up to a multiple
of this, the surplus masked. Torch's kernel sums a remainder in another order, and the result for a
position must not depend on how many positions run beside it."""
FOLDED_POSITIONS: Final = 8
"""Up to this many new positions the queries of a group are folded (see `folded`) on a CPU too:
torch's CPU kernel reads the keys once for every query head, and is slowest for one position in
bf16."""


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
    """Rotary embedding, KV-cache update and attention: fused `qkv` [B·T, (H + 2·Hkv)·D] → [B·T,
    H·D].

    `cos`, `sin` are [T, D], the first half of `sin` negated. The new keys and values are stored in
    `keys`, `values` [B, Hkv, capacity, D] from position `start` on. Without a mask attention is
    causal, and either T is 1 or `start` is 0; a `mask` is additive [T, N], where N may exceed
    `start` + T. On a CPU up to `few` positions are folded, in 16 bits at most `most_rows` rows at a
    time, for the reason given at `KEYS_MULTIPLE`. (They are arguments because TorchScript cannot
    read module constants.)
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
    """Grouped-query attention of `query` [B, H, T, D] to keys and values [B, Hkv, N, D] → [B, H, T,
    D].

    The queries of a group are laid out as further positions of one head, so that each key is read
    once for the whole group. GPU kernels that take a mask do not take groups; torch's fallback
    would copy every key for every query head.
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
