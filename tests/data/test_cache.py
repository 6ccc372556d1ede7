"""The cache on disk: one making, whole entries only, harmless writes."""

import errno
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedrobust.data import cache
from fedrobust.errors import ConfigError, DataError
from tests.helpers.processes import PATIENCE_SECONDS

SHAPE = (4, 3, 2, 2)
BROKEN = {2: "it is no JPEG"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(out: NDArray[np.uint8]) -> dict[int, str]:
    out[:] = np.arange(out.size, dtype=np.uint8).reshape(out.shape)
    return BROKEN


def refuse(out: NDArray[np.uint8]) -> dict[int, str]:
    raise AssertionError("made twice")


def test_made_once_and_read_again(folder: Path) -> None:
    first, unreadable = cache.images(["a", 1], SHAPE, fill)
    again, same = cache.images(["a", 1], SHAPE, refuse)
    assert torch.equal(first, torch.arange(48, dtype=torch.uint8).reshape(SHAPE))
    assert torch.equal(first, again)
    assert unreadable == same == BROKEN
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("content", "shape"), [(["a", 2], SHAPE), (["b", 1], SHAPE), (["a", 1], (4, 3, 2, 1))]
)
def test_another_content_or_shape_is_another_entry(
    folder: Path, content: object, shape: tuple[int, int, int, int]
) -> None:
    cache.images(["a", 1], SHAPE, fill)
    cache.images(content, shape, fill)
    assert len(list(folder.iterdir())) == 2


def test_writing_to_the_tensor_never_reaches_the_file(folder: Path) -> None:
    first, _ = cache.images("x", SHAPE, fill)
    first.zero_()
    assert cache.images("x", SHAPE, refuse)[0].sum() > 0


def test_a_failed_making_leaves_nothing(folder: Path) -> None:
    def fail(out: NDArray[np.uint8]) -> dict[int, str]:
        raise DataError("broken.png: cannot be read")

    with pytest.raises(DataError, match="broken"):
        cache.images("x", SHAPE, fail)
    assert list(folder.iterdir()) == []
    assert cache.images("x", SHAPE, fill)[1] == BROKEN


def test_the_slower_of_two_takes_the_entry_of_the_faster(folder: Path) -> None:
    def overtaken(out: NDArray[np.uint8]) -> dict[int, str]:
        cache.images("x", SHAPE, fill)  # another process finishes meanwhile
        out[:] = 255
        return {}

    images, unreadable = cache.images("x", SHAPE, overtaken)
    assert unreadable == BROKEN
    assert images.reshape(-1)[5] == 5
    assert len(list(folder.iterdir())) == 1


def _race(ready: Any, start: Any) -> int:
    ready.set()
    assert start.wait(PATIENCE_SECONDS)
    return int(cache.images("race", (64, 3, 32, 32), fill)[0].sum())


def _other(ready: Any, start: Any, answers: Any) -> None:
    answers.put(_race(ready, start))


@pytest.mark.slow
def test_two_processes_at_once(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, start, answers = context.Event(), context.Event(), context.Queue()
    other = context.Process(target=_other, args=(ready, start, answers))
    other.start()
    assert ready.wait(PATIENCE_SECONDS)
    start.set()
    mine = _race(ready, start)
    assert answers.get(timeout=PATIENCE_SECONDS) == mine > 0
    other.join(timeout=PATIENCE_SECONDS)
    assert other.exitcode == 0
    assert len(list(folder.iterdir())) == 1


def swap_a_pixel(entry: Path) -> None:
    content = bytearray((entry / "images.npy").read_bytes())
    content[-1] ^= 1
    (entry / "images.npy").write_bytes(content)


def rename_the_broken_row(entry: Path) -> None:
    facts = entry / "entry.json"
    facts.write_text(facts.read_text().replace('"2"', '"3"'))


@pytest.mark.parametrize(
    "damage",
    [
        swap_a_pixel,
        rename_the_broken_row,
        lambda entry: (entry / "images.npy").write_bytes(b"\x93NUMPY rubbish"),
        lambda entry: (entry / "images.npy").unlink(),
        lambda entry: (entry / "entry.json").write_text("[]"),
        lambda entry: (entry / "entry.json").write_text("{}"),
    ],
    ids=["pixel", "row", "rubbish", "absent", "list", "empty"],
)
def test_an_altered_entry_is_named(folder: Path, damage: Callable[[Path], object]) -> None:
    cache.images("x", SHAPE, fill)
    entry = next(folder.iterdir())
    damage(entry)
    with pytest.raises(DataError, match=f"{entry.name}: damaged cache entry .*delete this folder"):
        cache.images("x", SHAPE, refuse)


def test_a_full_disk_is_said_before_anything_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=47))
    with pytest.raises(ConfigError, match=r"FEDROBUST_CACHE=.*: no room for 0\.0 GB .*data\.size"):
        cache.images("x", SHAPE, refuse)
    assert list(folder.iterdir()) == []


def test_a_disk_that_fills_up_is_said(folder: Path) -> None:
    def fail(out: NDArray[np.uint8]) -> dict[int, str]:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ConfigError, match="no room for"):
        cache.images("x", SHAPE, fail)


def test_an_unusable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"FEDROBUST_CACHE=.*name a writable folder"):
        cache.images("x", SHAPE, fill)


def test_without_the_variable_it_lies_at_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FEDROBUST_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "fedrobust"
