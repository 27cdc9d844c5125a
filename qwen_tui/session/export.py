"""Exports a session's document: plain text, Markdown, JSON, HTML coloured by probability.

Law: plain text is exact; in every other format text cannot become markup.
"""

from __future__ import annotations

import html
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, Final

from qwen_tui.journal import line
from qwen_tui.safe_text import visible
from qwen_tui.session.generations import GenerationState
from qwen_tui.session.session import Session
from qwen_tui.session.tree import Layout, Node, PathPart
from qwen_tui.types import USAGE, Token, Trouble, joined, text_of

HEAT_FLOORS: Final = (0.9, 0.7, 0.5, 0.25, 0.1, 0.03, 0.005)
"""The lowest probability of each colour class but the last."""
_EDGES = tuple(-math.log(floor) for floor in HEAT_FLOORS)
_ALTERNATIVES = 5
_MARKUP = re.compile(r"[\\`*_\[\]<>#|~&@]|:(?=//)|(?<=www)\.", re.IGNORECASE)
"""The beginnings of markup, links and entities within a line of Markdown."""


def text(session: Session) -> bytes:
    """The document, byte for byte, without folded tokens; for a chat every turn under its role."""
    turns = session.turns()
    if len(turns) < 2 or not any(role for role, _ in turns):
        return b"".join(joined(part.tokens) for part in session.parts() if not part.node.folded)
    blocks = (f"{role.capitalize() or 'Text'}:\n{said.strip()}\n" for role, said in turns)
    return "\n".join(blocks).encode()


def markdown(session: Session) -> str:
    """Title, document and a table of the generations in it. The document is fenced by more
    backticks than it has in a row.
    """
    out = [f"# {_inline(session.title or 'Untitled')}", ""]
    for role, said in session.turns():
        if role:
            out += [f"## {_inline(role)}", ""]
        out += [_fenced(said), ""]
    runs = _runs(session)
    if runs:
        out += [
            "| model | seed | temperature | tokens | ended |",
            "|---|---|---|---|---|",
            *(_row(session, run, part) for run, part in runs),
            "",
        ]
    return "\n".join(out)


def _inline(words: str) -> str:
    """One line of untrusted text, escaped for Markdown or a table cell."""
    flat = " ".join(visible(words).split())
    return _MARKUP.sub(r"\\\g<0>", flat)


def _fenced(body: str) -> str:
    longest = max((len(run) for run in re.findall(r"`{3,}", body)), default=2)
    fence = "`" * (longest + 1)
    end = "" if body.endswith("\n") else "\n"
    return f"{fence}text\n{visible(body)}{end}{fence}"


def _runs(session: Session) -> list[tuple[GenerationState, PathPart]]:
    """The generations whose tokens are in the document, in order."""
    found = [(session.generation_of(part.node.id), part) for part in session.parts()]
    return [(run, part) for run, part in found if run is not None]


def _row(session: Session, run: GenerationState, part: PathPart) -> str:
    values = (
        _model(session, run),
        "" if run.seed is None else str(run.seed),
        str(run.params.get("temperature", "")),
        str(part.stop - part.start),
        part.node.reason or "interrupted",
    )
    return "| " + " | ".join(_inline(value) for value in values) + " |"


def _model(session: Session, run: GenerationState) -> str:
    env = session.environments.get(run.started.environment)
    if env is None:
        return ""
    name = env.model_name or env.engine
    return PurePath(name).name if name == env.model.get("path") else name


def as_json(session: Session) -> bytes:
    """One JSON object: the text, its parts with every token, all nodes (every branch, the hidden
    ones too) and all generations.
    """
    return line(
        {
            "format": "qwen-tui.export",
            "v": 1,
            "id": session.id,
            "title": session.title,
            "tags": list(session.tags),
            "text": session.text,
            "parts": [_part(part) for part in session.parts()],
            "head": {"node": session.head.node, "at": session.head.at},
            "nodes": [_node(node) for node in session.tree.nodes.values()],
            "generations": [_generation(session, each) for each in session.generations.values()],
        }
    )


def _part(part: PathPart) -> dict[str, Any]:
    return {
        "node": part.node.id,
        "source": part.node.source,
        "role": part.node.role,
        "generation": part.node.generation,
        "text": text_of(part.tokens),
        "tokens": [_token(token) for token in part.tokens],
    }


def _node(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "parent": node.parent,
        "at": node.at,
        "source": node.source,
        "role": node.role,
        "generation": node.generation,
        "branch": node.branch,
        "reason": node.reason,
        "hidden": node.hidden,
        "marked": node.marked,
        "label": node.label,
        "text": text_of(node.tokens),
        "tokens": [_token(token) for token in node.tokens],
    }


