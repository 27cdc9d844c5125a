"""The command group that accepts `qwen-tui [FILE]` beside the subcommands.

Law: a command's name takes precedence over a file of that name (`./complete` opens the file); help
is plain text by subject, because rich help would slow the start.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from qwen_tui.cli.arguments import STUDIO, file_named
from qwen_tui.settings.fields import OUTPUT


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    """Write options under their subjects (`rich_help_panel`), in the order in which subjects first
    appear; output options and those without a subject come last.
    """
    subjects: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        row = parameter.get_help_record(ctx)
        if row is not None:
            is_option = parameter.param_type_name == "option"
            subject = getattr(parameter, "rich_help_panel", None)
            subject = subject or ("Options" if is_option else "Arguments")
            row = row if is_option else (row[0].split(" ")[0], row[1])
            subjects.setdefault(subject, []).append(row)
    for last in (OUTPUT, "Options"):
        if last in subjects:
            subjects[last] = subjects.pop(last)
    for subject, rows in subjects.items():
        with formatter.section(subject):
            formatter.write_dl(rows, col_max=28)


class SubjectCommand(TyperCommand):
    """A command whose help groups its options by subject."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)


class SavingCommand(SubjectCommand):
    """A command whose `--save` may be given without a name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare `--save` (at the end, or before another option) an empty name."""
        given = []
        for index, arg in enumerate(args):
            if arg == "--":
                given += args[index:]
                break
            follower = args[index + 1] if index + 1 < len(args) else "--"
            bare = arg == "--save" and follower.startswith("-") and follower != "-"
            given.append("--save=" if bare else arg)
        return super().parse_args(ctx, given)


class Group(TyperGroup):
    """A group of commands with plain help."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)


class StudioGroup(Group):
    """Passes any command line that does not begin with a command's name to the studio."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the studio's command name in front, unless the line names a command or asks for
        help.
        """
        own = {
            name for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)
        }
        first = args[0].partition("=")[0] if args else ""
        if first not in own and first not in self.commands:
            if first[:1] not in ("", "-"):
                file_named(first, list(self.commands))  # a misspelled command, whatever follows it
            args = [STUDIO, *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] [FILE]")
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...", prefix="       ")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)
        _write_options(self.commands[STUDIO], ctx, formatter)
        super_rows = [row for p in self.get_params(ctx) if (row := p.get_help_record(ctx))]
        with formatter.section("Program"):
            formatter.write_dl(super_rows, col_max=28)
