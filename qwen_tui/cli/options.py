"""The options of the command line: the settings', from their one table, and those of `complete`.

Law: a parameter has the name of the setting it sets; options that several commands share are
declared once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeAlias, TypeVar, get_origin, get_type_hints

import typer

from qwen_tui.settings.fields import (
    FIELD,
    FIELDS,
    INPUT,
    LENGTH,
    MODEL,
    OUTPUT,
    SAMPLING,
    SERVER,
    Field,
)

SUBJECTS: Final = (INPUT, MODEL, SERVER, LENGTH, SAMPLING, OUTPUT)
"""The subjects of a completion's options, in the order in which help lists them."""
COMPUTE: Final = ("model", "quant", "device", "dtype", "threads")
"""The settings that say which model runs, and how."""

_KEYWORD: Final = inspect.Parameter.KEYWORD_ONLY
CommandFunction = TypeVar("CommandFunction", bound=Callable[..., None])

Encoding: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--encoding",
        metavar="NAME",
        rich_help_panel=INPUT,
        help="the prompt's encoding, if not UTF-8",
    ),
]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("-q", "--quiet", rich_help_panel=OUTPUT, help="only errors on stderr")
]
Raw: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--raw", rich_help_panel=OUTPUT,
        help="exact bytes on a terminal too, control characters included",
    ),
]  # fmt: skip
SessionName: TypeAlias = Annotated[
    str, typer.Argument(metavar="SESSION", help="a path, an id, its beginning, or a title")
]


def named(*subjects: str, without: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The settings whose options belong to those subjects, in the order of the table."""
    return tuple(
        each.name
        for each in FIELDS
        if each.option and each.option.subject in subjects and each.name not in without
    )


def _off(given: bool | None) -> bool | None:
    return False if given else None


def _parameter(spec: Field) -> inspect.Parameter:
    """A setting's option as Typer reads it: None where it was not given."""
    option = spec.option
    assert option is not None
    declared = typer.Option(
        *option.names.split(),
        metavar=option.metavar,
        rich_help_panel=option.subject,
        help=spec.help,
        callback=_off if option.kind is bool and option.names.startswith("--no-") else None,
    )
    kind: Any = Annotated[option.kind | None, declared]
    return inspect.Parameter(spec.name, _KEYWORD, default=None, annotation=kind)


def _own_parameters(declared: type) -> list[inspect.Parameter]:
    hints = get_type_hints(declared, include_extras=True)
    return [
        inspect.Parameter(name, _KEYWORD, default=getattr(declared, name), annotation=kind)
        for name, kind in hints.items()
        if get_origin(kind) is Annotated
    ]


def takes(*settings: str, own: type | None = None) -> Callable[[CommandFunction], CommandFunction]:
    """A decorator that adds the options of these settings to a command, which gets them as
    `**parameters`; before them come those that the class `own` declares, one per annotated
    attribute.
    """

    def extended(command: CommandFunction) -> CommandFunction:
        signature = inspect.signature(command, eval_str=True)
        kept = [each for each in signature.parameters.values() if each.kind != each.VAR_KEYWORD]
        kept += _own_parameters(own) if own is not None else []
        given = [_parameter(FIELD[name]) for name in settings]
        vars(command)["__signature__"] = signature.replace(parameters=[*kept, *given])
        return command

    return extended


def _out(*names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=OUTPUT, metavar=metavar)


class CompleteOptions:
    """The options of `complete` that are not settings: input, output and its form.

    Each annotated attribute is a parameter of the command; `flags` are the settings given.
    """

    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE|-", help="the prompt; - or nothing: standard input"),
    ] = None
    prompt: Annotated[
        str | None,
        typer.Option(
            "-p",
            "--prompt",
            metavar="TEXT",
            rich_help_panel=INPUT,
            help="the prompt; a text that is piped in comes before it",
        ),
    ] = None
    encoding: Encoding = None
    escape: Annotated[
        bool,
        typer.Option(
            "--escape",
            rich_help_panel=INPUT,
            help=r"carry out \n, \t, \xHH … in -p, --stop and breakers; never in a file or pipe",
        ),
    ] = False
    as_json: Annotated[bool, _out("--json", help="every event, one JSON line each")] = False
    echo: Annotated[bool, _out("--echo/--no-echo", help="the prompt first (no)")] = False
    raw: Raw = False
    output: Annotated[
        str | None,
        _out(
            "-o", "--output", metavar="FILE", help="write there what standard output would have had"
        ),
    ] = None
    save_as: Annotated[
        str | None,
        _out(
            "--save",
            metavar="[NAME]",
            help="keep it as a session: a new one, or added to the one of that name",
        ),
    ] = None
    quiet: Quiet = False
    dry_run: Annotated[
        bool, _out("--dry-run", help="show the exact tokens that would be sent; loads no weights")
    ] = False

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.flags: dict[str, Any] = {}
        for name, value in parameters.items():
            if hasattr(type(self), name):
                setattr(self, name, value)
            else:
                self.flags[name] = value
