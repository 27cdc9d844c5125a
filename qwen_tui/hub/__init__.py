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
from qwen_tui.hub.qwen2_shape import FETCH_AGAIN, Shape, tensor_fault
from qwen_tui.hub.safetensors_header import Tensor, read_json, size_text
from qwen_tui.hub.snapshots import (
    DEMO,
    Snapshot,
    described,
    find,
    installed,
    is_hub_id,
    locate,
    nearest,
    remove,
)
from qwen_tui.hub.weight_files import WeightFiles, contents, weight_files

__all__ = [
    "DEMO",
    "FETCH_AGAIN",
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
    "WeightFiles",
    "card",
    "contents",
    "described",
    "find",
    "fingerprint",
    "hub_cache",
    "installed",
    "is_hub_id",
    "locate",
    "nearest",
    "needs",
    "offline",
    "pull",
    "read_json",
    "remove",
    "size_text",
    "tensor_fault",
    "verify",
    "weight_files",
]
