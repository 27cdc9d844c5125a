"""bitsandbytes, imported without its offer to fetch a kernel from the hub.

Law: it is imported here first, by whoever needs it: its import may ask the network otherwise.
"""

from __future__ import annotations

import importlib
import logging
import sys


def load() -> None:
    """Import it; from then on its log says only errors, for it would tell of a cast at every
    product. Raises ImportError.
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
