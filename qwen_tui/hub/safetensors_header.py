"""Reads safetensors headers and says in words what is wrong with a file.

Law: only headers are read, nothing is executed, and a hostile file raises nothing but `Broken`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MAX_HEADER: Final = 100_000_000
MAX_JSON: Final = 64 << 20
ITEM_BITS: Final[Mapping[str, int]] = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64,
    "F32": 32, "I32": 32, "U32": 32,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Bits per element by safetensors' dtype names."""


class Broken(ValueError):
    """A file is not valid; the message is for a person and does not name the file."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as a safetensors header declares it; `dtype` is safetensors' name, `bytes` its
    size.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        count = 1
        for size in self.shape:
            count *= size
        return count


def size_text(count: int) -> str:
    """Bytes for a person, in decimal units as downloads are given: `15.2 GB`."""
    for unit, power in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= power:
            return f"{count / power:.1f} {unit}"
    return f"{count} bytes"


def look(file: Path) -> None:
    """Raise Broken for a file that is missing, empty, an LFS pointer or a web page."""
    try:
        if not file.exists():
            raise Broken("is a link to nothing" if file.is_symlink() else "is missing")
        if not file.is_file():
            raise Broken("is not a file")
        with file.open("rb") as stream:
            start = stream.read(256)
    except OSError as error:
        raise Broken(f"cannot be read: {error.strerror}") from None
    if not start:
        raise Broken("is empty")
    if start.startswith(b"version https://git-lfs"):
        raise Broken("is a Git LFS pointer, not the file itself (run `git lfs pull` there)")
    opening = start.lstrip().lower()
    if opening.startswith((b"<!doctype", b"<html")):
        raise Broken("is a web page, not the file itself (a failed download)")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from disk; Broken if it is anything else."""
    look(file)
    try:
        if file.stat().st_size > MAX_JSON:
            raise Broken(f"is larger than {MAX_JSON >> 20} MiB")
        value = json.loads(file.read_bytes())
    except OSError as error:
        raise Broken(f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Broken(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Broken("does not hold a JSON object")
    return value


def header(file: Path) -> tuple[Tensor, ...]:
    """The tensors a safetensors file declares, checked against its size; Broken if it is truncated
    or malformed.

    The format: u64 little-endian length, that much JSON, then the data (huggingface/safetensors).
    """
    look(file)
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            opening = stream.read(8)
            length = struct.unpack("<Q", opening)[0] if len(opening) == 8 else 0
            if not 2 <= length <= MAX_HEADER:
                raise Broken("is not a safetensors file (its header's length makes no sense)")
            if 8 + length > size:
                raise Broken(f"is cut off inside its header: {size_text(size)}")
            raw = stream.read(length)
        declared = json.loads(raw)
    except OSError as error:
        raise Broken(f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, Broken):
            raise
        raise Broken("is not a safetensors file (its header is not JSON)") from None
    if not isinstance(declared, dict):
        raise Broken("is not a safetensors file (its header is no object)")
    tensors = []
    end = 0
    for name, entry in declared.items():
        if name != "__metadata__":
            tensor, stop = _tensor(name, entry)
            tensors.append(tensor)
            end = max(end, stop)
    whole = 8 + length + end
    if size < whole:
        raise Broken(f"is cut off: {size_text(size)} of {size_text(whole)}")
    if size > whole:
        raise Broken(f"is longer than it says: {size:,} bytes instead of {whole:,}")
    return tuple(tensors)


def _tensor(name: str, entry: object) -> tuple[Tensor, int]:
    wrong = Broken(f"has a bad entry for tensor {name[:80]!r} in its header")
    if not isinstance(entry, dict):
        raise wrong
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not (isinstance(dtype, str) and _naturals(shape) and _naturals(offsets)):
        raise wrong
    assert isinstance(shape, list)
    assert isinstance(offsets, list)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise wrong
    tensor = Tensor(name, dtype, tuple(shape), offsets[1] - offsets[0])
    bits = ITEM_BITS.get(dtype)
    if bits is not None and (tensor.elements * bits + 7) // 8 != tensor.bytes:
        raise wrong
    return tensor, offsets[1]


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 2**63 for each in value
    )
