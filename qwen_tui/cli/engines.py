"""`qwen-tui engines`: the servers of the configuration, and what one of them is and can do.

Law: `list` makes no request; `probe` sends one tiny request, and gives the reason for every missing
ability.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from qwen_tui.cli import options
from qwen_tui.cli.command_group import Group, SubjectCommand

if TYPE_CHECKING:
    from qwen_tui.backends.remote.facts import ServerFacts
    from qwen_tui.settings import Endpoint

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table")]
ABILITIES: Final = {
    "token_ids": "token ids",
    "choices": "alternatives",
    "score": "surprise of a text",
    "branches": "siblings",
}
"""Labels of the fields of `Abilities`."""


def register(app: typer.Typer) -> None:
    """Add `engines list` and `engines probe`."""
    group = typer.Typer(cls=Group, rich_markup_mode=None, no_args_is_help=True)
    group.command("list", cls=SubjectCommand)(list_engines)
    group.command("probe", cls=SubjectCommand)(probe)
    app.add_typer(group, name="engines", help="Servers as engines: list them, ask one.")


def list_engines(as_json: AsJson = False) -> None:
    """List the servers of the configuration; nobody is asked."""
    from qwen_tui import paths, settings
    from qwen_tui.cli.stderr import Reporter
    from qwen_tui.cli.tables import safe_json, show

    found = settings.load({})
    Reporter().warn(found.warnings)
    engines = sorted(found.engines.items())
    if as_json:
        print(
            safe_json([_listed(each) | {"chosen": found.engine == name} for name, each in engines])
        )
        return
    if not engines:
        print(f"no servers; [engines.NAME] with a url in {paths.config_file()} makes one")
        return
    rows = [
        ("*" if found.engine == name else "", name, each.url, each.model or "(its own)", _key(each))
        for name, each in engines
    ]
    show(rows, header=("", "name", "address", "model", "key"))


def _listed(each: Endpoint) -> dict[str, Any]:
    return {"name": each.name, "url": each.url, "model": each.model, "key": _key(each)}


def _key(endpoint: Endpoint) -> str:
    """Where the key is stored, never the key."""
    if endpoint.key_env:
        there = "set" if os.environ.get(endpoint.key_env) else "not set"
        return f"in {endpoint.key_env} ({there})"
    return f"in {endpoint.key_file}" if endpoint.key_file else "none"


@options.takes("model")
def probe(
    name: Annotated[str, typer.Argument(metavar="NAME|URL", help="which server")],
    as_json: AsJson = False,
    **flags: Any,
) -> None:
    """Ask a server what it is, and try what it can do with one tiny request."""
    from qwen_tui import settings
    from qwen_tui.backends import remote
    from qwen_tui.cli.stderr import Reporter
    from qwen_tui.cli.tables import safe_json, show

    chosen = settings.load(flags | {"engine": name})
    Reporter().warn(chosen.warnings)
    facts, seconds = remote.probe(chosen)
    if as_json:
        print(safe_json(_record(facts, seconds)))
        return
    identity = facts.identity
    rows = [
        ("server", f"{identity.engine} {identity.version}".rstrip()),
        ("model", identity.model),
        ("its models", ", ".join(identity.models)),
        ("context", f"{facts.context:,} tokens"),
        ("an answer takes", f"{seconds * 1000:.1f} ms"),
        *((shown, _able(facts, field)) for field, shown in ABILITIES.items()),
        *(("", note) for note in facts.notes if not note.startswith("text goes by text")),
    ]
    show(rows)


def _able(facts: ServerFacts, field: str) -> str:
    value = getattr(facts.abilities, field)
    if not value:
        return f"no: {facts.cannot.get(field, 'the server does not')}"
    return f"up to {value}" if field == "choices" else "yes"


def _record(facts: ServerFacts, seconds: float) -> dict[str, Any]:
    identity = facts.identity
    return {
        "engine": identity.engine,
        "version": identity.version,
        "model": identity.model,
        "models": list(identity.models),
        "context": facts.context,
        "seconds": round(seconds, 6),
        "abilities": {field: getattr(facts.abilities, field) for field in ABILITIES},
        "cannot": dict(facts.cannot),
        "notes": list(facts.notes),
    }
