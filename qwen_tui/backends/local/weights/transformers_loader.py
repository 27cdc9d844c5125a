"""Loads a checkpoint through transformers and accelerate, with progress and without remote code.

Law: only safetensors from a local folder, no remote code, no request; a tensor that is missing or
of the wrong shape raises an error that names it and is never filled with random values.
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from qwen_tui import hub, paths
from qwen_tui.backends.local import memory
from qwen_tui.backends.local.nn import bitsandbytes, nf4
from qwen_tui.backends.local.planning.machine import gib
from qwen_tui.backends.local.planning.plan import Plan
from qwen_tui.backends.local.weights.safetensors_reader import UNTIED
from qwen_tui.hub import quantisation
from qwen_tui.types import NO_INPUT, TEMPORARY, Progress, Stage, Trouble

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
QUIET: Final[Mapping[str, str]] = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "BITSANDBYTES_NOWELCOME": "1",
    "TQDM_DISABLE": "1",
}
"""Set before the libraries are imported: no telemetry, no update checks, no bars, no background
thread that converts a checkpoint online."""
MOST_NAMED: Final = 5

Report = Callable[[Progress], None]


class _LoadCancelled(Exception):
    """Loading was cancelled."""


def quiet() -> None:
    """Set `QUIET` where the person has not said otherwise; call before importing the libraries."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def load(
    card: hub.Card, plan: Plan, report: Report, cancel: threading.Event
) -> tuple[Any, tuple[str, ...]]:
    """The transformers model in eval mode, on the plan's devices, and warnings for the person.

    Reports `import`, then `load` (or `quantise`) in bytes of the checkpoint. Raises `Trouble` 66
    for tensors that are missing, mismatched or unreadable, 75 when memory runs out.
    """
    folder = card.path
    report(Progress("import", 0, 1))
    prepare(plan, card.quantised)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    report(Progress("import", 1, 1))
    stage: Stage = "load" if plan.quant == "none" else "quantise"
    counting = _counting(_sizes(folder), stage, report, cancel)
    try:
        with _silenced(), _hooked(transformers.logging, counting), torch.inference_mode(False):
            network, found = _from_pretrained(transformers, folder, plan)
    except _LoadCancelled:
        raise Trouble("loading was stopped", hint="generate again to load the model") from None
    except Exception as error:
        raise _trouble(error, card, plan) from error
    finally:
        gc.collect()
    _refuse_gaps(found, folder)
    network.eval()
    if plan.quant == "nf4" and plan.device == "cpu":
        interleave(network, report, cancel)
    return network, (UNTIED,) if _untied(network) else ()


def prepare(plan: Plan, published: str = "") -> None:
    """Set `QUIET`, and prepare bitsandbytes if the plan quantises with it or the checkpoint was
    `published` quantised by it.
    """
    quiet()
    if plan.quant == "none" and published != "bitsandbytes":
        return
    bitsandbytes.load()
    if plan.quant == "nf4" and plan.device == "cpu":
        nf4.install()


