"""A Qwen2 checkpoint as fused layers: quantised once while it is read, then kept in a packed file.

Law: at most one layer's unpacked weights are in memory at a time beside the packed ones. A packed
file is written to a temporary name, synced, then renamed; a damaged one is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from qwen_tui import hub, paths
from qwen_tui.backends.local.nn import fbgemm
from qwen_tui.backends.local.nn.linear import Dense, Kind, Linear
from qwen_tui.backends.local.nn.linear_factory import layout, quantised, rebuilt
from qwen_tui.backends.local.nn.qwen2 import DecoderLayer, Qwen2
from qwen_tui.backends.local.planning.machine import Packing
from qwen_tui.backends.local.weights.safetensors_reader import (
    UNTIED,
    CheckpointReader,
    fused,
    norms,
)
from qwen_tui.hub import Shape
from qwen_tui.types import Progress, Stage, Trouble

LAYOUT: Final = 2
"""Version of the packed layout; files of another version are packed again."""
HEADER_ROOM: Final = (1 << 20) - 8
"""Bytes kept free for the header, which is known only when the last tensor is written."""
ALIGN: Final = 64
"""Every tensor starts at a multiple of this: kernels load whole vectors."""
MARGIN: Final = 4096
"""Bytes after the last tensor, for kernels that load past the end of a row."""
LINEARS: Final = ("qkv", "out", "gate_up", "down")
"""A layer's linear layers."""
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
class PackedNetwork:
    """A network ready to run. `packed` is the file it is mapped from; `note` says what went wrong
    with that file, `warnings` what is unusual about the checkpoint.
    """

    network: Qwen2
    packed: Path | None
    note: str = ""
    warnings: tuple[str, ...] = ()


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
    packing: Packing = "",
) -> PackedNetwork:
    """Load the Qwen2 checkpoint in `folder` with linear layers of format `kind`, computing in
    `dtype`.

    On a CPU quantised weights are mapped from a packed file in `cache`, which is written first if
    there is none; with `cache` None, or a full disk, they stay in memory. `packing` "fbgemm" lays
    dense and int8 layers out for FBGEMM at every loading; "kernel" quantises for our own kernel.
    Raises `Trouble` for missing tensors.
    """
    reader = CheckpointReader(folder, shape)
    untied = reader.shape != shape
    loading = _Loading(reader.shape, kind, dtype, device, report, stopped, packing, untied)
    found = _network(folder, reader, loading, cache)
    return replace(found, warnings=(UNTIED,)) if untied else found


def _network(
    folder: Path, reader: CheckpointReader, loading: _Loading, cache: Path | None
) -> PackedNetwork:
    """Read into memory, or mapped from the packed file, which is written if there is none."""
    kind, device = loading.kind, loading.device
    if kind == "dense" or device.type != "cpu" or cache is None:
        return PackedNetwork(_assembled(reader, loading), None)
    file = cache / f"{_key(folder, loading)}.safetensors"
    note = ""
    if file.exists():
        try:
            return PackedNetwork(_mapped(file, loading), file)
        except _Unusable as why:
            note = f"the packed weights in {file.name} were packed again: {why}"
    try:
        _pack(reader, file, loading)
    except OSError as why:
        note = f"the packed weights could not be kept ({why.strerror}); quantised in memory instead"
        return PackedNetwork(_assembled(reader, loading), None, note)
    return PackedNetwork(_mapped(file, loading), file, note)


