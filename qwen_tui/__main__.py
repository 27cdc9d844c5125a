"""`python -m qwen_tui` is `qwen-tui`."""

from __future__ import annotations

import sys

from qwen_tui.cli import main

if __name__ == "__main__":
    sys.exit(main())
