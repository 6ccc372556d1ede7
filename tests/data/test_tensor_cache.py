"""The cache of tensors on disk: one making, damage that is noticed, a bound that holds."""

import os
from pathlib import Path

import pytest
import torch

from fedrobust.data import tensor_cache
from fedrobust.errors import ConfigError

VALUES = {"features": torch.arange(1000.0).reshape(10, 100), "labels": torch.arange(10)}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def make() -> tensor_cache.Tensors:
    return VALUES


def refuse() -> tensor_cache.Tensors:
    raise AssertionError("made twice")


def same(found: tensor_cache.Tensors) -> bool:
    return found.keys() == VALUES.keys() and all(torch.equal(found[k], VALUES[k]) for k in VALUES)


def test_made_once_and_read_again(folder: Path) -> None:
    assert same(tensor_cache.tensors(["a", 1], make))
    assert same(tensor_cache.tensors(["a", 1], refuse))
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"]
    with pytest.raises(AssertionError, match="made twice"):
        tensor_cache.tensors(["a", 2], refuse)


def test_writing_to_a_tensor_never_reaches_the_file() -> None:
    tensor_cache.tensors("x", make)["features"].zero_()
    assert same(tensor_cache.tensors("x", refuse))


@pytest.mark.parametrize("place", [3, 500, -40, -1])
def test_one_altered_byte_is_noticed_and_the_entry_made_again(folder: Path, place: int) -> None:
    tensor_cache.tensors("x", make)
    (path,) = folder.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert same(tensor_cache.tensors("x", make))
    assert same(tensor_cache.tensors("x", refuse))


def test_a_cut_off_or_empty_file_counts_as_none(folder: Path) -> None:
    tensor_cache.tensors("x", make)
    (path,) = folder.glob("*.safetensors")
    for content in (path.read_bytes()[:-5], b"", b"\0" * 8):
        path.write_bytes(content)
        assert same(tensor_cache.tensors("x", make))


def test_the_entries_read_longest_ago_make_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDROBUST_FEATURES_GB", "0.00001")  # two entries of 4 kB
    for age, name in enumerate("abc"):
        tensor_cache.tensors(name, make)
        if name != "c":
            os.utime(tensor_cache.entry_path(name), (1000 + age, 1000 + age))
    tensor_cache.tensors("b", refuse)
    tensor_cache.tensors("c", refuse)
    assert not tensor_cache.entry_path("a").exists()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10_000


def test_what_exceeds_the_bound_stays_in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDROBUST_FEATURES_GB", "0.000001")
    with pytest.warns(UserWarning, match=r"kept in memory only .*FEDROBUST_FEATURES_GB=1e-06"):
        assert same(tensor_cache.tensors("x", make))
    monkeypatch.setenv("FEDROBUST_FEATURES_GB", "0")
    assert same(tensor_cache.tensors("x", make))
    assert not list(folder.glob("*.safetensors"))


def test_a_folder_that_cannot_be_written_to_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="kept in memory only"):
        assert same(tensor_cache.tensors("x", make))


@pytest.mark.parametrize("value", ["much", "-1", "nan", "inf"])
def test_a_bound_that_is_no_number_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDROBUST_FEATURES_GB", value)
    with pytest.raises(ConfigError, match=rf"FEDROBUST_FEATURES_GB={value}: must be a number"):
        tensor_cache.bound()
