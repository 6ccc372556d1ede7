"""Number of cells at once, and the cost of one."""

from __future__ import annotations

import pytest
import torch

from fedrobust.studies.comparison import run
from fedrobust.studies.comparison.grid import Grid, cells, read_grid
from fedrobust.studies.comparison.pool import Machine
from fedrobust.studies.comparison.run import machine_for
from fedrobust.studies.comparison.worker import measure_cost

SMALL = ("experiment=smoke", "strategies=[fedavg]", "poisoned=[0]", "seeds=[0]")


def machine(monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int, *words: str) -> Machine:
    monkeypatch.setattr(run, "cores", lambda: cores)
    monkeypatch.setattr(run, "gpus", lambda: gpus)
    grid: Grid = read_grid((*SMALL, *words))
    return machine_for(grid, cells(grid)[0])


@pytest.mark.slow
def test_as_many_as_the_machine_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine(monkeypatch, 16, 0) == Machine(16, 1)
    assert machine(monkeypatch, 16, 0, "threads=5") == Machine(3, 5)
    assert machine(monkeypatch, 2, 0, "threads=5") == Machine(1, 5)
    assert machine(monkeypatch, 16, 0, "parallel=4") == Machine(4, 1)
    assert machine(monkeypatch, 16, 1) == Machine(1, 1)
    assert machine(monkeypatch, 16, 2) == Machine(2, 1, ("0", "1"))
    assert machine(monkeypatch, 16, 2, "device=cpu") == Machine(16, 1)
    # it takes all of them by itself
    assert machine(monkeypatch, 16, 2, "engine=ray") == Machine(1, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert machine(monkeypatch, 16, 2, "parallel=8") == Machine(8, 1, ("3", "5"))


def test_what_a_process_costs() -> None:
    held = torch.ones(1 << 24)  # 64 MB
    found = measure_cost(3.5)
    assert found["seconds"] == 3.5
    assert held.numel() * 4 < found["peak_memory"] < 1e12
    assert (found["peak_gpu_memory"] is None) == (not torch.cuda.is_available())
