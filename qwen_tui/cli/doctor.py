"""`qwen-tui doctor`: how the model would run on this machine and why; versions, terminal, paths.

Law: it changes nothing and makes no request; the exit code says whether the model can run.
"""

from __future__ import annotations

import os
import platform
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from qwen_tui.cli import options
from qwen_tui.cli.command_group import SubjectCommand

if TYPE_CHECKING:
    from pathlib import Path

    from qwen_tui.hub import Snapshot
    from qwen_tui.settings import Settings

PACKAGES: Final = (
    "textual",
    "rich",
    "torch",
    "transformers",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
)


def register(app: typer.Typer) -> None:
    """Add `doctor`."""
    app.command("doctor", cls=SubjectCommand)(doctor)


@options.takes(*options.COMPUTE, "draft", "context")
def doctor(
    verify_weights: Annotated[
        bool,
        typer.Option(
            "--verify-weights", help="hash every file of the model and compare with the record"
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
    **flags: Any,
) -> None:
    """Show how the model would run here and why; versions, terminal, places on disk.

    Exits 0 when the model can run, else with the code of what is in its way; 65 when
    --verify-weights finds a file that changed.
    """
    from qwen_tui import settings
    from qwen_tui.cli.stderr import Reporter
    from qwen_tui.cli.tables import safe_json, show

    found = settings.load(flags)
    with Reporter() as reporter:
        reporter.warn(found.warnings)
        about, code = _model(found, verify=verify_weights, reporter=reporter)
    sections = {
        "model": about,
        "versions": _versions(),
        "terminal": _terminal(),
        "places": _places(),
    }
    if as_json:
        print(safe_json({name: _grouped(rows) for name, rows in sections.items()} | {"exit": code}))
        raise typer.Exit(code)
    for name, rows in sections.items():
        if name != "model":
            print(f"\n{name}")
        show([("  " * (name != "model") + label, text) for label, text in rows])
    raise typer.Exit(code)


def _grouped(rows: list[tuple[str, str]]) -> dict[str, Any]:
    """A dictionary of the rows; rows with the same label become a list."""
    grouped: dict[str, Any] = {}
    label = ""
    for name, text in rows:
        label = name or label
        before = grouped.get(label)
        if before is None:
            grouped[label] = text
        else:
            grouped[label] = [*before, text] if isinstance(before, list) else [before, text]
    return grouped


# -- the model -------------------------------------------------------------------------------------


def _model(found: Settings, *, verify: bool, reporter: Any) -> tuple[list[tuple[str, str]], int]:
    """Rows about the configured model, and the exit code that follows from them."""
    from qwen_tui import hub
    from qwen_tui.types import DONE, Trouble

    rows = [("model", f"{found.model}  ({found.origin['model']})")]
    code = DONE
    snapshot = _located(found.model)
    try:
        snapshot = hub.find(found.model)
        card = hub.card(snapshot.path, snapshot.name)
        rows += [("folder", str(snapshot.path)), ("kind", card.kind)]
        rows += [("note", each) for each in snapshot.notes]
        rows += _plan_rows(card, found)
        rows += _draft_rows(snapshot, card, found)
    except Trouble as trouble:
        rows += [("trouble", trouble.message), ("cure", trouble.hint)]
        code = trouble.code
    if verify and snapshot is not None:
        checked, verdict = _verify(snapshot, reporter)
        rows += checked
        code = code or verdict
    return [row for row in rows if row[1]], code


def _located(model: str) -> Snapshot | None:
    from qwen_tui import hub
    from qwen_tui.types import Trouble

    try:
        return hub.locate(model)
    except Trouble:
        return None


def _plan_rows(card: Any, found: Settings) -> list[tuple[str, str]]:
    from contextlib import suppress

    from qwen_tui.backends.local.planning import draft_model, hardware, plan
    from qwen_tui.types import Trouble

    decided = plan.plan(card, found, hardware.probe())
    if found.draft and not decided.spread:
        with suppress(Trouble):  # what is wrong with the draft is said in its own rows
            decided = draft_model.leave_room(decided, card, draft_model.find_card(found), found)
    return [("plan" if index == 0 else "", line) for index, line in enumerate(plan.lines(decided))]


def _draft_rows(snapshot: Snapshot, card: Any, found: Settings) -> list[tuple[str, str]]:
    """Rows about the draft model, if one is set; Trouble if it cannot be used."""
    if not found.draft:
        return []
    from qwen_tui.backends.local.planning import draft_model, hardware, plan
    from qwen_tui.vocab import Vocab

    rows = [("draft", f"{found.draft}  ({found.origin['draft']})")]
    machine = hardware.probe()
    draft = draft_model.find_card(found)
    decided = draft_model.leave_room(plan.plan(card, found, machine), card, draft, found)
    if decided.spread or card.shape is None:
        return [*rows, ("", "not used: the model runs through transformers")]
    vocab = Vocab.load(snapshot.path)
    beside = draft_model.plan_draft(found, draft, snapshot, vocab, decided, machine)
    return [*rows, *(("", line) for line in (*plan.lines(beside.plan), beside.why))]


def _verify(snapshot: Snapshot, reporter: Any) -> tuple[list[tuple[str, str]], int]:
    from qwen_tui import hub
    from qwen_tui.types import BAD_DATA, DONE, Trouble

    try:
        results = hub.verify(snapshot.path, report=reporter.report)
    except Trouble as trouble:
        return [("verified", trouble.message)], trouble.code
    reporter.clear()
    said = {"hub": "as the hub states", "recorded": "as recorded before", "": "recorded now"}
    rows: list[tuple[str, str]] = []
    for each in results:
        verdict = said[each.source]
        if not each.ok:
            verdict = f"CHANGED: {each.actual[:16]}… instead of {each.expected[:16]}…"
        rows.append(("" if rows else "verified", f"{each.name}  {verdict}"))
    if all(each.ok for each in results):
        return rows, DONE
    cure = (
        f"qwen-tui models rm {snapshot.name}, then models pull {snapshot.name}"
        if snapshot.place == "hub cache"
        else "restore the file; or, if you changed it yourself, verify once more"
    )
    return [*rows, ("cure", cure)], BAD_DATA


# -- the machine -----------------------------------------------------------------------------------


def _versions() -> list[tuple[str, str]]:
    from importlib import metadata

    from qwen_tui import __version__

    rows = [
        ("qwen-tui", __version__),
        ("Python", f"{platform.python_version()} on {platform.platform(terse=True)}"),
    ]
    for package in PACKAGES:
        try:
            rows.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            rows.append((package, "not installed"))
    try:
        from qwen_tui.backends.local.nn.kernel import installed

        rows.append(("own kernel", installed.state()))
    except ImportError:
        rows.append(("own kernel", "not used: torch is not installed"))
    return rows


def _terminal() -> list[tuple[str, str]]:
    """What environment variables say about the terminal; the terminal itself is not queried."""
    from rich.console import Console

    console = Console()
    term = os.environ.get("TERM", "")
    inside = [name for name in ("TMUX", "STY", "SSH_TTY", "WT_SESSION") if os.environ.get(name)]
    colours = {"truecolor": "16 million", "256": "256", "standard": "16", "windows": "16"}
    rows = [
        ("standard output", "a terminal" if sys.stdout.isatty() else "no terminal"),
        ("TERM", (term or "(unset)") + (f" inside {', '.join(inside)}" if inside else "")),
        ("size", f"{console.width} × {console.height}"),
        ("colours", colours.get(console.color_system or "", "none")),
        ("encoding", sys.stdout.encoding or "(unknown)"),
    ]
    if term in ("", "dumb"):
        rows.append(("studio", "will not open on this terminal; use complete, or --plain"))
    if os.environ.get("NO_COLOR"):
        rows.append(("NO_COLOR", "set: shown with bold, underline and glyphs"))
    return rows


def _places() -> list[tuple[str, str]]:
    from qwen_tui import hub, paths
    from qwen_tui.cli import cache_files

    places = (
        ("configuration", paths.config_file()),
        ("sessions", paths.sessions_dir()),
        ("drafts", paths.drafts_dir()),
        ("logs", paths.logs_dir()),
        ("cache", paths.cache_dir()),
        ("kept of texts", paths.kv_dir()),
        ("own models", paths.models_dir()),
        ("hub cache", hub.hub_cache()),
        ("themes", paths.themes_dir()),
        ("demo", paths.demo_dir()),
    )
    sizes = {paths.kv_dir(): cache_files.total(cache_files.kv_blocks())}
    return [(label, f"{place}{_state(place, sizes.get(place, 0))}") for label, place in places]


def _state(place: Path, size: int = 0) -> str:
    import shutil

    from qwen_tui import hub

    try:
        if not place.exists():
            return "  (not there yet)"
        free = "" if place.is_file() else f", {hub.size_text(shutil.disk_usage(place).free)} free"
        may = "" if os.access(place, os.W_OK) else ", not writable"
    except OSError as error:
        return f"  ({error.strerror})"
    holds = f", {hub.size_text(size)} in it" if size else ""
    notes = (may + holds + free).removeprefix(", ")
    return f"  ({notes})" if notes else ""
