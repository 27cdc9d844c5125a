"""Make the demo model: a small Qwen2 checkpoint trained on text that ships with CPython.

The run is seeded, resumes from its own checkpoints, and ends by measuring the saved files
against ``xz -9e`` on documents that were held out, then writing the model card.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import inspect
import json
import lzma
import math
import platform
import pydoc_data.topics
import sys
import sysconfig
import time
import types
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
)

END_OF_TEXT = "<|endoftext|>"
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VOCABULARY = 4096
END_ID = VOCABULARY - 1
CONTEXT = 1024
WINDOW_STRIDE = 512

# Rows of CONTEXT tokens that each kind of text contributes to one training step.  Prose about
# Python is a tenth of the bytes; a quarter of the tokens keeps its voice in the completions.
ROWS_PER_STEP = {"docs": 4, "library": 7, "tests": 5}
MICRO_ROWS = 8

# A prompt often ends in a space, but BPE keeps a space with the word after it.  Cutting a few
# such pairs apart teaches the model to go on from there.
LOOSE_SHARE = 0.03

WARMUP_STEPS = 100
MUON_RATE = 0.02
ADAM_RATE = 3e-3
CHECKPOINT_SECONDS = 240.0

# Generated tables and machine-specific files: bytes of source, but nothing to learn to read.
SKIPPED_PREFIXES = (
    "site-packages/",
    "dist-packages/",
    "encodings/",
    "config-",
    "_sysconfigdata",
    "lib-dynload/",
    "pydoc_data/",
    "html/entities.py",
    "stringprep.py",
    "re/_casefix.py",
)

PROMPTS = (
    "def ",
    "import os\n",
    "The :class:`dict` ",
    'class Stack:\n    """',
    "Return a new ",
    'The "for" statement is used to ',
    "def read_lines(path):\n    ",
)


# --- Corpus -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Document:
    """One text, the path that decides its fate, and the stream that it trains."""

    path: str
    kind: str
    text: str


@dataclass
class Corpus:
    """Training documents and the measured, held-out ones."""

    training: list[Document] = field(default_factory=list)
    held_out: list[Document] = field(default_factory=list)


def is_held_out(path: str) -> bool:
    """Tell whether a path's stable hash puts its document among the held-out twentieth."""
    digest = hashlib.sha256(path.encode("utf-8")).digest()
    return int.from_bytes(digest, "big") % 20 == 0


def reads_as_text(text: str) -> bool:
    """Reject data tables, and text that NFC would change (its bytes could not be counted)."""
    if len(text) < 64 or not unicodedata.is_normalized("NFC", text):
        return False
    digits = sum(map(str.isdigit, text)) / len(text)
    foreign = sum(ord(char) > 127 for char in text) / len(text)
    escapes = (text.count("\\x") + text.count("\\u") + text.count("0x")) / len(text)
    longest = max(map(len, text.splitlines()))
    return digits < 0.12 and foreign < 0.04 and escapes < 0.025 and longest < 400


def source_kind(path: str) -> str:
    """Name the stream of a source file: the library itself, or its tests."""
    parts = path.split("/")
    is_test = any(part in ("test", "tests", "idle_test") for part in parts[:-1])
    return "tests" if is_test else "library"


def source_documents(stdlib: Path) -> Iterator[Document]:
    """Yield the standard library's readable Python files, in path order."""
    for file in sorted(stdlib.rglob("*.py")):
        path = file.relative_to(stdlib).as_posix()
        if path.startswith(SKIPPED_PREFIXES) or "/site-packages/" in path:
            continue
        try:
            text = file.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        if END_OF_TEXT not in text:
            yield Document(path, source_kind(path), text)


def topic_documents() -> Iterator[Document]:
    """Yield the language reference's topics as ``help()`` knows them."""
    for name, text in sorted(pydoc_data.topics.topics.items()):
        yield Document(f"pydoc_data/topics/{name}", "docs", text.lstrip("\n"))


def indent(text: str, depth: int) -> str:
    """Indent a docstring the way the documentation's plain-text pages do."""
    margin = "   " * depth
    lines = (margin + line if line.strip() else "" for line in text.strip().splitlines())
    return "\n".join(lines)


