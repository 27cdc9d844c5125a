"""Make the README's picture from a real run: the studio on a real model, nothing posed.

Law: what is in the picture is what the program painted; the seed makes it the same again.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from qwen_tui import settings
from qwen_tui.cli import wiring
from qwen_tui.engine.runner import Runner
from qwen_tui.session.opening import OpenSession
from qwen_tui.session.session import Session
from qwen_tui.tui.app import QwenTui
from qwen_tui.tui.context import StudioContext

ROOT = Path(__file__).resolve().parent.parent
TEXT = """\
class Inventory:
    \"\"\"Keep track of items and how many there are of each.

    add(name, count) adds items, remove(name, count) takes them away; it raises
    """
PATIENCE_S = 600


def context_of(model: str, text: str, seed: int, tokens: int, theme: str) -> StudioContext:
    """The studio's context to a real model, saving nothing."""
    flags = {"model": model, "seed": seed, "max_tokens": tokens, "save": False, "theme": theme}
    chosen = settings.load(flags)
    return StudioContext(
        settings=chosen,
        runner=Runner(wiring.opener(chosen)),
        opener=wiring.opener,
        vocab=wiring.vocabulary,
        open_session=lambda path: wiring.session_for(chosen, path),
        opened=OpenSession(Session.new()),
        text=text,
    )


async def shoot(context: StudioContext, width: int, height: int, token: int | None) -> str:
    """Let the model go on, look at a token, and give the screen as SVG."""
    app = QwenTui(context)
    async with app.run_test(size=(width, height)) as pilot:
        studio = app.studio
        for _ in range(PATIENCE_S * 20):
            if studio.workspace.model is not None or studio.status_line.notice.shown:
                break
            await pilot.pause(0.05)
        if studio.workspace.model is None:
            sys.exit(studio.status_line.notice.message or "the model did not open")
        await pilot.press("ctrl+j")
        while studio.workspace.completer.running:
            await pilot.pause(0.05)
        shown = studio.panes.completion.tokens
        doubts = [(each.logprob or 0.0, place) for place, each in enumerate(shown[:-1])]
        studio.panes.completion.output.cursor = min(doubts)[1] if token is None else token
        studio.panes.go_to("alternatives")
        await pilot.pause(0.2)
        svg = app.export_screenshot(title="qwen-tui")
    context.runner.close()
    # renderers other than browsers would drop the spaces at the ends of coloured tokens
    return svg.replace("<text ", '<text xml:space="preserve" ')


def write(svg: str, place: Path) -> None:
    """SVG as it is, PNG through rsvg-convert."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix == ".svg":
        place.write_text(svg, encoding="utf-8")
        return
    program = shutil.which("rsvg-convert")
    if program is None:
        sys.exit("rsvg-convert is needed for a PNG; --out with .svg needs nothing")
    with tempfile.NamedTemporaryFile("w", suffix=".svg", encoding="utf-8") as file:
        file.write(svg)
        file.flush()
        subprocess.run([program, "--zoom", "1.2", "-o", str(place), file.name], check=True)


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=170)
    parser.add_argument("--token", type=int, help="look at this token, not at the least sure one")
    parser.add_argument("--theme", default="ember")
    parser.add_argument("--size", default="120x34", help="columns x rows")
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "studio.png")
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    context = context_of(given.model, given.text, given.seed, given.tokens, given.theme)
    write(asyncio.run(shoot(context, width, height, given.token)), given.out)
    print(given.out)


if __name__ == "__main__":
    main()
