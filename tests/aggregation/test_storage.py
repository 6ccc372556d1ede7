"""Matrices in RAM and in files."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fedrobust.aggregation.storage import BUDGET, allocate, expect, fetch, fill, is_mapped
from fedrobust.aggregation.updates import Updates
from fedrobust.errors import ConfigError
from tests.helpers.processes import in_new_process


def test_a_matrix_above_the_budget_lies_in_a_file_that_nobody_sees(tmp_path: Path) -> None:
    assert not is_mapped(allocate(3, 4, budget_bytes=48))
    mapped = allocate(3, 4, budget_bytes=47, folder=str(tmp_path))
    assert is_mapped(mapped)
    assert is_mapped(mapped[1, 2:])
    assert (mapped.shape, mapped.dtype) == ((3, 4), torch.float32)
    assert list(tmp_path.iterdir()) == []


def resident() -> dict[str, int]:
    """Megabytes of this process in RAM: anonymous memory, mapped files, files in a memory-backed
    file system."""
    lines = (
        line.split()
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("Rss")
    )
    return {key.rstrip(":"): int(value) // 1024 for key, value, _ in lines}


def work_through(matrix: torch.Tensor, look: Callable[[], None]) -> None:
    """Write rows n, n + 1, n + 2, ... and read them by blocks; every column's mean is known."""
    rows, width = matrix.shape
    columns = torch.arange(width, dtype=torch.float32)
    for n in range(rows):
        fill(matrix[n], partial(torch.add, columns, n))
        look()
    for part, block in Updates.of(matrix).blocks(1 << 16):
        mean = (rows - 1) / 2 + columns[part].double()
        assert torch.equal(block.mean(dim=0, dtype=torch.float64), mean)
        look()
    assert torch.equal(matrix[-1], columns + rows - 1)  # last, since it touches the pages


def peaks_over_a_matrix_in_a_file(folder: str) -> dict[str, int]:
    """Megabytes that 64 rows of 4 MB add at their peak. A small matrix goes before: torch's own
    code is read from its file, too."""
    work_through(allocate(2, 1 << 17, budget_bytes=0, folder=folder), lambda: None)
    matrix = allocate(64, 1 << 20, budget_bytes=0, folder=folder)
    before, peak = resident(), {"RssAnon": 0, "RssFile": 0, "RssShmem": 0}

    def look() -> None:
        peak.update({key: max(peak[key], value - before[key]) for key, value in resident().items()})

    work_through(matrix, look)
    return peak


@pytest.mark.slow
def test_a_matrix_in_a_file_is_filled_and_read_without_its_pages_in_memory(tmp_path: Path) -> None:
    peak = in_new_process(peaks_over_a_matrix_in_a_file, str(tmp_path))
    assert peak["RssAnon"] < 80  # a float64 copy of a block is 32 MB
    assert peak["RssFile"] + peak["RssShmem"] < 80  # of 256


@pytest.mark.parametrize("on_disk", [False, True])
def test_parts_of_rows_are_filled_and_fetched(on_disk: bool, tmp_path: Path) -> None:
    """Indexing the matrix gives what was written through the file, and the other way
    round."""
    matrix = allocate(3, 1000, 0 if on_disk else BUDGET, str(tmp_path)).zero_()
    fill(matrix[1, 10:20], partial(fetch, torch.arange(10.0)))
    fill(matrix[2], partial(fetch, matrix[1]))
    fill(matrix[0, 5:5], partial(fetch, torch.zeros(0)))
    assert matrix.sum(1).tolist() == [0.0, 45.0, 45.0]
    matrix[0, 3] = 7.0
    expect(matrix[0])
    assert fetch(matrix[0, 2:5], torch.empty(3)).tolist() == [0.0, 7.0, 0.0]
    columns = matrix[:, 12]  # not in one piece
    fill(columns, partial(fetch, torch.tensor([1.0, 2.0, 3.0])))
    assert fetch(columns, torch.empty(3)).tolist() == [1.0, 2.0, 3.0]


def test_the_file_is_closed_with_the_last_tensor(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    matrix = allocate(2, 1000, 0, str(tmp_path))
    row = matrix[1]
    del matrix
    assert is_mapped(row)
    assert len(list(Path("/proc/self/fd").iterdir())) > before
    del row
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_no_room_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"^server\.scratch_dir=/no/such: .* 4 MB.* server\.max_updates_mb=2 "
    ):
        allocate(1, 1 << 20, budget_bytes=2 << 20, folder="/no/such")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 << 20))
    with pytest.raises(ConfigError, match=r"has only 3 MB free"):
        allocate(1, 1 << 20, budget_bytes=0, folder=str(tmp_path))