Entry = tuple[int, str, str]


def source_entries(module: str, tree: ast.Module) -> Iterator[Entry]:
    """Yield (depth, signature, docstring) for every documented definition of a module."""
    title = f"{module}\n{'*' * len(module)}"
    yield 0, title, ast.get_docstring(tree) or ""

    def walk(nodes: Iterable[ast.stmt], prefix: str, depth: int) -> Iterator[Entry]:
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                bases = ", ".join(map(ast.unparse, node.bases))
                heading = f"class {prefix}{node.name}" + (f"({bases})" if bases else "")
                yield depth, heading, ast.get_docstring(node) or ""
                yield from walk(node.body, "", depth + 1)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = ast.unparse(node.args)
                arguments = arguments.removeprefix("self, ").removeprefix("cls, ")
                arguments = "" if arguments in ("self", "cls") else arguments
                heading = f"{prefix}{node.name}({arguments})"
                yield depth, heading, ast.get_docstring(node) or ""

    yield from walk(tree.body, f"{module}.", 0)


def signature_of(name: str, value: object) -> str:
    """Give a built-in's call signature, or its bare name where it has none."""
    try:
        text = str(inspect.signature(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return name
    return name + text.replace("($self, ", "(").replace("(self, ", "(").replace("(self)", "()")


def extension_entries(module: types.ModuleType) -> Iterator[Entry]:
    """Yield (depth, signature, docstring) for what a module written in C documents."""
    name = module.__name__
    yield 0, f"{name}\n{'*' * len(name)}", inspect.getdoc(module) or ""
    prefix = "" if name == "builtins" else f"{name}."
    for key, value in sorted(vars(module).items()):
        if key.startswith("_") or not (inspect.isroutine(value) or inspect.isclass(value)):
            continue
        if getattr(value, "__module__", name) not in (name, name.lstrip("_")):
            continue
        if not inspect.isclass(value):
            yield 0, signature_of(prefix + key, value), inspect.getdoc(value) or ""
            continue
        yield 0, f"class {prefix}{key}", inspect.getdoc(value) or ""
        for attribute, member in sorted(vars(value).items()):
            if inspect.isroutine(member) and not attribute.startswith("__"):
                heading = signature_of(attribute, member)
                yield 1, heading, inspect.getdoc(member) or ""


def page(entries: Iterable[Entry], is_leaked: Callable[[str], bool]) -> str:
    """Lay documented entries out as one page of plain-text documentation."""
    parts = []
    for depth, heading, docstring in entries:
        readable = docstring.strip() and unicodedata.is_normalized("NFC", docstring)
        if not readable or is_leaked(docstring):
            continue
        body = docstring if heading.endswith("*") else indent(docstring, depth + 1)
        parts.append(f"{indent(heading, depth)}\n\n{body}")
    return "\n\n".join(parts) + "\n" if parts else ""


def extension_names() -> list[str]:
    """List the modules that are written in C, leaving out CPython's own test helpers."""
    dynload = Path(sysconfig.get_path("platstdlib"), "lib-dynload")
    shared = {file.name.partition(".")[0] for file in dynload.glob("*.so")}
    names = shared | set(sys.builtin_module_names)
    return sorted(name for name in names if "test" not in name and not name.startswith("xx"))


def extension_fate(name: str, sources: set[str]) -> str:
    """Find the path whose fate a C module shares: the Python module it stands behind."""
    public = name.lstrip("_")
    for path in (f"{public}.py", f"_py{public}.py", f"{public}/__init__.py"):
        if path in sources:
            return path
    return f"{public}.py"


def docstring_pages(
    sources: list[Document], is_leaked: Callable[[str], bool]
) -> Iterator[Document]:
    """Yield a documentation page per training source file and per C module."""
    for document in sources:
        if document.kind != "library" or is_held_out(document.path):
            continue
        module = document.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        text = page(source_entries(module, ast.parse(document.text)), is_leaked)
        yield Document(f"{document.path}#docstrings", "docs", text)
    paths = {document.path for document in sources}
    for name in extension_names():
        if is_held_out(extension_fate(name, paths)):
            continue
        try:
            text = page(extension_entries(importlib.import_module(name)), is_leaked)
        except ImportError:
            continue
        yield Document(f"{name}#docstrings", "docs", text)


def leak_check(held_out: list[Document]) -> Callable[[str], bool]:
    """Make the test for a docstring that some held-out document also contains."""
    haystack = " ".join(" ".join(document.text.split()) for document in held_out)

    def is_leaked(docstring: str) -> bool:
        needle = " ".join(docstring.split())
        return len(needle) >= 60 and needle in haystack

    return is_leaked


def build_corpus(stdlib: Path) -> Corpus:
    """Gather, filter, de-duplicate and split the documents."""
    corpus = Corpus()
    seen: set[str] = set()
    sources: list[Document] = []
    for document in [*source_documents(stdlib), *topic_documents()]:
        if document.text in seen or not reads_as_text(document.text):
            continue
        seen.add(document.text)
        chosen = corpus.held_out if is_held_out(document.path) else corpus.training
        chosen.append(document)
        if document.kind != "docs":
            sources.append(document)
    for document in docstring_pages(sources, leak_check(corpus.held_out)):
        if document.text not in seen and reads_as_text(document.text):
            seen.add(document.text)
            corpus.training.append(document)
    return corpus


def count_bytes(documents: Iterable[Document], kind: str | None = None) -> int:
    """Count the UTF-8 bytes of the documents of one kind, or of all."""
    texts = (doc.text for doc in documents if kind in (None, doc.kind))
    return sum(len(text.encode("utf-8")) for text in texts)


# --- Tokenizer ----------------------------------------------------------------------------


def train_tokenizer(documents: list[Document]) -> Tokenizer:
    """Train a byte-level BPE whose pipeline is Qwen2's, part by part."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B:1")
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=24,
        show_progress=False,
    )
    weight = {"docs": 3, "library": 1, "tests": 1}
    texts = (doc.text for doc in documents for _ in range(weight[doc.kind]))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([END_OF_TEXT])
    assert tokenizer.token_to_id(END_OF_TEXT) == END_ID
    return tokenizer


def load_or_train_tokenizer(work: Path, corpus: Corpus) -> Tokenizer:
    """Give the run's tokenizer, made once and kept in the working folder."""
    path = work / "tokenizer.json"
    if not path.exists():
        train_tokenizer(corpus.training).save(str(path), pretty=False)
    return Tokenizer.from_file(str(path))


# --- Batches ------------------------------------------------------------------------------


class Stream:
    """Rows of one kind of text; row ``k`` depends on the seed and ``k`` alone."""

    def __init__(self, tokens: np.ndarray, seed: int) -> None:
        self.tokens = tokens
        self.seed = seed
        self.rows = (len(tokens) - 1) // CONTEXT - 1
        self.epoch = -1
        self.starts = np.empty(0, dtype=np.int64)

    def row(self, index: int) -> np.ndarray:
        """Cut one row; each epoch shifts the cuts and shuffles their order."""
        epoch, place = divmod(index, self.rows)
        if epoch != self.epoch:
            generator = np.random.default_rng([self.seed, epoch])
            phase = generator.integers(CONTEXT)
            self.starts = phase + CONTEXT * generator.permutation(self.rows)
            self.epoch = epoch
        start = self.starts[place]
        return self.tokens[start : start + CONTEXT + 1]


def encode_stream(tokenizer: Tokenizer, documents: list[Document], seed: int) -> np.ndarray:
    """Join shuffled documents into one run of tokens with separators between."""
    order = np.random.default_rng(seed).permutation(len(documents))
    pieces = [END_ID]
    for encoding in tokenizer.encode_batch_fast([documents[i].text for i in order]):
        pieces.extend(encoding.ids)
        pieces.append(END_ID)
    return np.array(pieces, dtype=np.uint16)


def build_streams(tokenizer: Tokenizer, corpus: Corpus, seed: int) -> dict[str, Stream]:
    """Make one stream per kind of training text."""
    streams = {}
    for number, kind in enumerate(ROWS_PER_STEP):
        documents = [document for document in corpus.training if document.kind == kind]
        tokens = encode_stream(tokenizer, documents, seed + number)
        streams[kind] = Stream(tokens, seed + number)
        print(f"{kind}: {len(documents)} documents, {len(tokens):,} tokens", flush=True)
    return streams


class Loosener:
    """Moves the spaces before a few words to where a prompt that ends there has them."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.seed = seed
        vocabulary = tokenizer.get_vocab()
        self.space = vocabulary["\u0120"]
        self.bare = np.full(VOCABULARY, -1)
        self.wider = np.full(VOCABULARY, -1)
        for token, number in vocabulary.items():
            rest = token.removeprefix("\u0120")
            if not rest.strip("\u0120"):
                self.wider[number] = vocabulary.get(token + "\u0120", -1)
            elif rest != token and rest[0] != "\u0120":
                self.bare[number] = vocabulary.get(rest, -1)

    def loosen(self, batch: np.ndarray, step: int) -> np.ndarray:
        """Cut words from their spaces, at random places that the step alone decides."""
        generator = np.random.default_rng([self.seed, step])
        chance = generator.random(batch.shape) < LOOSE_SHARE
        return np.stack([self._row(row, lot) for row, lot in zip(batch, chance, strict=True)])

    def _row(self, row: np.ndarray, lot: np.ndarray) -> np.ndarray:
        row, length = row.copy(), len(row)
        chosen = np.flatnonzero(lot & (self.bare[row] >= 0))
        before = self.wider[row[chosen - 1]]
        joins = (before >= 0) & (chosen > 0)
        row[chosen] = self.bare[row[chosen]]
        row[chosen[joins] - 1] = before[joins]
        return np.insert(row, chosen[~joins], self.space)[:length]


def make_batch(streams: dict[str, Stream], loosener: Loosener, step: int) -> torch.Tensor:
    """Collect the rows of one step, kinds spread evenly over the micro-batches."""
    rows = []
    for kind, count in ROWS_PER_STEP.items():
        rows += [streams[kind].row(step * count + place) for place in range(count)]
    batch = torch.from_numpy(loosener.loosen(np.stack(rows).astype(np.int64), step))
    micro = len(rows) // MICRO_ROWS
    return torch.cat([batch[start::micro] for start in range(micro)])


# --- Training -----------------------------------------------------------------------------


def blocked_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention in blocks of queries: on a CPU its gradient is the faster one."""
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    shared = heads // groups
    size = min(128, length)
    query = (query * scaling).reshape(batch * groups, shared, length, width)
    key = key.reshape(batch * groups, length, width)
    value = value.reshape(batch * groups, length, width)
    future = torch.full((size, size), -torch.inf).triu(1)
    blocks = []
    for start in range(0, length, size):
        stop = start + size
        rows = query[:, :, start:stop].reshape(batch * groups, shared * size, width)
        scores = torch.bmm(rows, key[:, :stop].transpose(1, 2))
        scores = scores.view(batch * groups, shared, size, stop).float()
        weights = torch.softmax(scores + F.pad(future, (start, 0)), dim=-1).to(query.dtype)
        block = torch.bmm(weights.view(batch * groups, shared * size, stop), value[:, :stop])
        blocks.append(block.view(batch, groups, shared, size, width))
    joined = torch.cat(blocks, dim=3).reshape(batch, heads, length, width)
    return joined.transpose(1, 2).contiguous(), None


def make_model(seed: int) -> Qwen2ForCausalLM:
    """Make the untrained model, seeded."""
    AttentionInterface.register("blocked", blocked_attention)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=448,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=END_ID,
        attn_implementation="blocked",
    )
    return Qwen2ForCausalLM(config)


def make_optimizers(model: Qwen2ForCausalLM) -> list[torch.optim.Optimizer]:
    """Give the layers' matrices to Muon, and embeddings, norms and biases to AdamW."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "embed" not in name
        (matrices if is_matrix else others).append(parameter)
    muon = torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.05, momentum=0.95)
    adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def make_loss(model: Qwen2ForCausalLM) -> Callable[[torch.Tensor], torch.Tensor]:
    """Compile the training loss of rows that carry one token more than they predict from."""

    def loss(rows: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.model(input_ids=rows[:, :-1], use_cache=False).last_hidden_state
            logits = F.linear(hidden, model.lm_head.weight)
        flat = logits.reshape(-1, VOCABULARY).float()
        return F.cross_entropy(flat, rows[:, 1:].reshape(-1))

    return torch.compile(loss, dynamic=False)


@dataclass(frozen=True)
class Team:
    """The processes that share each step.

    One thread each, meeting once a step: threads inside a step would meet at every operation
    and wait there whenever another program holds a core.
    """

    rank: int
    size: int

    def join(self, work: Path) -> None:
        """Meet the other processes, if there are any."""
        if self.size > 1:
            meeting = (work / "meeting").resolve().as_uri()
            dist.init_process_group(
                "gloo", init_method=meeting, rank=self.rank, world_size=self.size
            )

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over the processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def add_gradients(self, model: Qwen2ForCausalLM) -> None:
        """Give every process the sum of all gradients, in one message."""
        if self.size == 1:
            return
        gradients = [part.grad for part in model.parameters() if part.grad is not None]
        flat = self.total(torch.cat([gradient.flatten() for gradient in gradients]))
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, summed in zip(gradients, torch.split(flat, sizes), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def agree(self, seconds: float) -> float:
        """Take the first process's clock for everyone's."""
        mine = seconds if self.rank == 0 else 0.0
        return self.total(torch.tensor(mine, dtype=torch.float64)).item()


def halve_rows(rows: torch.Tensor) -> torch.Tensor:
    """Split each row into two of half the context, for the cheaper first phase."""
    half = CONTEXT // 2
    return torch.cat([rows[:, : half + 1], rows[:, half:]])


@dataclass
class Progress:
    """How far a run has come; with the weights, all that a resumed run needs."""

    step: int = 0
    seconds: float = 0.0
    decay_step: int = -1

    def share(self, minutes: float, steps: int) -> float:
        """Give the finished share of the run, in steps if their number is fixed."""
        return self.step / steps if steps else self.seconds / (minutes * 60)


def rate_factor(step: int, share: float, decay: float) -> float:
    """Warm up, stay, then decay linearly to zero over the last part of the run."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * min(1.0, max(0.0, (1.0 - share) / decay))


def save_checkpoint(
    path: Path,
    model: Qwen2ForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    progress: Progress,
) -> None:
    """Write the state of the run, replacing the older one only when it is complete."""
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "progress": asdict(progress),
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_checkpoint(
    path: Path, model: Qwen2ForCausalLM, optimizers: list[torch.optim.Optimizer]
) -> Progress:
    """Take the state of an earlier run up again, or start at the beginning."""
    if not path.exists():
        return Progress()
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return Progress(**state["progress"])


def take_step(
    loss: Callable[[torch.Tensor], torch.Tensor],
    batch: torch.Tensor,
    model: Qwen2ForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    team: Team,
    *,
    factor: float,
    is_long: bool,
) -> float:
    """Make one update from a batch, in micro-batches that fit the caches."""
    parts = list(torch.split(batch, MICRO_ROWS))
    sum_of_losses = torch.zeros(())
    for part in parts[team.rank :: team.size]:
        value = loss(part if is_long else halve_rows(part)) / len(parts)
        torch.autograd.backward(value)
        sum_of_losses += value.detach()
    team.add_gradients(model)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return team.total(sum_of_losses).item()


def report(progress: Progress, share: float, loss: float, factor: float) -> None:
    """Print one line about the run."""
    tokens = progress.step * sum(ROWS_PER_STEP.values()) * CONTEXT
    print(
        f"step {progress.step} share {share:.3f} loss {loss:.4f} rate {factor:.3f} "
        f"{tokens / progress.seconds:,.0f} tokens/s {progress.seconds / 60:.1f} min",
        flush=True,
    )


def train(
    args: argparse.Namespace, streams: dict[str, Stream], loosener: Loosener, team: Team
) -> tuple[Qwen2ForCausalLM, Progress]:
    """Run the schedule to its end, saving the state every few minutes."""
    model = make_model(args.seed)
    optimizers = make_optimizers(model)
    path = args.work / "checkpoint.pt"
    progress = load_checkpoint(path, model, optimizers)
    team.join(args.work)
    loss = make_loss(model)
    average, saved, last = math.nan, time.monotonic(), time.monotonic()
    while (share := progress.share(args.minutes, args.steps)) < 1.0:
        is_long = share >= 1.0 - args.decay
        if is_long and progress.decay_step < 0:
            progress.decay_step = progress.step
        batch = make_batch(streams, loosener, progress.step)
        factor = rate_factor(progress.step, share, args.decay)
        value = take_step(loss, batch, model, optimizers, team, factor=factor, is_long=is_long)
        average = value if math.isnan(average) else 0.98 * average + 0.02 * value
        now = time.monotonic()
        progress.step += 1
        progress.seconds = team.agree(progress.seconds + now - last)
        last = now
        if team.rank == 0 and progress.step % 25 == 0:
            report(progress, share, average, factor)
        if team.rank == 0 and now - saved > CHECKPOINT_SECONDS:
            save_checkpoint(path, model, optimizers, progress)
            saved = now
    if team.rank == 0:
        save_checkpoint(path, model, optimizers, progress)
    return model, progress


# --- Export -------------------------------------------------------------------------------


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a settings file in the layout that the library itself uses."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def export(model: Qwen2ForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Save the files that the program loads, weights in bfloat16."""
    out.mkdir(parents=True, exist_ok=True)
    saved = Qwen2ForCausalLM(model.config).to(torch.bfloat16)
    saved.load_state_dict(model.state_dict())
    saved.config._attn_implementation = "sdpa"
    saved.generation_config.do_sample = False
    saved.generation_config.max_new_tokens = 256
    saved.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    write_json(
        out / "tokenizer_config.json",
        {
            "add_prefix_space": None,
            "bos_token": None,
            "eos_token": END_OF_TEXT,
            "pad_token": END_OF_TEXT,
            "unk_token": END_OF_TEXT,
            "tokenizer_class": "Qwen2Tokenizer",
        },
    )


# --- Evaluation ---------------------------------------------------------------------------


@dataclass
class Evaluation:
    """Held-out figures: what the model needs, by kind, and what xz needs."""

    documents: int
    size: int
    bits: dict[str, float]
    sizes: dict[str, int]
    xz_bits: float

    @property
    def model(self) -> float:
        """Bits per byte over all held-out bytes."""
        return sum(self.bits.values()) / self.size

    @property
    def xz(self) -> float:
        """Bits per byte of one ``xz -9e`` over the same documents."""
        return self.xz_bits / self.size

    @property
    def margin(self) -> float:
        """The share by which the model needs less than xz."""
        return 1.0 - self.model / self.xz


@torch.inference_mode()
def document_bits(model: Qwen2ForCausalLM, ids: list[int]) -> float:
    """Give the bits of a document's tokens, read after a separator in sliding windows."""
    tokens = torch.tensor([model.config.eos_token_id, *ids])
    total, scored = 0.0, 1
    for start in range(0, len(tokens), WINDOW_STRIDE):
        window = tokens[start : start + CONTEXT + 1]
        logits = model(window[None, :-1]).logits[0, scored - start - 1 :]
        targets = tokens[scored : start + len(window)]
        total += F.cross_entropy(logits, targets, reduction="sum").item()
        scored = start + len(window)
        if scored == len(tokens):
            break
    return total / math.log(2)


def evaluate(out: Path, corpus: Corpus) -> Evaluation:
    """Measure the saved files in float32, every byte of every held-out document."""
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    held_out = sorted(corpus.held_out, key=lambda document: document.path)
    bits = dict.fromkeys(ROWS_PER_STEP, 0.0)
    for document in held_out:
        ids = tokenizer.encode(document.text)
        decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert decoded == document.text, document.path
        bits[document.kind] += document_bits(model, ids)
    joined = "".join(document.text for document in held_out).encode("utf-8")
    packed = lzma.compress(joined, preset=9 | lzma.PRESET_EXTREME)
    sizes = {kind: count_bytes(held_out, kind) for kind in ROWS_PER_STEP}
    return Evaluation(len(held_out), len(joined), bits, sizes, 8.0 * len(packed))


def sample(out: Path, seed: int) -> str:
    """Complete a few prompts, greedily and by sampling, for a person to read."""
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    torch.manual_seed(seed)
    parts = []
    ways: dict[str, dict[str, Any]] = {
        "greedy": {"do_sample": False},
        "temperature 1.0, min-p 0.05": {"do_sample": True, "min_p": 0.05, "top_k": 0},
    }
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        for way, settings in ways.items():
            ids = model.generate(**inputs, max_new_tokens=120, **settings)[0]
            parts.append(f"=== {prompt!r}, {way}\n{tokenizer.decode(ids)}\n")
    return "\n".join(parts)


# --- Model card ---------------------------------------------------------------------------

CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# The demo model

A Qwen2 model small enough to ship with the program, so that everything can be tried before a
large checkpoint is downloaded. It continues Python documentation and Python source. It goes
through the same loader as the large models; only its size differs.

| | |
|---|---|
| Architecture | `Qwen2ForCausalLM`, tied embeddings |
| Parameters | {parameters:,} |
| Layers, hidden size | {layers}, {hidden} |
| Attention | {heads} heads of {width}, {groups} key-value heads |
| Feed-forward size | {feed} |
| Vocabulary | {vocabulary:,} (byte-level BPE, Qwen2's split, NFC) |
| Context | {context:,} tokens |
| Weights | bfloat16, {size:,} bytes in all files beside this one |
| Separator and end | `<|endoftext|>`; no beginning-of-text token |

## Held-out figures

| | bits per byte |
|---|---|
| This model | {model_bits:.4f} |
| `xz -9e` | {xz_bits:.4f} |

The model needs **{margin:.1%} less** than xz.

{kinds}

The held-out set is every document whose path's SHA-256 is 0 modulo 20: {documents} documents,
{bytes:,} bytes. The saved bfloat16 weights are evaluated in float32 by the transformers class.
Each document is read on its own after one separator, in windows of {context:,} tokens that
advance by {stride}; every byte of every document is counted. xz packs the same documents,
concatenated in path order, as one stream.

## Training

- Text: what comes with CPython {python}: the documentation topics of `pydoc_data`, docstrings,
  and the standard library's source with its tests. Never site-packages. Left out: encodings and
  other data tables, files that are not UTF-8 or not NFC, identical copies.
- Documents are topics and source files. A page of docstrings is derived from a source file (or
  from the C module behind one), shares its fate and is never measured; a docstring that a
  held-out document contains is dropped from every page.
- Training bytes: {train_docs:,} of documentation, {train_library:,} of library source,
  {train_tests:,} of tests. A step of 16 rows of 1,024 tokens takes {mixture} rows of each.
- {steps:,} steps, {tokens:,} tokens, {minutes:.0f} minutes on two shared CPU cores
  ({speed:,.0f} tokens per second), seed {seed}. Rows of 512 tokens until step {decay:,}, then of
  1,024 while the learning rate falls linearly to zero.
- Muon for the layers' matrices, AdamW for the rest, bfloat16 autocast. {loose:.0%} of the words
  that can be are cut from the space before them, as in a prompt that ends in a space.{note}

`scripts/train_demo.py` makes all of this, this card included.

## Use

For trying the program, for its tests and for teaching what a base model does. Not for writing
code or looking up facts: what it says about Python is plausible in form and often wrong in
content. It follows no instructions.

## Licence

The weights are under Apache-2.0. The training text is CPython's, under the Python Software
Foundation License Version 2; copyright Python Software Foundation.
"""


def card_model_fields(out: Path, config: Qwen2Config, parameters: int) -> dict[str, Any]:
    """Collect what the card says about the model's form."""
    files = [file for file in out.iterdir() if file.name != "README.md"]
    return {
        "parameters": parameters,
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "heads": config.num_attention_heads,
        "groups": config.num_key_value_heads,
        "width": config.hidden_size // config.num_attention_heads,
        "feed": config.intermediate_size,
        "vocabulary": config.vocab_size,
        "context": config.max_position_embeddings,
        "size": sum(file.stat().st_size for file in files),
    }


def card_run_fields(args: argparse.Namespace, corpus: Corpus, progress: Progress) -> dict[str, Any]:
    """Collect what the card says about the training run."""
    tokens = progress.step * sum(ROWS_PER_STEP.values()) * CONTEXT
    return {
        "python": platform.python_version(),
        "train_docs": count_bytes(corpus.training, "docs"),
        "train_library": count_bytes(corpus.training, "library"),
        "train_tests": count_bytes(corpus.training, "tests"),
        "mixture": ", ".join(map(str, ROWS_PER_STEP.values())),
        "steps": progress.step,
        "decay": progress.decay_step,
        "tokens": tokens,
        "minutes": progress.seconds / 60,
        "speed": tokens / max(progress.seconds, 1.0),
        "seed": args.seed,
        "loose": LOOSE_SHARE,
        "note": f"\n- {args.note}" if args.note else "",
    }


def write_card(
    args: argparse.Namespace, corpus: Corpus, progress: Progress, figures: Evaluation
) -> None:
    """Fill the model card in from the run's own figures."""
    model = AutoModelForCausalLM.from_pretrained(args.out)
    names = {"docs": "documentation topics", "library": "library source", "tests": "tests"}
    parts = [
        f"- {names[kind]}: {figures.bits[kind] / size:.4f} ({size:,} bytes)"
        for kind, size in figures.sizes.items()
        if size
    ]
    text = CARD.format(
        **card_model_fields(args.out, model.config, model.num_parameters()),
        **card_run_fields(args, corpus, progress),
        model_bits=figures.model,
        xz_bits=figures.xz,
        margin=figures.margin,
        kinds="Of the model's figure:\n\n" + "\n".join(parts),
        documents=figures.documents,
        bytes=figures.size,
        stride=WINDOW_STRIDE,
    )
    (args.out / "README.md").write_text(text, encoding="utf-8")


# --- Command line -------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train, measure and export the demo model.")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model's files")
    parser.add_argument("--minutes", type=float, default=80.0, help="training time")
    parser.add_argument("--steps", type=int, default=0, help="train this many steps instead")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--decay", type=float, default=0.3, help="share of the run that decays")
    parser.add_argument("--note", default="", help="a sentence about this run for the card")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each: 1 or 2")
    return parser.parse_args()


def work_along(rank: int, args: argparse.Namespace, corpus: Corpus) -> None:
    """Train as one of the processes; the first also exports, measures and writes the card."""
    torch.set_num_threads(1)
    tokenizer = load_or_train_tokenizer(args.work, corpus)
    streams = build_streams(tokenizer, corpus, args.seed)
    team = Team(rank, args.processes)
    model, progress = train(args, streams, Loosener(tokenizer, args.seed), team)
    if rank > 0:
        return
    save_checkpoint(args.work / "trained.pt", model, [], progress)
    export(model, tokenizer, args.out)


def finish(args: argparse.Namespace, corpus: Corpus) -> Evaluation:
    """Measure what was exported, write its card, and show a few completions."""
    state = torch.load(args.work / "trained.pt", weights_only=True)
    figures = evaluate(args.out, corpus)
    write_card(args, corpus, Progress(**state["progress"]), figures)
    print(f"held-out: {figures.documents} documents, {figures.size:,} bytes")
    print(f"model {figures.model:.4f}, xz -9e {figures.xz:.4f} bits per byte: {figures.margin:.1%}")
    text = sample(args.out, args.seed)
    (args.work / "samples.txt").write_text(text, encoding="utf-8")
    print(text)
    return figures


def main() -> int:
    """Make the model; fail if it misses its bar."""
    args = parse_arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    corpus = build_corpus(Path(sysconfig.get_path("stdlib")))
    load_or_train_tokenizer(args.work, corpus)
    if not (args.work / "trained.pt").exists():
        (args.work / "meeting").unlink(missing_ok=True)
        mp.spawn(work_along, (args, corpus), nprocs=args.processes)
    return 0 if finish(args, corpus).margin >= 0.10 else 1


if __name__ == "__main__":
    sys.exit(main())
