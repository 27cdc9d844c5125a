"""Model snapshots: find, describe, hash, list, remove and (only when asked) download them.

Law: no torch, no transformers; nothing but `pull` makes a request, and `huggingface_hub` is
imported in `hub_client` alone.
"""

from __future__ import annotations

from qwen_tui.hub.card import Card, card
from qwen_tui.hub.catalog import KNOWN, Known
from qwen_tui.hub.download import pull
from qwen_tui.hub.hashes import Checked, Fingerprint, Stopped, fingerprint, verify
from qwen_tui.hub.hub_cache import hub_cache, offline
from qwen_tui.hub.memory_needs import Needs, needs
from qwen_tui.hub.qwen2_shape import Shape
from qwen_tui.hub.safetensors_header import Tensor, header, problems, shards, size_text
from qwen_tui.hub.snapshots import (
    DEMO,
    Snapshot,
    find,
    installed,
    is_hub_id,
    locate,
    nearest,
    remove,
)

__all__ = [
    "DEMO",
    "KNOWN",
    "Card",
    "Checked",
    "Fingerprint",
    "Known",
    "Needs",
    "Shape",
    "Snapshot",
    "Stopped",
    "Tensor",
    "card",
    "find",
    "fingerprint",
    "header",
    "hub_cache",
    "installed",
    "is_hub_id",
    "locate",
    "nearest",
    "needs",
    "offline",
    "problems",
    "pull",
    "remove",
    "shards",
    "size_text",
    "verify",
]
