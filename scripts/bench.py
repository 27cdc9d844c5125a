"""Measure qwen-tui against its peers on one checkpoint, paired in one process; prints Markdown.

The measuring code is `qwen_tui.backends.local.benchmark.run`; here are the peers, the quality gate
and streaming. Peers are loaded first, in their own way, then qwen-tui; all stay loaded, and every
round runs each kind of block once on each contender, in turning order. A ratio is formed within a
round.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

BLOCKS: Final = {"greedy": "greedy", "sampled": "sampled", "raw": "unbounded"}
"""How decoding is sampled, and how the tables call it."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a checkpoint's folder")
    parser.add_argument("--quant", default="none", choices=("none", "int8", "int4", "nf4"))
    parser.add_argument("--dtype", default="auto", choices=("auto", "bf16", "fp16", "fp32"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-n", "--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=1024, help="tokens of our own long prompt")
    parser.add_argument("--passage", type=int, default=200, help="tokens that are written anew")
    parser.add_argument("--prefill", type=int, default=512, help="tokens the peers prefill")
    parser.add_argument("--gguf", type=Path, nargs="*", default=[], help="for llama.cpp")
    parser.add_argument("--plain", action="store_true", help="unquantised transformers as well")
    parser.add_argument(
        "--no-transformers", action="store_true", help="where it would take hours, or the memory"
    )
    parser.add_argument("--kinds", nargs="+", default=list(BLOCKS), choices=BLOCKS)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--no-streaming", action="store_true")
    parser.add_argument("--gate", type=int, default=0, metavar="N", help="gate over N positions")
    parser.add_argument("--gate-text", type=Path, help="a text to gate with instead of random ids")
    parser.add_argument("--gate-only", action="store_true")
    parser.add_argument("--json", type=Path, help="write everything here")
    return parser.parse_args()


@dataclass
class Pairs:
    """Values of every contender by block, one a round."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def keep(self, block: str, name: str, value: float) -> None:
        """One more round's value."""
        self.values.setdefault(block, {}).setdefault(name, []).append(value)

    def median(self, block: str, name: str) -> str:
        """Median, with the lowest and the highest."""
        found = sorted(self.values[block][name])
        return f"{middle(found):.2f} ({found[0]:.2f}–{found[-1]:.2f})"

    def ratio(self, block: str, ours: str, other: str) -> float:
        """The median of ours/other within each round."""
        pairs = zip(self.values[block][ours], self.values[block][other], strict=True)
        return middle([one / two for one, two in pairs])


def middle(values: Sequence[float]) -> float:
    """The median."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def say(line: str) -> None:
    """Narration on stderr."""
    print(line, file=sys.stderr, flush=True)


def turned(items: Sequence[Any], by: int) -> list[Any]:
    """The same items in turned order."""
    turn = by % len(items)
    return [*items[turn:], *items[:turn]]


# -- streaming through the interface's path --------------------------------------------------------


def streaming(chosen: argparse.Namespace) -> dict[str, list[float]]:
    """Tokens per second through the interface's path and bare, from a process of its own."""
    names = ("quant", "dtype", "device", "threads", "rounds", "tokens")
    options = [word for name in names for word in (f"--{name}", str(getattr(chosen, name)))]
    script = Path(__file__).with_name("bench_streaming.py")
    done = subprocess.run(
        [sys.executable, str(script), str(chosen.model.absolute()), *options],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- the run ---------------------------------------------------------------------------------------


def run(chosen: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Load every contender, run the rounds; all that was found."""
    import bench_peers
    import torch

    from qwen_tui import hub, settings
    from qwen_tui.backends.local.benchmark import bandwidth, figures, workloads
    from qwen_tui.backends.local.benchmark import run as bench
    from qwen_tui.vocab import Vocab

    flags = {name: getattr(chosen, name) for name in ("quant", "dtype", "device", "threads")}
    wanted = settings.load({"model": str(chosen.model), **flags}, env=os.environ, cwd=home)
    protocol = figures.BenchProtocol(chosen.rounds, chosen.tokens, chosen.prompt, chosen.passage)
    vocab = Vocab.load(chosen.model)
    card = hub.card(chosen.model)
    threads = chosen.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    device = chosen.device
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    load = bandwidth.load()
    contenders: list[Any] = []
    if not chosen.no_peers:
        made = bench_peers.peers(
            chosen.model, dtype=chosen.dtype.replace("auto", "bf16"), quant=chosen.quant,
            device=device, threads=threads,
            context=max(chosen.prefill, 256) + 2 * chosen.tokens, gguf=chosen.gguf,
            plain=chosen.plain, transformers=not chosen.no_transformers,
        )  # fmt: skip
        for peer in made:
            say(f"{peer.name}: loaded in {peer.load_s:.1f} s, ready in {peer.ready_s:.1f} s")
            contenders.append(peer)
    mark = bandwidth.PeakMemory()
    held = mark.look()
    loads = []
    report = lambda progress: None  # noqa: E731
    for _ in range(2):
        backend, found = bench.loaded(wanted, vocab.rows_known, report, threading.Event(), mark)
        say(f"qwen-tui: loaded in {found.seconds:.1f} s{', quantising' * found.quantised}")
        loads.append(found)
        if len(loads) < 2:
            backend.close()
            del backend
            gc.collect()
    own = mark.look() - held
    subject = workloads.Subject(backend, protocol, vocab.rows_known)
    last = loads[-1]
    ours = bench_peers.Ours(subject, last.seconds, last.seconds + last.first_token_s, own)
    pairs = Pairs()
    rounds = bench.Rounds(subject, mark, say)
    rounds.warm_up()
    for peer in contenders:
        for kind in chosen.kinds:
            peer.decode(kind, subject.ids(workloads.LEAD, 1), workloads.WARM_UP, 1)
    everyone = [*contenders, ours]
    for number in range(chosen.rounds):
        say(f"round {number + 1} of {chosen.rounds}")
        rounds.round(number)
        if contenders:
            paired(everyone, subject, pairs, number, chosen)
    per_token = workloads.kv_per_token(backend, card)
    result = rounds.figures(per_token) | bench.load_figures(loads) | rounds.memory(per_token)
    packages = ("torch", "transformers", "bitsandbytes", "llama-cpp-python")
    about = {
        "model": card.name,
        "quant": backend.environment.quant,
        "dtype": backend.environment.dtype,
        "device": backend.environment.device,
        "why": list(backend.why),
        "machine": bandwidth.host(load, packages).record(),
        "caption": bandwidth.host(load, packages).line(),
        "protocol": asdict(protocol) | {"prefill": chosen.prefill},
        "contenders": [
            {
                "name": each.name, "load_s": each.load_s, "ready_s": each.ready_s,
                "own_bytes": each.own_bytes,
            }
            for each in everyone
        ],
        "figures": {name: figure.record() for name, figure in result.items()},
        "rows": list(
            figures.Result({}, bandwidth.host(load), protocol, (), result).rows()
        ),
        "pairs": pairs.values,
    }  # fmt: skip
    for each in everyone:
        each.close()
    return about


def paired(
    everyone: Sequence[Any], subject: Any, pairs: Pairs, number: int, chosen: argparse.Namespace
) -> None:
    """One round of every block on every contender, in turning order."""

    from qwen_tui.backends.local.benchmark import workloads

    for block in turned((*chosen.kinds, "prefill"), number):
        for each in turned(everyone, number):
            if block == "prefill":
                ids = subject.ids(chosen.prefill, 700 + number)
                pairs.keep(block, each.name, chosen.prefill / each.first(ids))
            else:
                ids = subject.ids(workloads.LEAD, 500 + number)
                rate = each.decode(block, ids, chosen.tokens + 1, 500 + number)
                pairs.keep(block, each.name, rate)


def gate(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """The quality gate's rows: over a text, or over ids drawn from the whole vocabulary."""
    import random

    from qwen_tui.backends.local.benchmark import quality
    from qwen_tui.vocab import Vocab

    vocab = Vocab.load(chosen.model)
    count = chosen.gate or quality.POSITIONS
    if chosen.gate_text is not None:
        text = chosen.gate_text.read_text("utf-8")
        ids = [token.id for token in vocab.encode(text)[:count]]
    else:
        dice = random.Random(0)
        ids = [dice.randrange(vocab.rows_known) for _ in range(count)]
    found = quality.distances(chosen.model, ids, vocab.rows_known, lambda progress: None)
    return [{"row": each.row(), **each.record()} for each in found]


# -- what is printed -------------------------------------------------------------------------------


def markdown(found: dict[str, Any]) -> Iterator[str]:
    """Every table."""
    if "figures" in found:
        how = [found["device"], found["dtype"], found["quant"]]
        yield f"### {found['model']} · {' · '.join(word for word in how if word != 'none')}"
        yield ""
        load = found["machine"]["load"]
        protocol = found["protocol"]
        yield f"{found['caption']} · system load before: {load:.1f}"
        yield ""
        yield (
            f"{protocol['rounds']} rounds, blocks of {protocol['tokens']} tokens, all contenders "
            "loaded in one process, order turning; median (lowest–highest)."
        )
        yield ""
        if found["pairs"].get("prefill"):
            yield from peer_tables(found)
        yield "| qwen-tui | median | lowest – highest | |"
        yield "|---|---:|---:|---|"
        for row in found["rows"]:
            yield f"| {' | '.join(row)} |"
        yield from streaming_rows(found)
    if "gate" in found:
        yield ""
        from qwen_tui.backends.local.benchmark.quality import HEADER

        yield f"| {' | '.join(HEADER)} |"
        yield "|---|" + "---:|" * (len(HEADER) - 1)
        for row in found["gate"]:
            yield f"| {' | '.join(row['row'])} |"


def peer_tables(found: dict[str, Any]) -> Iterator[str]:
    """Every contender's speeds, then ours as multiples of theirs."""
    pairs = Pairs(found["pairs"])
    blocks = [*(block for block in BLOCKS if block in pairs.values), "prefill"]
    names = [BLOCKS.get(block, block) for block in blocks]
    units = [f"{name} tok/s" for name in names[:-1]]
    units.append(f"prefill of {found['protocol']['prefill']} tok/s")
    yield f"| | {' | '.join(units)} | load s | to first token s | own GiB |"
    yield "|---|" + "---:|" * (len(blocks) + 3)
    for each in found["contenders"]:
        cells = [pairs.median(block, each["name"]) for block in blocks]
        cells += [f"{each['load_s']:.1f}", f"{each['ready_s']:.1f}"]
        cells.append(f"{each['own_bytes'] / 2**30:.2f}")
        yield f"| {each['name']} | {' | '.join(cells)} |"
    yield ""
    yield f"| qwen-tui against | {' | '.join(names)} | load | to first token |"
    yield "|---|" + "---:|" * (len(blocks) + 2)
    *others, ours = found["contenders"]
    for each in others:
        cells = [f"{pairs.ratio(block, ours['name'], each['name']):.2f}×" for block in blocks]
        cells += [f"{each[name] / ours[name]:.1f}×" for name in ("load_s", "ready_s")]
        yield f"| {each['name']} | {' | '.join(cells)} |"
    yield ""


def streaming_rows(found: dict[str, Any]) -> Iterator[str]:
    """The interface's path against the bare loop."""
    pairs = Pairs(found["pairs"])
    if "streaming" not in pairs.values:
        return
    through, bare = "through channel and pump", "bare loop"
    share = 100 * pairs.ratio("streaming", through, bare)
    yield (
        f"| streaming | {pairs.median('streaming', through)} tok/s | | {share:.1f} % of the bare "
        f"loop's {pairs.median('streaming', bare)} |"
    )


def main() -> None:
    """Command line."""
    chosen = arguments()
    found: dict[str, Any] = {}
    if not chosen.gate_only:
        with tempfile.TemporaryDirectory(prefix="qwen-tui-bench-") as home:
            os.environ["QWEN_TUI_HOME"] = home
            found = run(chosen, Path(home))
            if not chosen.no_streaming:
                found["pairs"]["streaming"] = streaming(chosen)
    if chosen.gate or chosen.gate_only:
        from qwen_tui.types import Trouble

        try:
            found["gate"] = gate(chosen)
        except Trouble as trouble:
            say(f"no gate: {trouble.message}")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1), "utf-8")
    print("\n".join(markdown(found)))


if __name__ == "__main__":
    main()
