"""Formats in which a published checkpoint may be quantised, and which of them can be run here.

Law: quantised weights are never read as plain numbers; a format that is unknown or lacks its
library is refused before loading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qwen_tui.hub.safetensors_header import Broken, Tensor, read_json

PLAIN: Final = frozenset({"F64", "F32", "F16", "BF16"})
"""Safetensors' names of the dtypes of plain weights, which need no scale."""
CURE: Final = (
    "load the checkpoint that it was quantised from; --quant int8 and --quant nf4 quantise here"
)


@dataclass(frozen=True, slots=True)
class Format:
    """How transformers runs a format: with these modules, installed by `install`; `gpu`: only on a
    GPU; `readable` False: not at all. `title` is the format's usual name.
    """

    title: str
    modules: tuple[str, ...] = ()
    install: str = ""
    gpu: bool = False
    readable: bool = True


FORMATS: Final[Mapping[str, Format]] = {
    "bitsandbytes": Format("bitsandbytes", ("bitsandbytes",), "bitsandbytes"),
    "gptq": Format("GPTQ", ("gptqmodel", "optimum"), "gptqmodel optimum"),
    "awq": Format("AWQ", ("gptqmodel",), "gptqmodel"),
    "compressed-tensors": Format(
        "compressed-tensors", ("compressed_tensors",), "compressed-tensors"
    ),
    "fp8": Format("FP8"),
    "fbgemm_fp8": Format("FBGEMM FP8", ("fbgemm_gpu",), "fbgemm-gpu", gpu=True),
    "mxfp4": Format("MXFP4"),
    "aqlm": Format("AQLM", ("aqlm",), "aqlm[gpu,cpu]"),
    "quanto": Format("Quanto", ("optimum.quanto",), "optimum-quanto"),
    "torchao": Format("torchao", ("torchao",), "torchao"),
    "hqq": Format("HQQ", ("hqq",), "hqq"),
    "eetq": Format("EETQ", ("kernels",), "kernels", gpu=True),
    "bitnet": Format("BitNet"),
    "vptq": Format("VPTQ", ("vptq",), "vptq", gpu=True),
    "spqr": Format("SpQR", ("spqr_quant",), "spqr_quant[gpu]", gpu=True),
    "higgs": Format("HIGGS", ("flute",), "flute-kernel", gpu=True),
    "quark": Format("Quark", ("quark",), "amd-quark"),
    "auto-round": Format("AutoRound", ("auto_round",), "auto-round"),
    "mlx": Format("MLX", readable=False),
    "modelopt": Format("NVIDIA ModelOpt", readable=False),
    "nvfp4": Format("NVFP4", readable=False),
    "exl2": Format("EXL2", readable=False),
    "exl3": Format("EXL3", readable=False),
}
"""By the `quant_method` of config.json (transformers/quantizers/auto.py and each quantizer's
`validate_environment`), and formats that transformers does not know."""


def method(config: Mapping[str, Any], folder: Path) -> str:
    """The method a checkpoint is quantised with, a key of `FORMATS` if known; "" for plain
    weights.
    """
    inner = config.get("text_config")
    for level in (config, inner if isinstance(inner, dict) else {}):
        if isinstance(level.get("quantization_config"), dict):
            return _named(level["quantization_config"])
        if isinstance(level.get("compression_config"), dict):
            return "compressed-tensors"
        if isinstance(level.get("quantization"), dict):
            return "mlx"
    try:
        read_json(folder / "hf_quant_config.json")
    except Broken:
        return ""
    return "modelopt"


def _named(packed: Mapping[str, Any]) -> str:
    stated = packed.get("quant_method")
    if isinstance(stated, str) and stated:
        return stated.lower()[:40]
    if packed.get("load_in_4bit") or packed.get("load_in_8bit"):
        return "bitsandbytes"
    return "mlx" if {"bits", "group_size"} <= packed.keys() else "an unnamed method"


def modules() -> frozenset[str]:
    """Every module that some format needs."""
    return frozenset(module for each in FORMATS.values() for module in each.modules)


def title(quantised: str) -> str:
    """The usual name of a method."""
    return FORMATS[quantised].title if quantised in FORMATS else quantised


def obstacle(quantised: str, config: Mapping[str, Any], tensors: Iterable[Tensor]) -> str:
    """Why a quantised checkpoint cannot be read anywhere; "" if it can."""
    known = FORMATS.get(quantised)
    if known is None or not known.readable:
        return f"is quantised with {title(quantised)}, which cannot be read here"
    if quantised == "bitsandbytes":
        return _unstated(config, [each.name for each in tensors])
    return ""


def _unstated(config: Mapping[str, Any], names: Iterable[str]) -> str:
    """Which quantisation data weights by bitsandbytes lack; "" if they are complete."""
    packed = config.get("quantization_config") or {}
    if packed.get("load_in_8bit"):
        mark = ".SCB"
        right = any(name.endswith(mark) for name in names)
    else:
        mark = ".quant_state.bitsandbytes__"
        right = any(mark in name for name in names)
    bits = 8 if packed.get("load_in_8bit") else 4
    if right:
        return ""
    return f"says it is quantised with bitsandbytes in {bits} bits, but no tensor is a {mark[1:]}"


def undeclared(tensors: Iterable[Tensor]) -> str:
    """The name of a weight that is not a plain number although config.json states no quantisation;
    "" if none.
    """
    for each in tensors:
        if each.name.endswith("weight") and len(each.shape) > 1 and each.dtype not in PLAIN:
            return (
                f"holds {each.name[:80]} as {each.dtype}: it is quantised in a format that its "
                "config.json does not name"
            )
    return ""


def refusal(quantised: str, libraries: Iterable[str], device: str) -> tuple[str, str]:
    """Why a readable format cannot be run on `device` with these `libraries`, and what to do; "" if
    it can.
    """
    known = FORMATS[quantised]
    missing = sorted(set(known.modules) - set(libraries))
    if missing:
        why = f"is quantised with {known.title}, which needs {' and '.join(missing)}"
        return why, f"pip install {known.install}, or {CURE}"
    if known.gpu and device == "cpu":
        return f"is quantised with {known.title}, which needs a GPU", CURE
    return "", ""
