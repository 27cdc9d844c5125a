"""A Qwen2 checkpoint as fused layers: quantised once while it is read, kept in a packed file.

Law: at no time is more than one layer's unpacked weights held beside what is packed. The packed
file is written beside its place, synced, then renamed; one that does not check out is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor

from qwen_tui.backends.local.linear import Dense, Kind, Linear, nf4_layout, quantised, rebuilt
from qwen_tui.backends.local.qwen2 import Layer, Qwen2, Shape
from qwen_tui.types import NO_INPUT, Progress, Stage, Trouble

LAYOUT: Final = 1
"""Version of the packed layout; a change makes old files useless, and they are made anew."""
HEADER_ROOM: Final = (1 << 20) - 8
"""Bytes kept free for the header, which is known only when the last tensor is written."""
ALIGN: Final = 64
"""Every tensor starts at a multiple of this: kernels load whole vectors."""
MARGIN: Final = 4096
"""Bytes after the last tensor, for kernels that load past the end of a row."""
SAMPLE: Final = 4096
"""Bytes at both ends of every tensor that its checksum covers."""
DTYPES: Final = {
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
}

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network ready to run; `packed` is the file it is mapped from, `note` what was odd."""

    network: Qwen2
    packed: Path | None
    note: str = ""


def load(
    folder: Path,
    shape: Shape,
    *,
    kind: Kind,
    dtype: torch.dtype,
    device: torch.device,
    cache: Path | None,
    report: Report,
    stopped: Callable[[], bool] = lambda: False,
) -> Loaded:
    """Load the Qwen2 checkpoint in `folder` with linear layers of `kind`, computing in `dtype`.

    A quantised kind on a CPU is read from `cache` when it was packed before, else packed there and
    mapped; `cache` None, or a full disk, keeps it in memory. Raises `Trouble` for missing tensors.
    """
    reader = _Reader(folder, shape)
    if kind == "dense" or device.type != "cpu" or cache is None:
        return Loaded(_assembled(reader, shape, kind, dtype, device, report, stopped), None)
    file = cache / f"{_key(folder, kind, dtype)}.safetensors"
    note = ""
    if file.exists():
        try:
            return Loaded(_mapped(file, shape, dtype, report), file)
        except _Unusable as why:
            note = f"the packed weights in {file.name} were made anew: {why}"
    try:
        _pack(reader, file, shape, kind, dtype, report, stopped)
    except OSError as why:
        note = f"the packed weights could not be kept ({why.strerror}); quantised in memory instead"
        return Loaded(_assembled(reader, shape, kind, dtype, device, report, stopped), None, note)
    return Loaded(_mapped(file, shape, dtype, report), file, note)


# -- reading a published checkpoint ----------------------------------------------------------------


class _Reader:
    """Tensors of a checkpoint by their published names, one at a time."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self._where: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        for file in sorted(folder.glob("*.safetensors")):
            self._open[file] = safe_open(str(file), framework="pt", device="cpu")
            self._where.update(dict.fromkeys(self._open[file].keys(), file))
        missing = [name for name in _names(shape) if name not in self._where]
        if missing:
            shown = ", ".join(missing[:3]) + (
                f" and {len(missing) - 3} more" if missing[3:] else ""
            )
            raise Trouble(
                f"the checkpoint in {folder} lacks {shown}",
                hint="fetch the model again; nothing is ever filled in at random",
                code=NO_INPUT,
            )
        self.total = sum(file.stat().st_size for file in self._open)

    def take(self, name: str) -> Tensor:
        """One tensor, in the dtype it has on disk."""
        tensor: Tensor = self._open[self._where[name]].get_tensor(name)
        return tensor


def _names(shape: Shape) -> Iterator[str]:
    yield "model.embed_tokens.weight"
    yield "model.norm.weight"
    if not shape.tied:
        yield "lm_head.weight"
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        for part in "qkv":
            yield f"{at}self_attn.{part}_proj.weight"
            yield f"{at}self_attn.{part}_proj.bias"
        for part in ("self_attn.o", "mlp.gate", "mlp.up", "mlp.down"):
            yield f"{at}{part}_proj.weight"
        for part in ("input", "post_attention"):
            yield f"{at}{part}_layernorm.weight"


def _fused(reader: _Reader, index: int) -> dict[str, tuple[Tensor, Tensor | None]]:
    """One layer's full-precision weights, fused: name → (weight [N, K], bias [N] or None)."""
    at = f"model.layers.{index}."
    qkv = [f"{at}self_attn.{part}_proj" for part in "qkv"]
    return {
        "qkv": (
            torch.cat([reader.take(f"{name}.weight") for name in qkv]),
            torch.cat([reader.take(f"{name}.bias") for name in qkv]),
        ),
        "out": (reader.take(f"{at}self_attn.o_proj.weight"), None),
        "gate_up": (
            torch.cat([reader.take(f"{at}mlp.{part}_proj.weight") for part in ("gate", "up")]),
            None,
        ),
        "down": (reader.take(f"{at}mlp.down_proj.weight"), None),
    }


