"""`qwen-tui bench`: how fast the model runs on this machine, and how close that is to the limit
that memory bandwidth sets.

Law: the local backend measures; this module has only the options and the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen_tui.cli import options
from qwen_tui.cli.command_group import SubjectCommand

if TYPE_CHECKING:
    from qwen_tui.backends.local.benchmark.figures import BenchProtocol, Result

PANEL = "Measurement"


def register(app: typer.Typer) -> None:
    """Add `bench`."""
    app.command("bench", cls=SubjectCommand)(bench)


@options.takes(*options.COMPUTE, "draft", "context")
def bench(
    tokens: Annotated[
        int | None,
        typer.Option(
            "-n", "--tokens", metavar="N", min=2, rich_help_panel=PANEL,
            help="tokens decoded in one block (64)",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds", metavar="R", min=1, rich_help_panel=PANEL,
            help="rounds; each runs every kind of block once (5)",
        ),
    ] = None,
    prompt: Annotated[
        int | None,
        typer.Option(
            "--prompt-tokens", metavar="N", min=32, rich_help_panel=PANEL,
            help="tokens of the long prompt (1024)",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", rich_help_panel=PANEL, help="a rough look: 2 short rounds"),
    ] = False,
    gate: Annotated[
        bool,
        typer.Option(
            "--gate", rich_help_panel=PANEL,
            help="also hold every kind of weights against float32, over a page of English",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=options.OUTPUT, help="one JSON object")
    ] = False,
    quiet: options.Quiet = False,
    **flags: Any,
) -> None:  # fmt: skip
    """Measure how fast the model runs on this machine.

    Decoding speed, and its share of what the machine's memory bandwidth allows; the time to the
    first token of a long prompt, and after its last words were changed; the cost of siblings; what
    a draft model gains; loading; memory. Medians over the rounds, with the lowest and the highest.
    Nothing else should run meanwhile; the generated text is discarded.
    """
    from qwen_tui import settings
    from qwen_tui.cli.signals import dying_at_once
    from qwen_tui.cli.stderr import Reporter
    from qwen_tui.cli.tables import safe_json
    from qwen_tui.types import USAGE, Trouble

    chosen = settings.load(flags)
    if chosen.engine not in settings.LOCAL:
        raise Trouble("bench measures this machine, not a server", code=USAGE)
    with Reporter(quiet=quiet) as reporter, dying_at_once():
        reporter.warn(chosen.warnings)
        from qwen_tui.backends.local.benchmark.run import measure

        protocol = _protocol(quick, {"tokens": tokens, "rounds": rounds, "prompt": prompt})
        result = measure(chosen, protocol, report=reporter.report, say=reporter.say, gated=gate)
    if as_json:
        print(safe_json(result.record()))
    else:
        show_result(result)


def _protocol(quick: bool, wanted: dict[str, int | None]) -> BenchProtocol:
    """The standard or the quick protocol, with the values from the command line."""
    from dataclasses import replace

    from qwen_tui.backends.local.benchmark.figures import QUICK, BenchProtocol

    given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    return replace(QUICK if quick else BenchProtocol(), **given)


def show_result(result: Result) -> None:
    """Print the table on standard output, under the names of model and machine."""
    from qwen_tui.cli.tables import show

    about = result.model
    how = [about[name] for name in ("device", "dtype", "quant", "kernels")]
    rows = [
        ("model", about["name"]),
        ("draft", about["draft"]),
        ("how", " · ".join(word for word in how if word not in ("", "none"))),
        ("machine", result.machine.line()),
        ("measured", _measured(result)),
    ]
    show([row for row in rows if row[1]])
    print()
    show(result.rows(), header=("", "median", "lowest – highest", ""), right=(1, 2))
    if result.gate:
        from qwen_tui.backends.local.benchmark.quality import HEADER

        print()
        show([each.row() for each in result.gate], header=HEADER, right=(1, 2, 3, 4, 5))


def _measured(result: Result) -> str:
    protocol = result.protocol
    return (
        f"{protocol.rounds} rounds, blocks of {protocol.tokens} tokens in turning order; "
        f"system load {result.machine.load:.1f}"
    )
