"""`qwen-tui sessions`: list, show, search, export, rename, remove, purge and verify session files.

Law: only `rename` writes into a file, only `purge` deletes, after asking; a file's contents are
untrusted and are made safe to show.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qwen_tui.cli.command_group import Group, SubjectCommand
from qwen_tui.cli.options import Raw, SessionName
from qwen_tui.cli.stderr import one_line
from qwen_tui.types import BAD_DATA, DONE, GENERIC, USAGE, Trouble

if TYPE_CHECKING:
    from qwen_tui.session.session import Session

ID_SHOWN: Final = 10
"""Characters of an id that are shown: they differ for sessions begun in different seconds."""

AsJson = Annotated[bool, typer.Option("--json", help="one JSON line each")]


def register(app: typer.Typer) -> None:
    """Add `sessions` and its commands."""
    group = typer.Typer(cls=Group, rich_markup_mode=None, no_args_is_help=True)
    group.command("list", cls=SubjectCommand)(list_sessions)
    group.command("show", cls=SubjectCommand)(show)
    group.command("search", cls=SubjectCommand)(search)
    group.command("export", cls=SubjectCommand)(export)
    group.command("rename", cls=SubjectCommand)(rename)
    group.command("rm", cls=SubjectCommand)(remove)
    group.command("purge", cls=SubjectCommand)(purge)
    group.command("verify", cls=SubjectCommand)(verify)
    app.add_typer(group, name="sessions", help="List, show, search, export, rename, remove.")


def list_sessions(as_json: AsJson = False) -> None:
    """List the sessions, last used first."""
    from qwen_tui.cli.tables import safe_json
    from qwen_tui.cli.tables import show as show_table
    from qwen_tui.session import library

    found = library.list_sessions()
    if as_json:
        for each in found:
            print(
                safe_json(
                    {
                        "id": each.id,
                        "title": each.title,
                        "tags": each.tags,
                        "created": each.created,
                        "modified": each.modified,
                        "bytes": each.size,
                        "path": str(each.path),
                        "model": each.model,
                        "preview": each.preview,
                    }
                )
            )
        return
    if not found:
        print("there are no sessions yet", file=sys.stderr)
        return
    rows = [
        (
            each.id[:ID_SHOWN],
            _when(each.modified),
            _size(each.size),
            _named(each.title, each.preview),
        )
        for each in found
    ]
    show_table(rows, header=("id", "last used", "size", "title"), right=(2,))


def _as_left(name: str) -> Session:
    """The stored session with what stood on the screen as its document: typing that waits in a
    draft, or else the completion.
    """
    from qwen_tui.cli.arguments import stored_session
    from qwen_tui.session import drafts

    session = stored_session(name)
    typed = drafts.restore(session.id, session.head, session.text)
    if typed is not None:
        session.commit(typed[0])
    session.accept()
    return session


def show(
    name: SessionName,
    raw: Raw = False,
) -> None:
    """Print a session's text: the document and the completion that is shown with it."""
    from qwen_tui.cli.stdout import BranchPrinter, opened
    from qwen_tui.session.export import text

    session = _as_left(name)
    with opened(None, raw=raw) as output:
        printer = BranchPrinter(output)
        printer.feed(0, text(session))
        printer.finish()


def rename(name: SessionName, title: Annotated[str, typer.Argument(metavar="TITLE")]) -> None:
    """Give a session a title; its file keeps its name."""
    from qwen_tui.session import library

    library.rename(library.resolve(name), title)


def remove(name: SessionName) -> None:
    """Move a session to the trash."""
    from qwen_tui.session import library

    place = library.trash(library.resolve(name))
    print(one_line(f"moved to {place}"), file=sys.stderr)


def purge(
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Delete what is in the trash for good, and what was kept to resume long texts; asks first.

    The kept blocks contain tokens of texts, of all sessions and prompts; they are recomputed when
    needed.
    """
    from qwen_tui import hub
    from qwen_tui.cli import cache_files
    from qwen_tui.session import library

    found, blocks = library.trashed(), cache_files.kv_blocks()
    if not found and not blocks:
        print("the trash is empty", file=sys.stderr)
        return
    size = f" and {hub.size_text(cache_files.total(blocks))} kept of texts" if blocks else ""
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise Trouble("purge asks, and nobody is there", hint="--yes answers", code=USAGE)
        question = f"delete {len(found)} sessions{size} for good? [y/N] "
        print(question, end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was deleted", file=sys.stderr)
            return
    cache_files.delete_kept(blocks)
    count = library.purge(found)
    print(f"{count} sessions{size} are gone", file=sys.stderr)


def verify(name: SessionName) -> None:
    """Read every line of a session file and list what is damaged; exit 65 if anything is."""
    from qwen_tui.session import library

    path = library.resolve(name)
    report = library.verify(path)
    for damage in report.damages:
        where = f"line {damage.line}: " if damage.line else ""
        print(one_line(f"{where}{damage.kind}: {damage.text}"))
    print(
        one_line(f"{path}: {report.records:,} records in {report.lines:,} lines"), file=sys.stderr
    )
    raise typer.Exit(DONE if report.sound else BAD_DATA)


def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="what to look for, in any letters")],
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="most places shown")] = 100,
) -> None:
    """Find TEXT in all sessions, every branch and title; exit 1 where it stands nowhere."""
    from qwen_tui.cli.tables import show as show_table
    from qwen_tui.session.identity import id_of
    from qwen_tui.session.search import search as search_sessions

    hits = search_sessions(text, limit=limit)
    rows = [
        (
            id_of(hit.path)[:ID_SHOWN],
            hit.title,
            " ".join(f"{hit.before}[{hit.match}]{hit.after}".split()),
        )
        for hit in hits
    ]
    show_table(rows)
    raise typer.Exit(DONE if hits else GENERIC)


def export(
    name: SessionName,
    form: Annotated[
        str | None,
        typer.Option("--as", metavar="FORM", help="txt, md, html or json; else as FILE ends"),
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="else standard output")
    ] = None,
) -> None:
    """Write a session's text: plain, Markdown, a page with the probabilities, or JSON with all."""
    from pathlib import Path

    from qwen_tui.cli.stdout import BranchPrinter, opened
    from qwen_tui.session import export as exporting

    form = form or (Path(output).suffix.lstrip(".") if output else "") or "txt"
    session = _as_left(name)
    data = exporting.export(session, form)
    with opened(output) as place:
        printer = BranchPrinter(place)
        printer.feed(0, data)
        printer.finish()


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _size(count: int) -> str:
    return f"{count / 1024:,.0f} KiB" if count < 1 << 20 else f"{count / (1 << 20):,.1f} MiB"


def _named(title: str, preview: str) -> str:
    return title or f"({' '.join(preview.split())[:50]})"