@dataclass(frozen=True, slots=True)
class _Loading:
    """The options of one loading, its progress report and cancellation."""

    shape: Shape
    kind: Kind
    dtype: torch.dtype
    device: torch.device
    report: Report
    stopped: Callable[[], bool]
    packing: Packing
    untied: bool

    @property
    def head(self) -> Kind:
        """The format of the lm_head: int8 where the layers are quantised, since in 16 bits it would
        be a fifth of a 4-bit model's bytes and int8 costs little quality.
        """
        return "dense" if self.kind == "dense" else "int8"

    def check(self) -> None:
        """Raise Trouble if loading was cancelled."""
        if self.stopped():
            raise Trouble("loading was stopped", hint="generate again to load the model")

    def table(self, embed: Tensor) -> Tensor:
        """The token embedding table in memory; unless it is the head too, in no wider dtype than
        the checkpoint's.
        """
        shared = self.kind == "dense" and not self.packing
        return embed.to(self.dtype) if shared or embed.itemsize > self.dtype.itemsize else embed

    def layer(self, kind: Kind, weight: Tensor, bias: Tensor | None) -> Linear:
        """A linear layer from a full weight [N, K], on the device and in its final layout."""
        if kind == "dense" and self.packing == "fbgemm":
            return self.laid_out(Dense(weight, bias))
        return self.laid_out(
            self.quantised(kind, weight.to(self.device), _moved(bias, self.device))
        )

    def quantised(self, kind: Kind, weight: Tensor, bias: Tensor | None) -> Linear:
        """A linear layer from a full weight [N, K], as a packed file keeps it."""
        return quantised(kind, weight, bias, self.dtype, own=self.packing == "kernel")

    def laid_out(self, layer: Linear) -> Linear:
        """A layer in its final layout."""
        return fbgemm.laid_out(layer) if self.packing == "fbgemm" else layer


def _moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


@contextlib.contextmanager
def _layer_map(loading: _Loading) -> Iterator[Callable[..., Iterator[Linear]]]:
    """A `map` that builds linear layers; FBGEMM packs on one thread, so several layers are packed
    in parallel.
    """
    if loading.packing != "fbgemm":
        yield map
        return
    pool = ThreadPoolExecutor(torch.get_num_threads())
    try:
        with fbgemm.packing():
            yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


# -- straight into memory --------------------------------------------------------------------------


def _assembled(reader: CheckpointReader, loading: _Loading) -> Qwen2:
    shape, dtype, device = loading.shape, loading.dtype, loading.device
    layers = []
    stage: Stage = "load" if loading.kind == "dense" else "quantise"
    with _layer_map(loading) as each:
        for index in range(shape.layers):
            loading.check()
            done = index * reader.total // (shape.layers + 1)
            loading.report(Progress(stage, done, reader.total))
            norm1, norm2 = (norm.to(device) for norm in norms(reader, index, dtype))
            whole = fused(reader, index)
            linears = each(lambda part: loading.layer(loading.kind, *part), whole.values())
            parts = dict(zip(whole, linears, strict=True))
            layers.append(DecoderLayer(norm1=norm1, norm2=norm2, **parts))
        embed = loading.table(reader.take("model.embed_tokens.weight")).to(device)
        (head,) = each(lambda weight: _head(weight, loading), [_head_weight(reader, shape, embed)])
    norm = reader.take("model.norm.weight").to(device=device, dtype=dtype)
    loading.report(Progress(stage, reader.total, reader.total))
    return Qwen2(shape, embed, layers, norm, head, dtype=dtype)


def _head_weight(reader: CheckpointReader, shape: Shape, embed: Tensor) -> Tensor:
    return embed if shape.tied else reader.take("lm_head.weight")


def _head(weight: Tensor, loading: _Loading) -> Linear:
    return loading.layer(loading.head, weight, None)


# -- the packed file -------------------------------------------------------------------------------


class _Unusable(Exception):
    """A packed file that cannot be trusted; the message says why."""


def _key(folder: Path, loading: _Loading) -> str:
    """The name of the packed file: a hash of the checkpoint, the layout's version and the weight
    layout.
    """
    kind, digest = loading.kind, sampled(folder)
    lies = layout(kind, own=loading.packing == "kernel")
    untied = "\0untied" if loading.untied else ""
    digest.update(f"{LAYOUT}\0{kind}\0{loading.dtype}\0{lies}{untied}".encode())
    return f"{folder.name[:40]}-{kind}-{digest.hexdigest()[:24]}"


