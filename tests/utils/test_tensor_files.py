"""safetensors files of our own making, read by the library."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load

from fedrobust.errors import DataError
from fedrobust.utils import files, tensor_files

EVERY = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in tensor_files.DTYPES}


def content(tensors: dict[str, torch.Tensor], seal: bool = False) -> bytes:
    return b"".join(tensor_files.pieces(tensors, {"b": "ü", "a": "1"}, seal))


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(
        one[name].dtype == two[name].dtype and torch.equal(one[name], two[name]) for name in one
    )


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    tensors = {
        **EVERY,
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "turned": torch.arange(24.0).reshape(1, 2, 3, 4).permute(0, 3, 1, 2),
    }
    path = files.write(tmp_path / "file", [content(tensors)])
    assert equal(load(path.read_bytes()), tensors)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"a": "1", "b": "ü"}


def test_equal_content_is_equal_bytes() -> None:
    assert content(EVERY) == content(dict(reversed(EVERY.items())))


def test_the_seal_is_the_hash_of_all_before_it(tmp_path: Path) -> None:
    whole = content(EVERY, seal=True)
    assert whole[-32:] == hashlib.sha256(whole[:-32]).digest()
    assert equal(tensor_files.read_sealed(files.write(tmp_path / "file", [whole])), EVERY)


def test_a_dtype_without_a_name_is_refused() -> None:
    with pytest.raises(TypeError, match=r"x: is of type torch\.complex64"):
        content({"x": torch.zeros(2, dtype=torch.complex64)})


@given(st.data())
@settings(max_examples=40)
def test_any_damage_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = content(EVERY, seal=True)
    place = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "lose", "insert", "zeros"]))
    damaged = {
        "flip": whole[:place]
        + bytes([whole[place] ^ (1 << data.draw(st.integers(0, 7)))])
        + whole[place + 1 :],
        "cut": whole[:place],
        "lose": whole[:place] + whole[place + 1 :],
        "insert": whole[:place] + data.draw(st.binary(min_size=1, max_size=3)) + whole[place:],
        "zeros": whole[:place] + bytes(len(whole) - place),  # blocks that a power cut left empty
    }[kind]
    path = files.write(tmp_path_factory.getbasetemp() / "damaged", [damaged])
    with pytest.raises(DataError, match="damaged: damaged or cut off") as error:
        tensor_files.read_sealed(path)
    assert "\n" not in str(error.value)


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: No such file"):
        tensor_files.read_sealed(tmp_path / "gone")
    text = b"hello"
    path = files.write(tmp_path / "text", [text + hashlib.sha256(text).digest()])
    with pytest.raises(
        DataError, match="text: damaged or cut off, its header and its length differ"
    ):
        tensor_files.read_sealed(path)