def _norms(reader: _Reader, index: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    at = f"model.layers.{index}."
    return (
        reader.take(f"{at}input_layernorm.weight").to(dtype),
        reader.take(f"{at}post_attention_layernorm.weight").to(dtype),
    )


def _head_kind(kind: Kind) -> Kind:
    """The lm_head is a fifth of a 4-bit model's bytes if left alone; int8 costs little quality."""
    return "dense" if kind == "dense" else "int8"


# -- straight into memory --------------------------------------------------------------------------


def _assembled(
    reader: _Reader,
    shape: Shape,
    kind: Kind,
    dtype: torch.dtype,
    device: torch.device,
    report: Report,
    stopped: Callable[[], bool],
) -> Qwen2:
    layers = []
    stage: Stage = "load" if kind == "dense" else "quantise"
    for index in range(shape.layers):
        _check(stopped)
        report(Progress(stage, index * reader.total // (shape.layers + 1), reader.total))
        norm1, norm2 = (norm.to(device) for norm in _norms(reader, index, dtype))
        parts = {
            name: quantised(kind, weight.to(device), _moved(bias, device), dtype)
            for name, (weight, bias) in _fused(reader, index).items()
        }
        layers.append(Layer(norm1=norm1, norm2=norm2, **parts))
    embed = reader.take("model.embed_tokens.weight").to(device=device, dtype=dtype)
    head = _head(reader, shape, kind, dtype, embed)
    norm = reader.take("model.norm.weight").to(device=device, dtype=dtype)
    report(Progress(stage, reader.total, reader.total))
    return Qwen2(shape, embed, layers, norm, head, dtype=dtype)


def _moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def _head(reader: _Reader, shape: Shape, kind: Kind, dtype: torch.dtype, embed: Tensor) -> Linear:
    if shape.tied and kind == "dense":
        return Dense(embed)
    weight = embed if shape.tied else reader.take("lm_head.weight").to(embed.device)
    return quantised(_head_kind(kind), weight, None, dtype)


# -- the packed file -------------------------------------------------------------------------------


class _Unusable(Exception):
    """A packed file that cannot be trusted; the message says why."""


def _key(folder: Path, kind: Kind, dtype: torch.dtype) -> str:
    """Names the packed file: the checkpoint, the layout's version, the instruction set."""
    digest = sampled(folder)
    layout = nf4_layout() if kind == "nf4" else "rows"
    digest.update(f"{LAYOUT}\0{kind}\0{dtype}\0{layout}".encode())
    return f"{folder.name[:40]}-{kind}-{digest.hexdigest()[:24]}"


def sampled(folder: Path) -> Any:
    """A SHA-256 that tells checkpoints apart without reading 15 GB: it covers each file's header,
    size and modification time and 64 KiB at sixteen places.
    """
    digest = hashlib.sha256()
    for file in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        status = file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        with file.open("rb") as stream:
            for place in range(16):
                stream.seek(status.st_size * place // 16)
                digest.update(stream.read(1 << 16))
    return digest


def _pack(
    reader: _Reader,
    file: Path,
    shape: Shape,
    kind: Kind,
    dtype: torch.dtype,
    report: Report,
    stopped: Callable[[], bool],
) -> None:
    """Quantise layer by layer into `file`; it appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            writer = _Writer(stream)
            for index in range(shape.layers):
                report(
                    Progress("quantise", index * reader.total // (shape.layers + 1), reader.total)
                )
                for name, (weight, bias) in _fused(reader, index).items():
                    _check(stopped)
                    writer.linear(f"{index}.{name}", quantised(kind, weight, bias, dtype))
                for name, norm in zip(
                    ("norm1", "norm2"), _norms(reader, index, dtype), strict=True
                ):
                    writer.tensor(f"{index}.{name}", norm)
            embed = reader.take("model.embed_tokens.weight").to(dtype)
            writer.tensor("embed", embed)
            writer.tensor("norm", reader.take("model.norm.weight").to(dtype))
            writer.linear("lm_head", _head(reader, shape, kind, dtype, embed))
            writer.close()
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
        report(Progress("quantise", reader.total, reader.total))
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


class _Writer:
    """A safetensors file written front to back, its header last (padded with spaces)."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._header: dict[str, Any] = {}
        self._sums: dict[str, int] = {}
        self._at = 0
        stream.write(b"\0" * (8 + HEADER_ROOM))

    def linear(self, name: str, layer: Linear) -> None:
        """Every part of a linear layer, as `name.part`."""
        for part, tensor in layer.tensors().items():
            self.tensor(f"{name}.{part}", tensor)

    def tensor(self, name: str, tensor: Tensor) -> None:
        """Append one tensor, at an aligned place."""
        if gap := -self._at % ALIGN:
            self._append(f"gap.{self._at}", torch.zeros(gap, dtype=torch.uint8))
        self._append(name, tensor)

    def _append(self, name: str, tensor: Tensor) -> None:
        data = tensor.contiguous().view(torch.uint8).numpy().reshape(-1)
        self._header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [self._at, self._at + data.nbytes],
        }
        self._sums[name] = _checksum(data)
        self._stream.write(data.data)
        self._at += data.nbytes

    def close(self) -> None:
        """Write the margin, then the header in the room kept for it."""
        self._append("margin", torch.zeros(MARGIN, dtype=torch.uint8))
        metadata = {"sums": json.dumps(self._sums), "format": "pt", "layout": str(LAYOUT)}
        header = json.dumps({"__metadata__": metadata, **self._header}).encode()
        if len(header) > HEADER_ROOM:
            raise OSError(27, "the header outgrew its room")
        self._stream.seek(0)
        self._stream.write(struct.pack("<Q", HEADER_ROOM) + header.ljust(HEADER_ROOM))


def _mapped(file: Path, shape: Shape, dtype: torch.dtype, report: Report) -> Qwen2:
    """The network over a memory map of `file`: pages are read as the first token needs them."""
    parts = _parts(file)
    report(Progress("load", 0, file.stat().st_size))

    def linear(name: str) -> Linear:
        found = {
            key.removeprefix(f"{name}."): part
            for key, part in parts.items()
            if key.startswith(f"{name}.")
        }
        if not found:
            raise _Unusable(f"{name} is missing")
        return rebuilt(found)

    try:
        layers = [
            Layer(
                norm1=parts[f"{index}.norm1"],
                norm2=parts[f"{index}.norm2"],
                qkv=linear(f"{index}.qkv"),
                out=linear(f"{index}.out"),
                gate_up=linear(f"{index}.gate_up"),
                down=linear(f"{index}.down"),
            )
            for index in range(shape.layers)
        ]
        network = Qwen2(
            shape, parts["embed"], layers, parts["norm"], linear("lm_head"), dtype=dtype
        )
    except KeyError as missing:
        raise _Unusable(f"{missing.args[0]} is missing") from None
    report(Progress("load", file.stat().st_size, file.stat().st_size))
    return network


def _parts(file: Path) -> Mapping[str, Tensor]:
    """Tensors of a packed file as views of one private map; raises `_Unusable` if it is damaged."""
    size = file.stat().st_size
    raw = torch.from_file(str(file), shared=False, size=size, dtype=torch.uint8)
    try:
        (length,) = struct.unpack("<Q", bytes(raw[:8].tolist()))
        header = json.loads(bytes(raw[8 : 8 + length].numpy()).decode())
        sums = json.loads(header.pop("__metadata__")["sums"])
    except (struct.error, ValueError, KeyError, UnicodeDecodeError):
        raise _Unusable("its header is damaged") from None
    body = raw[8 + length :]
    kinds = {name: dtype for dtype, name in DTYPES.items()}
    parts = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        if end > body.numel():
            raise _Unusable("it is cut short")
        data = body[start:end]
        if _checksum(data.numpy()) != sums.get(name):
            raise _Unusable(f"the checksum of {name} differs")
        parts[name] = data.view(kinds[entry["dtype"]]).view(entry["shape"])
    return parts


def _checksum(data: Any) -> int:
    """CRC-32 of the first and the last bytes of a flat uint8 array."""
    return zlib.crc32(data[-SAMPLE:].tobytes(), zlib.crc32(data[:SAMPLE].tobytes()))


def _check(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise Trouble("loading was stopped", hint="generate again to load the model")