def sampled(folder: Path) -> Any:
    """A SHA-256 that identifies a checkpoint without reading all 15 GB of it: it covers each file's
    header, size, modification time, and 64 KiB at sixteen places.
    """
    digest = hashlib.sha256()
    names = ["config.json", *hub.weight_files(folder).names]
    for file in [folder / name for name in names]:
        status = file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        with file.open("rb") as stream:
            for place in range(16):
                stream.seek(status.st_size * place // 16)
                digest.update(stream.read(1 << 16))
    return digest


def _pack(reader: CheckpointReader, file: Path, loading: _Loading) -> None:
    """Quantise layer by layer into `file`, which is replaced atomically."""
    shape, dtype = loading.shape, loading.dtype
    paths.ensure_folder(file.parent)
    with paths.replacing(file, mode=0o600, sync=True) as stream:
        writer = _PackedWriter(stream)
        for index in range(shape.layers):
            done = index * reader.total // (shape.layers + 1)
            loading.report(Progress("quantise", done, reader.total))
            for name, (weight, bias) in fused(reader, index).items():
                loading.check()
                writer.linear(f"{index}.{name}", loading.quantised(loading.kind, weight, bias))
            for name, norm in zip(("norm1", "norm2"), norms(reader, index, dtype), strict=True):
                writer.tensor(f"{index}.{name}", norm)
        embed = loading.table(reader.take("model.embed_tokens.weight"))
        writer.tensor("embed", embed)
        writer.tensor("norm", reader.take("model.norm.weight").to(dtype))
        head = loading.quantised(loading.head, _head_weight(reader, shape, embed), None)
        writer.linear("lm_head", head)
        writer.close()
    loading.report(Progress("quantise", reader.total, reader.total))


class _PackedWriter:
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


def _mapped(file: Path, loading: _Loading) -> Qwen2:
    """The network over a memory map of `file`: pages are read when the first token needs them, or
    when the layers are laid out for FBGEMM.
    """
    parts, size = _parts(file), file.stat().st_size
    stage: Stage = "pack" if loading.packing == "fbgemm" else "load"
    loading.report(Progress(stage, 0, size))
    groups: dict[str, dict[str, Tensor]] = {}
    for key, part in parts.items():
        name, _, of = key.rpartition(".")
        groups.setdefault(name, {})[of] = part
    shape = loading.shape
    # The head first: it takes the longest, and something else can be done beside it.
    names = ["lm_head"]
    names += [f"{layer}.{name}" for layer in range(shape.layers) for name in LINEARS]
    linears: dict[str, Linear] = {}
    try:
        stored = [rebuilt(groups[name]) for name in names]
        with _layer_map(loading) as each:
            for name, layer in zip(names, each(loading.laid_out, stored), strict=True):
                loading.check()
                linears[name] = layer
                loading.report(Progress(stage, len(linears) * size // (len(names) + 1), size))
        layers = [
            DecoderLayer(
                norm1=parts[f"{layer}.norm1"],
                norm2=parts[f"{layer}.norm2"],
                **{name: linears[f"{layer}.{name}"] for name in LINEARS},
            )
            for layer in range(shape.layers)
        ]
        embed, norm = parts["embed"], parts["norm"]
    except KeyError as missing:
        raise _Unusable(f"{missing.args[0]} is missing") from None
    except ValueError as wrong:
        raise _Unusable(str(wrong)) from None
    loading.report(Progress(stage, size, size))
    return Qwen2(shape, embed, layers, norm, linears["lm_head"], dtype=loading.dtype)


def _parts(file: Path) -> Mapping[str, Tensor]:
    """The tensors of a packed file as views of one private map; raises `_Unusable` if it is
    damaged.
    """
    size = file.stat().st_size
    raw = torch.from_file(str(file), shared=False, size=size, dtype=torch.uint8)
    dtypes = {name: dtype for dtype, name in DTYPES.items()}
    parts = {}
    try:
        (length,) = struct.unpack("<Q", bytes(raw[:8].tolist()))
        header = json.loads(bytes(raw[8 : 8 + length].numpy()).decode())
        sums = json.loads(header.pop("__metadata__")["sums"])
        body = raw[8 + length :]
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            if end > body.numel():
                raise _Unusable("it is cut short")
            data = body[start:end]
            if _checksum(data.numpy()) != sums.get(name):
                raise _Unusable(f"the checksum of {name} differs")
            parts[name] = data.view(dtypes[entry["dtype"]]).view(entry["shape"])
    except (struct.error, AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        raise _Unusable("its header is damaged") from None
    return parts


def _checksum(data: Any) -> int:
    """CRC-32 of the first and the last bytes of a flat uint8 array."""
    return zlib.crc32(data[-SAMPLE:].tobytes(), zlib.crc32(data[:SAMPLE].tobytes()))
