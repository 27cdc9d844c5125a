"""`qwen-tui models list|info|pull|rm`: the checkpoints on this disk and those that can be
downloaded.

Law: `list`, `info` and `rm` make no request; `pull` is the only command that reaches the hub.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwen_tui.cli.command_group import Group, SubjectCommand
from qwen_tui.cli.stderr import Reporter, one_line
from qwen_tui.types import NO_INPUT, USAGE, Trouble

if TYPE_CHECKING:
    from qwen_tui.hub import Card, Known, Snapshot

Model = Annotated[str, typer.Argument(metavar="MODEL", help="a hub id, a folder, or `demo`")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON lines instead of a table")]


def register(app: typer.Typer) -> None:
    """Add `models` and its commands."""
    group = typer.Typer(cls=Group, rich_markup_mode=None, no_args_is_help=True)
    group.command("list", cls=SubjectCommand)(list_models)
    group.command("info", cls=SubjectCommand)(info)
    group.command("pull", cls=SubjectCommand)(pull)
    group.command("rm", cls=SubjectCommand)(remove)
    app.add_typer(group, name="models", help="List, describe, download and remove models.")


# -- list ------------------------------------------------------------------------------------------


def list_models(as_json: AsJson = False) -> None:
    """List the models on this disk, their packed weights, and the Qwen2.5s one can pull."""
    from qwen_tui import hub
    from qwen_tui.cli import cache_files
    from qwen_tui.cli.tables import safe_json, show

    here = hub.installed()
    files, blocks = cache_files.packed_weights(), cache_files.kv_blocks()
    names = {each.name for each in here}
    absent = [known for name, known in hub.KNOWN.items() if name not in names]
    if as_json:
        owned: set[cache_files.Packed] = set()
        for snapshot in here:
            mine = cache_files.of(snapshot.path, files)
            owned |= set(mine)
            size = cache_files.total(cache_files.of(snapshot.path, blocks))
            about = {"packed": [each.record() for each in mine], "kept": size}
            print(safe_json(_here_json(snapshot) | about))
        for each in files:
            if each not in owned:
                print(safe_json({"name": each.model, "here": False, "packed": [each.record()]}))
        for known in absent:
            print(safe_json(_known_json(known)))
        return
    rows = [_here_row(each, cache_files.note(each.path, files, blocks)) for each in here]
    rows += cache_files.orphan_rows((each.path for each in here), files, blocks)
    rows += [_known_row(each) for each in absent]
    show(
        rows,
        header=("model", "kind", "parameters", "size", "context", "memory 4-bit/bf16", "state"),
        right=(2, 3, 4, 5),
    )


def _card(snapshot: Snapshot) -> Card | None:
    from qwen_tui import hub

    if snapshot.problems:
        return None
    try:
        return hub.card(snapshot.path, snapshot.name)
    except Trouble:
        return None


def _here_row(snapshot: Snapshot, also: str) -> tuple[str, ...]:
    from qwen_tui import hub

    card = _card(snapshot)
    size = hub.size_text(snapshot.bytes)
    if card is None:
        why = snapshot.problems[0] if snapshot.problems else "its files cannot be read"
        return (snapshot.name, "", "", size, "", "", f"broken: {why}")
    return (
        snapshot.name,
        _kind(card),
        _count(card.parameters),
        size,
        f"{card.context:,}",
        _memory(card),
        snapshot.place + also,
    )


def _known_row(known: Known) -> tuple[str, ...]:
    from qwen_tui import hub

    return (
        known.name,
        _kind(known),
        _count(known.parameters),
        hub.size_text(known.download_bytes),
        f"{known.context:,}",
        _memory(known),
        "not here: models pull",
    )


def _kind(what: Card | Known) -> str:
    return "instruct" if what.instruct else "base"


def _count(parameters: int) -> str:
    """A parameter count in the usual form: 7.62 B, 494 M."""
    for unit, power in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if parameters >= power:
            scaled = parameters / power
            return f"{scaled:.2f} {unit}" if scaled < 100 else f"{scaled:.0f} {unit}"
    return str(parameters)


def _memory(what: Card | Known) -> str:
    """The memory it takes with 2,048 tokens in the KV cache."""
    from qwen_tui import hub

    sizes = [hub.needs(what, "bf16", quant).total(2048) / 2**30 for quant in ("nf4", "none")]
    return " / ".join(f"{size:.1f}" for size in sizes) + " GiB"


def _here_json(snapshot: Snapshot) -> dict[str, Any]:
    card = _card(snapshot)
    about: dict[str, Any] = {
        "name": snapshot.name,
        "here": True,
        "place": snapshot.place,
        "path": str(snapshot.path),
        "commit": snapshot.commit,
        "bytes": snapshot.bytes,
        "complete": snapshot.complete,
        "problems": list(snapshot.problems),
    }
    if card is not None:
        about |= {
            "kind": _kind(card),
            "parameters": card.parameters,
            "context": card.context,
            "licence": card.licence,
        }
    return about


def _known_json(known: Known) -> dict[str, Any]:
    return {
        "name": known.name,
        "here": False,
        "download_bytes": known.download_bytes,
        "kind": _kind(known),
        "parameters": known.parameters,
        "context": known.context,
        "licence": known.licence,
    }


# -- info ------------------------------------------------------------------------------------------


def info(model: Model, as_json: AsJson = False) -> None:
    """Describe a model: parameters, shape, context, memory, licence, citation."""
    from qwen_tui import hub
    from qwen_tui.cli.tables import safe_json, show

    snapshot = hub.locate(model)
    known = hub.KNOWN.get(model)
    if snapshot is None and known is not None:
        rows, citation = _known_rows(known), known.citation
        about = _known_json(known)
    else:
        snapshot = hub.described(model)
        card = hub.card(snapshot.path, snapshot.name)
        rows, citation = _card_rows(snapshot, card), card.citation
        about = _here_json(snapshot) | _card_json(card)
    if as_json:
        print(safe_json(about | {"citation": citation}))
        return
    show(rows)
    if citation:
        from qwen_tui.safe_text import visible

        print("\n" + visible(citation))


def _shape_rows(what: Card | Known) -> list[tuple[str, str]]:
    heads = f"{what.heads} query / {what.kv_heads} key-value × {what.head_dim}"
    return [
        ("parameters", f"{what.parameters:,} ({_count(what.parameters)})"),
        ("layers", str(what.layers)),
        ("hidden", f"{what.hidden:,} (feed-forward {what.intermediate:,})"),
        ("heads", heads),
        ("vocabulary", f"{what.vocab_rows:,} rows{', tied' if what.tied else ''}"),
        ("context", f"{what.context:,} tokens"),
    ]


def _memory_rows(what: Card | Known) -> list[tuple[str, str]]:
    from qwen_tui import hub

    formats = (("bf16", "none"), ("int8", "int8"), ("4-bit", "nf4"))
    sizes = [
        f"{label} {hub.needs(what, 'bf16', quant).total(2048) / 2**30:.1f}"
        for label, quant in formats
    ]
    per_token = hub.needs(what).kv_per_token
    return [
        ("memory", " · ".join(sizes) + " GiB with 2,048 tokens"),
        ("KV cache", f"{per_token:,} bytes a token in bf16"),
    ]


def _card_rows(snapshot: Snapshot, card: Card) -> list[tuple[str, str]]:
    from qwen_tui import hub

    return [
        ("model", snapshot.name),
        *([("not to be run", "; ".join(snapshot.problems))] if snapshot.problems else []),
        ("kind", card.kind),
        ("folder", str(snapshot.path)),
        ("commit", snapshot.commit or "(unknown)"),
        ("architecture", ", ".join(card.architectures) or card.model_type or "(unstated)"),
        *_shape_rows(card),
        ("weights", f"{hub.size_text(card.bytes)} in {card.dtype or 'no known dtype'}"),
        *([("quantised", card.quantised)] if card.quantised else []),
        *([("sliding window", f"{card.window:,} tokens")] if card.window else []),
        *([("rope scaling", card.rope)] if card.rope else []),
        *_memory_rows(card),
        ("chat template", card.template or "none"),
        ("infill", "its tokenizer has the fill-in-the-middle tokens" if card.infill else "no"),
        ("licence", card.licence or "(unstated)"),
    ]


def _known_rows(known: Known) -> list[tuple[str, str]]:
    from qwen_tui import hub

    return [
        ("model", known.name),
        ("kind", known.kind),
        ("state", "not on this disk"),
        ("fetch it", f"qwen-tui models pull {known.name}"),
        ("download", hub.size_text(known.download_bytes)),
        *_shape_rows(known),
        *_memory_rows(known),
        ("licence", known.licence),
    ]


def _card_json(card: Card) -> dict[str, Any]:
    from dataclasses import asdict

    about = asdict(card)
    del about["path"]
    return about | {"kind": _kind(card), "architectures": list(card.architectures)}


# -- pull and rm -----------------------------------------------------------------------------------


def pull(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a hub id, or ID@REVISION")],
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="only errors on stderr")] = False,
) -> None:
    """Download a model from the hub into its ordinary cache, or finish a download that broke off.

    Only safetensors, configuration, tokenizer and licence are fetched, pinned to a commit and
    checked against the hub's hashes. HF_TOKEN, HF_ENDPOINT, HF_HOME and proxies are honoured.
    Prints the folder.
    """
    from qwen_tui import hub

    with Reporter(quiet=quiet) as reporter:
        reporter.say(f"{model}: asking the hub")
        try:
            snapshot = hub.pull(model, reporter.report, threading.Event())
        except KeyboardInterrupt:
            reporter.say(f"stopped; what was fetched stays: qwen-tui models pull {model} goes on")
            raise
        card = hub.card(snapshot.path, snapshot.name)
        size = hub.size_text(snapshot.bytes)
        reporter.say(
            f"{snapshot.name} · {size} · commit {snapshot.commit[:12]} · licence {card.licence}"
        )
    print(snapshot.path)


def remove(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", show_default=False, help="a hub id")
    ] = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="do not ask")] = False,
    packed: Annotated[
        bool,
        typer.Option(
            "--packed", help="only packed weights, of MODEL or of all; loading makes them again"
        ),
    ] = False,
    kept: Annotated[
        bool,
        typer.Option("--kept", help="only what was kept of long texts, with MODEL or with all"),
    ] = False,
) -> None:
    """Delete a model, every revision of it, from the hub's cache or our models folder.

    Its packed weights (quantised once, in our cache) go too, and what was kept of texts.
    """
    from qwen_tui import hub
    from qwen_tui.cli import cache_files

    if kept:
        _remove_kept(model, yes=yes)
        return
    if model is None and not packed:
        raise Trouble("models rm needs a MODEL", hint="qwen-tui models list", code=USAGE)
    name = (model or "").partition("@")[0]
    if packed:
        _remove_packed(name, yes=yes)
        return
    files = cache_files.of_model(name, cache_files.packed_weights())
    if not yes and name != hub.DEMO and hub.is_hub_id(name):
        snapshot = hub.locate(name)
        if snapshot is None:
            raise Trouble(
                f"{name} is not on this disk", hint="see: qwen-tui models list", code=NO_INPUT
            )
        _confirm(f"delete {name} ({hub.size_text(snapshot.bytes)} in {snapshot.path})?")
        if files and not _agreed(f"and its packed weights ({cache_files.packed_text(files)})?"):
            files = ()
    blocks = cache_files.of_model(name, cache_files.kv_blocks())
    freed = hub.remove(name) + cache_files.delete_packed(files) + cache_files.delete_kept(blocks)
    Reporter().say(f"{name} is gone; {hub.size_text(freed)} freed")


def _remove_packed(name: str, *, yes: bool) -> None:
    from qwen_tui import hub
    from qwen_tui.cli import cache_files

    files = cache_files.packed_weights()
    if name:
        files = cache_files.of_model(name, files)
    whose = f" of {name}" if name else ""
    if not files:
        raise Trouble(f"there are no packed weights{whose}", code=NO_INPUT)
    if not yes:
        _confirm(f"delete the packed weights{whose} ({cache_files.packed_text(files)})?")
    freed = cache_files.delete_packed(files)
    Reporter().say(f"packed weights: {hub.size_text(freed)} freed")


def _remove_kept(model: str | None, *, yes: bool) -> None:
    from qwen_tui import hub
    from qwen_tui.cli import cache_files

    blocks = cache_files.kv_blocks()
    if model:
        blocks = cache_files.of_model(model, blocks)
    if not blocks:
        whose = f" with {model}" if model else ""
        raise Trouble(f"nothing is kept of texts{whose}", code=NO_INPUT)
    if not yes:
        _confirm(f"delete what is {cache_files.kept_text(blocks)}?")
    Reporter().say(f"{hub.size_text(cache_files.delete_kept(blocks))} freed")


def _confirm(question: str) -> None:
    """Ask on the terminal; a no ends the command."""

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Trouble(
            "models rm asks before it deletes, and there is no terminal to ask on",
            hint="add --yes",
            code=USAGE,
        )
    typer.confirm(one_line(question), abort=True, err=True)


def _agreed(question: str) -> bool:
    """Ask whether to delete related files too; yes by default."""

    return typer.confirm(one_line(question), default=True, err=True)
