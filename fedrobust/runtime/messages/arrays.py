"""Tensors in Flower's ArrayRecord without the detour over bytes, and the distrustful way back."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from fedrobust.utils.foreign_text import escape_text

NUMPY = "numpy.ndarray"  # Flower's name for the only serialisation it knows
DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype("<f4"),
    torch.int64: np.dtype("<i8"),
}

MAGIC = b"\x93NUMPY\x01\x00"
MOST_AXES = 8
MOST_VALUES = 1 << 48
# of a parameter: the squares of 10^8 such values still sum to a float32
LARGEST = 1e15


class WireError(ValueError):
    """A message that cannot be used: one line of printable characters that says what is wrong with
    it, for any message."""

    def __init__(self, text: str) -> None:
        super().__init__(escape_text(text))


@final
class FlatArray(Array):  # type: ignore[misc]  # flwr is untyped here
    """A numpy array that is a Flower Array, but whose npy bytes are made only when Flower asks for
    them (in a deployment).

    In one process it is passed without a copy; between processes pickle hands its memory over out
    of band, so Ray stores it once and every reader sees the same memory. `vector` is read-only.
    fault: that of these very values, where it is known (processes of one simulation only).
    """

    def __init__(self, values: np.ndarray[Any, Any], fault: str | None = None) -> None:
        # reshape: ascontiguousarray makes 0-d arrays 1-d; and it gives a view of its own to be made
        # read-only
        self.vector = np.ascontiguousarray(values).reshape(values.shape)
        self.vector.flags.writeable = False
        self.dtype, self.shape, self.stype = str(values.dtype), values.shape, NUMPY
        if fault is not None:
            self.__dict__["fault"] = fault

    @cached_property
    def plain(self) -> Any:
        """Flower's own serialised form."""
        return Array(self.vector)

    @cached_property
    def fault(self) -> str:
        """`find_fault` of the values; looked up once for all messages that share the array, and
        known to every process that gets it afterwards."""
        return find_fault(_tensor(self.vector))

    @property
    def data(self) -> Any:
        return self.plain.data

    def numpy(self) -> Any:
        return self.vector.copy()

    # Flower writes the class name of what it serialises into the bytes, so that has to be its own
    # class.
    def slice_array(self) -> Any:
        return self.plain.slice_array()

    def deflate(self) -> Any:
        return self.plain.deflate()

    def __reduce__(self) -> tuple[Any, ...]:
        return FlatArray, (self.vector, self.__dict__.get("fault"))


def find_fault(values: Tensor) -> str:
    """What is wrong with numbers that shall be computed with: "values that are not finite", "values
    beyond 1e+15", or "" where nothing is."""
    if values.numel() == 0:
        return ""
    low, high = (float(end) for end in torch.aminmax(values))  # a NaN anywhere is both
    if not (math.isfinite(low) and math.isfinite(high)):
        return "values that are not finite"
    return "" if low >= -LARGEST and high <= LARGEST else f"values beyond {LARGEST:g}"


def pack(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Float32 or int64 tensors as one ArrayRecord that shares their memory (if they are contiguous
    and on the CPU)."""
    record = ArrayRecord()
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise WireError(
                f"{name}: tensors of type {tensor.dtype} do not travel, only float32 and int64"
            )
        record[name] = FlatArray(tensor.detach().cpu().numpy())
    return record


def unpack(
    record: ArrayRecord, name: str, dtype: torch.dtype, shape: tuple[int, ...] | None = None
) -> Tensor:
    """The tensor `name` of a record, with no copy: never change it in place. Its shape is as
    claimed where `shape` is None.

    Raises WireError where type, shape, serialisation or size differ from what is expected, or from
    what the record claims.
    """
    array, expected = record[name], DTYPES[dtype]
    if (array.stype, array.dtype) != (NUMPY, expected.name):
        raise WireError(
            f"{name}: expected {expected.name} as {NUMPY}, got {array.dtype} as {array.stype}"
        )
    claimed = _claimed(name, array.shape)
    if shape is not None and claimed != shape:
        raise WireError(f"{name}: expected the shape {shape}, got {claimed}")
    values = (
        array.vector
        if isinstance(array, FlatArray)
        else _from_npy(name, array.data, expected, claimed)
    )
    if values.dtype != expected or values.shape != claimed:
        raise WireError(f"{name}: holds {values.dtype} {values.shape} instead of what it claims")
    return _tensor(values)


def unpack_any(record: ArrayRecord, name: str) -> Tensor:
    """The same for a tensor of either type and any shape."""
    return unpack(record, name, torch.int64 if record[name].dtype == "int64" else torch.float32)


def _claimed(name: str, shape: Any) -> tuple[int, ...]:
    """The shape that an array claims to have, before anything is computed with it."""
    axes = tuple(shape)
    sizes = len(axes) <= MOST_AXES and all(type(size) is int and size >= 0 for size in axes)
    if sizes and math.prod(size or 1 for size in axes) <= MOST_VALUES:
        return axes
    raise WireError(f"{name}: claims the shape of no array")


def _from_npy(
    name: str, data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """The array inside npy bytes (format 1.0). The header is never parsed: it must be the text that
    numpy writes for this array."""
    start = len(MAGIC) + 2
    offset = start + int.from_bytes(data[len(MAGIC) : start], "little")
    expected = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
    size = dtype.itemsize * math.prod(shape)
    if (
        not data.startswith(MAGIC)
        or data[start:offset].rstrip() != expected.encode()
        or len(data) != offset + size
        or offset % dtype.itemsize
    ):
        raise WireError(f"{name}: not the npy payload of {dtype.name} {shape} in {size} bytes")
    return np.frombuffer(data, dtype, offset=offset).reshape(shape)


def _tensor(values: np.ndarray[Any, Any]) -> Tensor:
    with warnings.catch_warnings():
        # torch knows no read-only tensors; by convention of this project they are never written to.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(values)
