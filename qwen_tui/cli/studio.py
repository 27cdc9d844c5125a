"""`qwen-tui [FILE]`: check the terminal, read piped text, and open the studio.

Law: without a usable terminal it refuses before anything is painted, and says what works instead.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from qwen_tui.cli import options
from qwen_tui.cli.arguments import STUDIO, file_named
from qwen_tui.cli.command_group import SubjectCommand
from qwen_tui.settings.fields import VIEW
from qwen_tui.types import USAGE, Trouble

SHOWN = options.named(VIEW, *options.SUBJECTS, without=("branches", "choices"))


def register(app: typer.Typer) -> None:
    """Add the hidden command behind `qwen-tui [FILE]`."""
    app.command(STUDIO, cls=SubjectCommand, hidden=True)(studio)


@options.takes(*SHOWN)
def studio(
    ctx: typer.Context,
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="the text to begin with; a new file begins empty"),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(
            "--open", metavar="SESSION", rich_help_panel=VIEW,
            help="a session: path, id, its beginning, or title",
        ),
    ] = None,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", rich_help_panel=VIEW,
            help="line by line, without a screen: for dumb terminals and screen readers",
        ),
    ] = False,
    encoding: options.Encoding = None,
    **flags: Any,
) -> None:  # fmt: skip
    """Open the studio on FILE, on a piped text, on a session, or empty."""
    from qwen_tui.cli.terminal import check_screen, piped_text, take_terminal
    from qwen_tui.cli.wiring import StudioInput, open_studio, work_in_lines
    from qwen_tui.session.identity import is_session

    if file is not None and session is not None:
        raise Trouble("a FILE and --open are two texts", hint="leave one out", code=USAGE)
    commands = getattr(ctx.parent and ctx.parent.command, "commands", {})
    path = file_named(file, list(commands)) if file not in (None, "-") else None
    if path is not None and is_session(path):
        path, session = None, str(path)
    if plain:
        raise typer.Exit(work_in_lines(StudioInput(path, session, None, encoding), flags))
    check_screen()
    piped = None if path is not None or session is not None else piped_text(encoding)
    take_terminal()
    raise typer.Exit(open_studio(StudioInput(path, session, piped, encoding), flags))
