"""`qwen-tui replay`: play a session back at its recorded speed, or verify it against a model.

Law: playing back needs no model and writes no file; verifying names the largest difference and
where it is.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from qwen_tui.cli import options
from qwen_tui.cli.command_group import SubjectCommand
from qwen_tui.settings.fields import SERVER
from qwen_tui.types import USAGE, Trouble

PLAY = "Playing"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(cls=SubjectCommand)(replay)


@options.takes(*options.COMPUTE, *options.named(SERVER))
def replay(
    session: options.SessionName,
    speed: Annotated[
        float,
        typer.Option(
            "--speed", metavar="X", rich_help_panel=PLAY, help="so many times as fast; inf: at once"
        ),
    ] = 1.0,
    max_gap: Annotated[
        float | None,
        typer.Option(
            "--max-gap", metavar="SECONDS", rich_help_panel=PLAY, help="no pause longer than this"
        ),
    ] = None,
    tui: Annotated[
        bool, typer.Option("--tui", rich_help_panel=PLAY, help="in the studio, tokens and all")
    ] = False,
    raw: options.Raw = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", rich_help_panel=options.MODEL,
            help="read the stored tokens with the model and compare their logprobs",
        ),
    ] = False,
    quiet: options.Quiet = False,
    **flags: Any,
) -> None:  # fmt: skip
    """Play a session back: the prompt, then the completion with its own rhythm, without a model.

    With --verify the model reads the stored tokens instead: exit 0 when every logprob is within the
    tolerance of its number type, 1 when one is not.
    """
    if not speed > 0:
        raise Trouble("--speed is a number above 0", code=USAGE)
    if max_gap is not None and not max_gap >= 0:
        raise Trouble("--max-gap is a number of seconds, 0 or more", code=USAGE)
    if verify and tui:
        raise Trouble("--verify and --tui exclude each other", code=USAGE)
    if verify:
        from qwen_tui.cli.verify import verified

        raise typer.Exit(verified(session, flags, quiet=quiet))
    if tui:
        from qwen_tui.cli.wiring import replay_in_studio

        raise typer.Exit(replay_in_studio(session, flags, speed=speed, max_gap=max_gap))
    from qwen_tui.cli.playback import play

    raise typer.Exit(play(session, speed=speed, max_gap=max_gap, raw=raw, quiet=quiet))
