"""The command line: parse, run one command, map every failure to an exit code.

Law: data goes to stdout and all else to stderr; exit codes are an interface; what a command does
not need is not imported.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from typing import Annotated

import typer

from qwen_tui import __version__
from qwen_tui.cli import bench, complete, config, doctor, engines, models, replay, sessions, studio
from qwen_tui.cli.arguments import STUDIO
from qwen_tui.cli.command_group import StudioGroup
from qwen_tui.types import DONE, INTERNAL, IO_ERROR, NO_INPUT, NO_PERMISSION, USAGE, Trouble

_Refused = typer.BadParameter.__mro__[2]
"""Base class of the parser's exceptions, all with `format_message`; Typer does not export it."""
_NAME = "qwen-tui"
_COMPLETION = "_QWEN_TUI_COMPLETE"
"""The environment variable by which a shell asks for completions."""

app = typer.Typer(
    name=_NAME,
    cls=StudioGroup,
    help="A terminal workbench for language-model completion with Qwen2.5.",
    epilog="Exit codes: see `qwen-tui complete --help`.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"qwen-tui {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A terminal workbench for language-model completion with Qwen2.5.

    Without a command, opens the studio: on FILE, on a piped text, or empty.
    """


for _command in (complete, studio, replay, sessions, models, engines, config, doctor, bench):
    _command.register(app)


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code; if a signal stopped it, end the process by
    that signal.
    """
    _replace_what_cannot_be_encoded()
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _die(getattr(signal, "SIGPIPE", signal.SIGTERM))
    except (KeyboardInterrupt, typer.Abort):
        _die(signal.SIGINT)
    except Exception as error:  # the border: one line, and the rest into the log
        from qwen_tui.cli.stderr import print_error

        if type(error).__name__ == "NoArgsIsHelpError":
            print(error, file=sys.stderr)
            return USAGE
        trouble = _trouble(error)
        print_error(trouble)
        return trouble.code
    return code


def _replace_what_cannot_be_encoded() -> None:
    """Let standard output replace characters that its encoding lacks. A completion's exact bytes do
    not pass through it; standard error replaces by default.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    if _COMPLETION in os.environ:
        command.main(args=arguments, prog_name=_NAME)
    # Not `command.main`: it would turn a broken pipe and Ctrl-C into exit codes of its own.
    try:
        with command.make_context(_NAME, arguments) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return DONE


def _die(signum: int) -> None:
    from qwen_tui.cli.signals import die
    from qwen_tui.cli.stdout import silence_stdout

    silence_stdout()
    die(signum)


def _trouble(error: Exception) -> Trouble:
    """The message and exit code for any exception."""
    if isinstance(error, Trouble):
        return error
    if isinstance(error, _Refused):
        message = getattr(error, "format_message", error.__str__)()
        where = getattr(getattr(error, "ctx", None), "command_path", "qwen-tui")
        return Trouble(message, hint=f"{where.replace(f' {STUDIO}', '')} --help", code=USAGE)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        code = {FileNotFoundError: NO_INPUT, PermissionError: NO_PERMISSION}.get(
            type(error), IO_ERROR
        )
        return Trouble(f"{where}{error.strerror}", code=code)
    return Trouble(
        f"unexpected {type(error).__name__}: {error}", hint=_logged(error), code=INTERNAL
    )


def _logged(error: Exception) -> str:
    """Log the traceback and return the log's path; the values of variables, which include prompts
    and keys, are left out.
    """
    from qwen_tui import paths

    try:
        file = paths.ensure_folder(paths.logs_dir()) / "crash.log"
        handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
    except OSError as why:
        return f"the details could not be logged: {why.strerror}"
    file.chmod(0o600)
    log = logging.getLogger("qwen_tui.crash")
    log.propagate = False
    log.addHandler(handler)
    log.error("qwen-tui %s", __version__, exc_info=error)
    handler.close()
    log.removeHandler(handler)
    return f"the details are in {file}"
