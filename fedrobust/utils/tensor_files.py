"""safetensors files piece by piece: no second copy of the tensors, equal bytes for equal content,
errors of the disk unchanged, and a seal for checkpoints.

With at most one metadata key the library's `save_file` writes the same bytes. It is not used: it
refuses tensors in channels-last order, orders several metadata keys by chance, does not wait for
the disk, and hides a full disk's number in a text. Reading is left to the library.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fedrobust.errors import DataError
from fedrobust.utils.foreign_text import escape_text

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
# what somebody else's bytes can raise in json, in safetensors and in what reads their values
UNREADABLE = (
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)
MOST_HEADER = 100_000_000  # bytes, as in the library
SEAL = "sha256"  # the last tensor of a sealed file: the SHA-256 of all bytes before it
SEAL_BYTES = 32
BLOCK = 1 << 22  # bytes that are read and hashed at once


def pieces(
    tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None, seal: bool = False
) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, in pieces. notes: metadata. seal: end with a hash of
    everything before, for `read_sealed`.

    Raises TypeError for a dtype that such a file does not know.
    """
    check_tensors(tensors)
    # so that all lie aligned
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    sha = hashlib.sha256()
    for piece in _plain(tensors, ordered, notes or {}, seal):
        sha.update(piece)
        yield piece
    if seal:
        yield sha.digest()


def check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Raises TypeError for a dtype that such a file does not know."""
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name}: is of type {tensor.dtype}")


def _plain(
    tensors: Mapping[str, Tensor], ordered: list[str], notes: Mapping[str, str], seal: bool
) -> Iterator[bytes | memoryview]:
    header: dict[str, object] = {"__metadata__": dict(sorted(notes.items()))} if notes else {}
    end = 0
    for name in ordered:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    if seal:
        header[SEAL] = {
            "dtype": "U8",
            "shape": [SEAL_BYTES],
            "data_offsets": [end, end + SEAL_BYTES],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in ordered:
        yield raw(tensors[name])


def raw(tensor: Tensor) -> memoryview:
    """The tensor's bytes in the order of its indices; without a copy where it lies so on the
    CPU."""
    whole = tensor.detach().cpu()
    # numpy knows no bfloat16
    values: Any = (whole.view(torch.int16) if whole.dtype == torch.bfloat16 else whole).numpy()
    flat: Any = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return memoryview(flat)


def read_sealed(path: Path) -> dict[str, Tensor]:
    """The tensors of a sealed file. Raises DataError, in one line, where it cannot be read, a
    single bit of it has changed, or it holds what `pieces` never writes."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would let the reader wait
            raise DataError(f"{path.name}: no regular file")
        if found.st_size != _declared_size(path):
            raise DataError(f"{path.name}: damaged or cut off, its header and its length differ")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name}: {error.strerror}") from error
    if hashlib.sha256(memoryview(content)[:-SEAL_BYTES]).digest() != content[-SEAL_BYTES:]:
        raise DataError(f"{path.name}: damaged or cut off, its hash differs")
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except (SafetensorError, *UNREADABLE) as error:
        reason = escape_text(f"{type(error).__name__}: {error}")
        raise DataError(f"{path.name}: not a safetensors file ({reason})") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise DataError(f"{path.name}: {escape_text(name)} is of type {tensor.dtype}")
    return {name: tensor for name, tensor in tensors.items() if name != SEAL}


def map_sealed(path: Path) -> dict[str, Tensor]:
    """The same as `read_sealed`, as private memory maps of the file, which processes share until
    they write to them. Raises DataError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path.name}: no regular file")
        size = path.stat().st_size
        if size != _declared_size(path) or size < SEAL_BYTES:
            raise DataError(f"{path.name}: damaged or cut off, its header and its length differ")
        with path.open("rb") as file:
            digest, seal = _hash_first(file, size - SEAL_BYTES), file.read()
        if digest != seal:
            raise DataError(f"{path.name}: damaged or cut off, its hash differs")
        with safetensors.safe_open(path, "pt") as mapped:
            names = set(mapped.keys()) - {SEAL}
            return {name: mapped.get_tensor(name) for name in sorted(names)}
    except (OSError, SafetensorError, *UNREADABLE) as error:
        reason = escape_text(f"{type(error).__name__}: {error}")
        raise DataError(f"{path.name}: cannot be read ({reason})") from error


def _hash_first(file: BinaryIO, count: int) -> bytes:
    """SHA-256 of the next `count` bytes."""
    sha = hashlib.sha256()
    while count > 0 and (piece := file.read(min(count, BLOCK))):
        sha.update(piece)
        count -= len(piece)
    return sha.digest()


def _declared_size(path: Path) -> int:
    """How many bytes the file has by its own header, which alone is read; -1 where that is none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= MOST_HEADER else b""
    try:
        header = json.loads(text)
        ends = [one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"]
        return 8 + length + int(max(ends))
    except UNREADABLE:
        return -1
