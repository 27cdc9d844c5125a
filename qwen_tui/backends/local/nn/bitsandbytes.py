"""Imports bitsandbytes without letting it download a kernel from the hub.

Law: every use of bitsandbytes imports it through here first; a plain import may use the network.
"""

from __future__ import annotations

import importlib
import logging
import sys


def load() -> None:
    """Import bitsandbytes and silence its log below errors (it logs a cast at every product).
    Raises ImportError.
    """
    log = logging.getLogger("bitsandbytes")
    log.setLevel(logging.CRITICAL)
    absent = "kernels" not in sys.modules
    if absent:
        sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("bitsandbytes")
    finally:
        log.setLevel(logging.ERROR)
        if absent:
            del sys.modules["kernels"]
