"""`qwen-tui config`: each setting's value and where it came from; `config path`: the user's file.

Law: read only; mistakes in a file are reported on stderr with their line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen_tui.cli.command_group import Group, SubjectCommand

if TYPE_CHECKING:
    from qwen_tui.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="one JSON object instead of a table")]


def register(app: typer.Typer) -> None:
    """Add `config` and `config path`."""
    group = typer.Typer(cls=Group, rich_markup_mode=None, invoke_without_command=True)
    group.callback()(config)
    group.command("path", cls=SubjectCommand)(path)
    app.add_typer(group, name="config", help="Show each setting, its value and its origin.")


def config(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show each setting with its value and the place it came from.

    Flags win over the environment (QWEN_TUI_MODEL and so on), that over the project's
    qwen-tui.toml, that over the user's config.toml, that over the defaults.
    """
    if ctx.invoked_subcommand is not None:
        return
    from qwen_tui import paths, settings
    from qwen_tui.cli.stderr import Reporter
    from qwen_tui.cli.tables import safe_json, show

    found = settings.load({})
    Reporter().warn(found.warnings)
    if as_json:
        listed = {
            name: {"value": _json(value), "source": origin.source, "where": origin.where}
            for name, value, origin in _entries(found)
        }
        print(safe_json(listed))
        return
    rows = [(name, _text(value), str(origin)) for name, value, origin in _entries(found)]
    show(rows, header=("setting", "value", "from"))
    file = paths.config_file()
    print(f"\nuser file: {file}{'' if file.is_file() else '  (not there)'}")


def path() -> None:
    """Print where the user's configuration file is, or would be."""
    from qwen_tui import paths

    print(paths.config_file())


def _entries(found: Settings) -> list[tuple[str, Any, Any]]:
    from qwen_tui import settings

    entries = [
        (name, settings.value_of(found, name), found.origin[name])
        for name in settings.setting_names()
    ]
    entries += [
        (f"keys.{action}", keys, found.origin[f"keys.{action}"])
        for action, keys in found.keys.items()
    ]
    return entries


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or value in ("", ()):
        return "(none)"
    return ", ".join(_one(each) for each in value) if isinstance(value, tuple) else str(value)


def _one(part: Any) -> str:
    if isinstance(part, tuple):
        return f"{part[0]}={part[1]:g}"
    return part if part.isidentifier() else repr(part)


def _json(value: Any) -> Any:
    """A value for JSON, which has no infinities: the bias of a banned token becomes a string."""
    if isinstance(value, tuple):
        return [_json(each) for each in value]
    return (
        str(value) if isinstance(value, float) and value in (float("inf"), -float("inf")) else value
    )
