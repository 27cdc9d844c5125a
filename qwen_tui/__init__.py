"""qwen-tui: a terminal workbench for language-model completion."""

__version__ = "0.1.0"
