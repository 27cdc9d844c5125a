"""`qwen-tui complete`: one completion for a pipeline.

Law: stdout carries the completion and nothing else; the backend's generator runs on the main
thread; an interrupted completion is flushed and saved before the process ends by the signal.
"""

from __future__ import annotations

from typing import Any

import typer

from qwen_tui.cli import options
from qwen_tui.cli.command_group import SavingCommand

EPILOG = """\b
Exit codes:
   0  done: end of text, stop string or length
   1  the generation failed
   2  usage
  65  bad data or encoding, or the prompt does not fit the context
  66  the input, the model or the session is missing
  69  a server, the network or a terminal is not available
  70  an internal error, or the model gave no numbers (NaN)
  73  the output cannot be created
  74  reading or writing failed
  75  for now impossible: busy, out of memory
  77  no permission
  78  the configuration is broken
Interrupted by a signal it keeps what was said and dies by that signal."""


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(cls=SavingCommand, epilog=EPILOG)(complete)


@options.takes(*options.named(*options.SUBJECTS), own=options.CompleteOptions)
def complete(**parameters: Any) -> None:
    """Continue a text once: `qwen-tui complete prompt.txt`, or `… | qwen-tui complete`."""
    from qwen_tui.cli.generation import run

    raise typer.Exit(run(options.CompleteOptions(parameters)))
