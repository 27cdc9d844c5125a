"""`qwen-tui [FILE]`: check the terminal, read what is piped in, and open the studio.

Law: what cannot be a screen is refused before anything is painted, and says what works instead.
"""

from __future__ import annotations

from typing import Annotated

import typer

from qwen_tui.cli import options
from qwen_tui.cli.arguments import STUDIO, existing, is_session
from qwen_tui.cli.command_group import Command
from qwen_tui.types import USAGE, Trouble

VIEW = "Studio"


def register(app: typer.Typer) -> None:
    """Add the hidden command behind `qwen-tui [FILE]`."""
    app.command(STUDIO, cls=Command, hidden=True)(studio)


def studio(
    ctx: typer.Context,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="the text to begin with")
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(
            "--open", metavar="SESSION", rich_help_panel=VIEW,
            help="a session: path, id, its beginning, or title",
        ),
    ] = None,
    no_save: Annotated[
        bool, typer.Option("--no-save", rich_help_panel=VIEW, help="leave nothing on the disk")
    ] = False,
    theme: Annotated[
        str | None, typer.Option(metavar="NAME", rich_help_panel=VIEW, help="colours")
    ] = None,
    no_mouse: Annotated[
        bool, typer.Option("--no-mouse", rich_help_panel=VIEW, help="leave the mouse alone")
    ] = False,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", rich_help_panel=VIEW,
            help="line by line, without a screen: for dumb terminals and screen readers",
        ),
    ] = False,
    encoding: options.Encoding = None,
    special: options.Special = None,
    model: options.Model = None,
    quant: options.Quant = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    lookup: options.Lookup = None,
    kv_disk: options.KvDisk = None,
    draft: options.Draft = None,
    max_tokens: options.MaxTokens = None,
    context: options.Context = None,
    truncate: options.Truncate = None,
    stop: options.Stop = None,
    ignore_eos: options.IgnoreEos = None,
    preset: options.Preset = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    typical_p: options.Typical = None,
    repetition_penalty: options.RepetitionPenalty = None,
    repeat_last_n: options.RepeatLastN = None,
    presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    order: options.Samplers = None,
    seed: options.Seed = None,
    logit_bias: options.LogitBias = None,
) -> None:  # fmt: skip
    """Open the studio on FILE, on a piped text, on a session, or empty."""
    from qwen_tui.cli.terminal import check_screen, piped_text, take_terminal
    from qwen_tui.cli.wiring import Opening, open_studio, work_in_lines

    if file is not None and session is not None:
        raise Trouble("a FILE and --open are two texts", hint="leave one out", code=USAGE)
    commands = getattr(ctx.parent and ctx.parent.command, "commands", {})
    path = existing(file, list(commands)) if file not in (None, "-") else None
    if path is not None and is_session(path):
        path, session = None, str(path)
    flags = options.flags(ctx.params) | {
        "theme": theme,
        "save": False if no_save else None,
        "mouse": False if no_mouse else None,
    }
    if plain:
        raise typer.Exit(work_in_lines(Opening(path, session, None, encoding), flags))
    check_screen()
    piped = None if path is not None or session is not None else piped_text(encoding)
    take_terminal()
    raise typer.Exit(open_studio(Opening(path, session, piped, encoding), flags))