def interleave(network: Any, report: Report, cancel: threading.Event) -> None:
    """Convert NF4 weights to the CPU kernel's layout now; bitsandbytes would do it slowly in the
    first forward pass (`functional._convert_weight_packed_for_cpu`).
    """
    from bitsandbytes.nn import Linear4bit

    layers = [each for each in network.modules() if isinstance(each, Linear4bit)]
    if not layers or not layers[0].support_avx512bf16_for_cpu:
        return
    for done, layer in enumerate(layers):
        if cancel.is_set():
            raise Trouble("loading was stopped", hint="generate again to load the model")
        report(Progress("pack", done, len(layers)))
        state = layer.weight.quant_state
        rows, columns = state.shape
        if rows % 32 or columns % state.blocksize or getattr(state, "nested", False):
            continue
        state.original_dtype, state.original_nested = state.dtype, False
        state.original_qshape = layer.weight.data.shape
        layer.weight.data = nf4.interleaved(layer.weight.data.view(rows, columns // 2))
        state.absmax = state.absmax.view(rows, -1).T.to(torch.bfloat16).contiguous()
        state.dtype, state.packing_format_for_cpu = torch.bfloat16, True
    report(Progress("pack", len(layers), len(layers)))


def _from_pretrained(transformers: Any, folder: Path, plan: Plan) -> tuple[Any, dict[str, Any]]:
    wanted: dict[str, Any] = {
        "config": _config(transformers, folder),
        # Its own sampling is never used, so its file need not be read.
        "generation_config": transformers.GenerationConfig(),
        "dtype": DTYPES[plan.dtype],
        "device_map": _device_map(plan),
        "quantization_config": _quantisation(transformers, plan),
        "attn_implementation": plan.attn,
        "use_safetensors": True,
        "trust_remote_code": False,
        "local_files_only": True,
        "output_loading_info": True,
        # Not to load them, but to learn their names: `_refuse_gaps` refuses them.
        "ignore_mismatched_sizes": True,
    }
    if plan.spread:
        offload = paths.cache_dir() / "offload"
        offload.mkdir(parents=True, exist_ok=True, mode=0o700)
        wanted["offload_folder"] = str(offload)
    wanted = {name: value for name, value in wanted.items() if value is not None}
    make = transformers.AutoModelForCausalLM.from_pretrained
    try:
        network, found = make(str(folder), **wanted)
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        network, found = make(str(folder), **{**wanted, "attn_implementation": "eager"})
    return network, found


def _config(transformers: Any, folder: Path) -> Any:
    """The configuration from config.json, which may begin with a byte order mark, with the weight
    index's file name.
    """
    config: Any
    if (folder / "config.json").read_bytes().startswith(codecs.BOM_UTF8):
        stated = hub.read_json(folder / "config.json")
        config = transformers.CONFIG_MAPPING[stated["model_type"]].from_dict(stated)
    else:
        config = transformers.AutoConfig.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    config.transformers_weights = hub.weight_files(folder).entry
    return config


def _untied(network: Any) -> bool:
    """Whether the head differs from the token table although the configuration ties them."""
    head, table = network.get_output_embeddings(), network.get_input_embeddings()
    tied = getattr(network.config.get_text_config(), "tie_word_embeddings", False)
    return bool(tied) and head is not None and head.weight is not table.weight


def _device_map(plan: Plan) -> Any:
    return "auto" if plan.spread else {"": plan.device}


def _quantisation(transformers: Any, plan: Plan) -> Any:
    if plan.quant == "nf4":
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=DTYPES[plan.dtype],
            bnb_4bit_use_double_quant=False,
        )
    if plan.quant == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return None


# -- progress --------------------------------------------------------------------------------------


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every tensor by the name it has in the checkpoint."""
    try:
        return {each.name: each.bytes for each in hub.contents(folder)[1]}
    except ValueError as error:
        raise Trouble(f"{folder.name}: {error}", code=NO_INPUT) from None


def _counting(
    sizes: Mapping[str, int], stage: Stage, report: Report, cancel: threading.Event
) -> Callable[..., Any]:
    """A factory of progress bars for transformers that report bytes and check `cancel`."""
    total = sum(sizes.values())

    def bar(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not args or not isinstance(args[0], Iterable) or "Loading" not in kwargs.get("desc", ""):
            return factory(*args, **kwargs)
        return through(list(args[0]))

    def through(items: list[Any]) -> Iterator[Any]:
        done = 0
        for item in items:
            if cancel.is_set():
                raise _LoadCancelled
            report(Progress(stage, done, total))
            yield item
            done += _bytes_of(item, sizes, total // max(1, len(items)))
            done = min(done, total)
        report(Progress(stage, total, total))

    return bar


def _bytes_of(item: Any, sizes: Mapping[str, int], otherwise: int) -> int:
    """Bytes behind one (target name, conversion) pair of transformers' loader."""
    name, conversion = item
    sources = getattr(conversion, "source_patterns", None) or [name]
    known = [sizes[each] for each in {name, *sources} if each in sizes]
    return max(known) if known else otherwise


@contextlib.contextmanager
def _hooked(log: Any, bar: Callable[..., Any]) -> Iterator[None]:
    """Until the block ends, transformers makes its progress bars with `bar`."""
    before = log.set_tqdm_hook(bar)
    try:
        yield
    finally:
        log.set_tqdm_hook(before)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# -- what can be wrong -----------------------------------------------------------------------------


def _refuse_gaps(found: Mapping[str, Any], folder: Path) -> None:
    """Raise Trouble that names missing, mismatched or unexpected tensors."""
    mismatched = [each[0] if isinstance(each, tuple) else each for each in found["mismatched_keys"]]
    for names, what in (
        (found["missing_keys"], "lacks"),
        (mismatched, "has the wrong shape for"),
        (found["unexpected_keys"], "has tensors that its architecture does not know:"),
    ):
        if names:
            raise Trouble(
                f"the checkpoint {folder.name} {what} {_named(names)}",
                hint="fetch the model again; nothing is ever filled in at random",
                code=NO_INPUT,
            )
    if found.get("error_msgs"):
        raise Trouble(f"{folder.name}: {found['error_msgs'][0]}"[:500], code=NO_INPUT)


def _named(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - MOST_NAMED
    return ", ".join(ordered[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _trouble(error: Exception, card: hub.Card, plan: Plan) -> Exception:
    """An error that the person can mend as `Trouble`; any other unchanged."""
    if isinstance(error, Trouble):
        return error
    if memory.ran_out(error):
        memory.release()
        return Trouble(
            f"memory ran out while loading {card.path.name}: it needs {gib(plan.need_bytes)}, "
            f"{gib(plan.free_bytes)} were free",
            hint="--quant nf4, --device cpu, or a smaller model (qwen-tui models list)",
            code=TEMPORARY,
        )
    first = str(error).strip().partition("\n")[0]
    if card.quantised:
        title = quantisation.title(card.quantised)
        return Trouble(
            f"{card.path.name}, quantised with {title}, cannot be loaded: {first}"[:500],
            hint=quantisation.CURE,
            code=NO_INPUT,
        )
    known = isinstance(error, OSError | ValueError | KeyError | RuntimeError | ImportError)
    if known or type(error).__module__.startswith("safetensors"):
        return Trouble(
            f"{card.path.name} cannot be loaded: {first}"[:500],
            hint="check it with `qwen-tui doctor`, or fetch the model again",
            code=NO_INPUT,
        )
    return error
