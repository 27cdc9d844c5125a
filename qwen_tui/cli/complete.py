"""`qwen-tui complete`: one completion for a pipeline.

Law: stdout carries the completion and nothing else; the backend's generator is iterated right here,
on the main thread; an interrupted completion is flushed and saved before the signal takes us.
"""

from __future__ import annotations

from typing import Annotated

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


def complete(
    ctx: typer.Context,
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE|-", help="the prompt; - or nothing: standard input"),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "-p", "--prompt", metavar="TEXT", rich_help_panel=options.INPUT, help="the prompt"
        ),
    ] = None,
    encoding: options.Encoding = None,
    escape: options.Escape = False,
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
    branches: Annotated[
        int | None,
        typer.Option(
            "-N", "--num", metavar="K", rich_help_panel=options.LENGTH, help="K completions"
        ),
    ] = None,
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
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", rich_help_panel=options.OUTPUT, help="every event, one JSON line each"
        ),
    ] = False,
    choices: Annotated[
        int | None,
        typer.Option(
            "--logprobs", metavar="N", rich_help_panel=options.OUTPUT,
            help="with --json: the N likeliest tokens at every place",
        ),
    ] = None,
    echo: Annotated[
        bool,
        typer.Option(
            "--echo/--no-echo", rich_help_panel=options.OUTPUT, help="the prompt first (no)"
        ),
    ] = False,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", rich_help_panel=options.OUTPUT,
            help="exact bytes on a terminal too, control characters included",
        ),
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="FILE", rich_help_panel=options.OUTPUT,
            help="write there what standard output would have had",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--save", metavar="[NAME]", rich_help_panel=options.OUTPUT,
            help="keep it as a session: a new one, or added to the one of that name",
        ),
    ] = None,
    quiet: options.Quiet = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", rich_help_panel=options.OUTPUT,
            help="show the exact tokens that would be sent; loads no weights",
        ),
    ] = False,
) -> None:  # fmt: skip
    """Continue a text once: `qwen-tui complete prompt.txt`, or `… | qwen-tui complete`."""
    from qwen_tui.cli.generation import Wanted, run

    raise typer.Exit(
        run(
            Wanted(
                **{name: ctx.params[name] for name in Wanted.NAMES}, flags=options.flags(ctx.params)
            )
        )
    )