def _token(token: Token) -> dict[str, Any]:
    spelled = token.data.decode("utf-8", "replace")
    out: dict[str, Any] = {"id": token.id, "text": spelled}
    if spelled.encode() != token.data:
        out["hex"] = token.data.hex()
    if token.logprob is not None:
        out["logprob"] = token.logprob
    if token.stale:
        out["stale"] = True
    if token.choices:
        out["top"] = [
            {"id": c.id, "text": c.data.decode("utf-8", "replace"), "logprob": c.logprob}
            for c in token.choices
        ]
    return out


def _generation(session: Session, run: GenerationState) -> dict[str, Any]:
    env = session.environments.get(run.started.environment)
    return {
        "id": run.id,
        "mode": run.started.mode,
        "params": dict(run.params),
        "environment": None
        if env is None
        else {
            "engine": env.engine,
            "model": dict(env.model),
            "dtype": env.dtype,
            "quant": env.quant,
        },
        "reasons": [branch.finished.reason if branch.finished else None for branch in run.branches],
    }


_STYLE = """
:root{color-scheme:light dark}
body{max-width:46rem;margin:2rem auto;padding:0 1rem;font:16px/1.55 ui-monospace,monospace}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:inherit}
h2{font-size:1rem;opacity:.7;margin:1.5rem 0 .3rem}
.m{border-bottom:1px solid #8888}
.h0{background:#1a985018}.h1{background:#66bd6330}.h2{background:#a6d96a40}.h3{background:#fee08b60}
.h4{background:#fdae6180}.h5{background:#f46d4390}.h6{background:#d73027a0}.h7{background:#a50026b0}
footer{opacity:.7;font-size:.8rem;margin-top:2rem}
""".strip()


def as_html(session: Session) -> str:
    """A self-contained page: tokens coloured by probability, alternatives on hover."""
    title = html.escape(visible(session.title or "Untitled"))
    body: list[str] = []
    role = ""
    opened = False
    for part in session.parts():
        if part.node.folded:
            opened = False
            continue
        if not opened or (part.node.role or "") != role:
            role, opened = part.node.role or "", True
            body.append("</pre>" if body else "")
            body.append(f"<h2>{html.escape(visible(role))}</h2>" if role else "")
            body.append("<pre>")
        body.append(_spans(part))
    body.append("</pre>" if body else "")
    legend = " ".join(
        f'<span class="h{level}">{label}</span>'
        for level, label in enumerate([*(f"≥{floor:.1%}" for floor in HEAT_FLOORS), "rarer"])
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"{''.join(body)}<footer>{legend}</footer></body></html>\n"
    )


def _spans(part: PathPart) -> str:
    layout = Layout(part.tokens)
    words = layout.text
    written = part.node.source != "model"
    out: list[str] = []
    for index, token in enumerate(part.tokens):
        start, stop = layout.span(index)
        shown = html.escape(visible(words[start:stop]))
        if not shown:
            continue
        if token.logprob is None and written:
            out.append(shown)
            continue
        level = "" if token.logprob is None else f" h{heat(token.logprob)}"
        kind = "p" if written else "m"
        out.append(f'<span class="{kind}{level}" title="{_hover(token)}">{shown}</span>')
    return "".join(out)


def heat(logprob: float) -> int:
    """The colour class 0 (certain) … 7 (surprising) of a natural log-probability."""
    return bisect_right(_EDGES, -logprob - 1e-12)


def _hover(token: Token) -> str:
    if token.logprob is None:
        return ""
    rows = [f"{math.exp(token.logprob):.2%}"]
    for choice in token.choices[:_ALTERNATIVES]:
        spelled = choice.data.decode("utf-8", "replace") or f"#{choice.id}"
        rows.append(f"{math.exp(choice.logprob):.2%} {visible(spelled)!r}")
    return html.escape(" · ".join(rows), quote=True)


FORMATS: Final[Mapping[str, Callable[[Session], bytes]]] = {
    "txt": text,
    "md": lambda session: markdown(session).encode(),
    "json": as_json,
    "html": lambda session: as_html(session).encode(),
}


def export(session: Session, form: str) -> bytes:
    """The document of the session's head in one of `FORMATS`. Raises Trouble for another."""
    if form not in FORMATS:
        raise Trouble(f"no format {form!r}", hint=f"one of {', '.join(FORMATS)}", code=USAGE)
    return FORMATS[form](session)
