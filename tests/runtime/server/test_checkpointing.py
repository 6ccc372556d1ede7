"""A run resumed from a checkpoint equals the uninterrupted run."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedrobust.errors import RunError
from fedrobust.runtime.checkpoints import Checkpoints
from fedrobust.runtime.engines.inline_grid import InlineGrid
from fedrobust.runtime.server.checkpointing import CheckpointManager
from fedrobust.runtime.server.loop import TrainingResult, run_rounds
from fedrobust.runtime.server.rule_strategy import ServerContext
from fedrobust.types import RoundRecord
from fedrobust.utils import files
from tests.helpers import federations
from tests.helpers.federations import MEAN, FakeGrid, Memory, honest

WITH_MEMORY = (
    "rounds=4",
    "server.batchnorm=local",
    "client=global_distillation",
    "+client.lr_plateau.factor=0.5",
    "+client.lr_plateau.patience=0",
)


class StoppedError(Exception):
    """In place of a kill."""


class StopAfter(Memory):
    """An observer that ends the process, so to say, when a round has been recorded and before its
    checkpoint."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def round_finished(self, run: str, record: RoundRecord) -> None:
        super().round_finished(run, record)
        if record.number == self.number:
            raise StoppedError


def inline() -> InlineGrid:
    return InlineGrid("fedrobust.clients.app:app", 3, {"simulation": True}, threads=1)


def checkpoints(server: ServerContext, folder: Path, every: int = 1) -> Checkpoints:
    return Checkpoints(folder, server.layout, "e", every)


def go(
    folder: Path, observer: Memory, *overrides: str, said: list[str] | None = None
) -> TrainingResult:
    """A run in what might be a new process: another server, other clients."""
    server = federations.build_server("strategy=etf_dml", "strategy.distillation=none", *overrides)
    say = [].append if said is None else said.append
    with (
        inline() as grid,
        CheckpointManager(checkpoints(server, folder), grid, say) as checkpointing,
    ):
        return run_rounds(server, grid, observer, checkpointing=checkpointing)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 4])
def test_wherever_it_was_stopped_the_end_is_the_same(tmp_path: Path, stop: int) -> None:
    undisturbed = go(tmp_path / "a", Memory(), *WITH_MEMORY)
    with pytest.raises(StoppedError):
        go(tmp_path / "b", StopAfter(stop), *WITH_MEMORY)
    said: list[str] = []
    again = Memory()
    finished = go(tmp_path / "b", again, *WITH_MEMORY, said=said)
    assert torch.equal(finished.state.parameters, undisturbed.state.parameters)
    assert torch.equal(finished.state.buffers, undisturbed.state.buffers)
    assert [one.metrics for one in finished.records] == [one.metrics for one in undisturbed.records]
    assert [one.clients for one in finished.records] == [one.clients for one in undisturbed.records]
    assert [record.number for _, record in again.records] == ([0] if stop == 1 else []) + list(
        range(stop, 5)
    )
    assert said == ([] if stop == 1 else [f"run: resumes after round {stop - 1}"])
    assert (finished.seconds_before_resume > 0) == (stop > 1)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    server, observer = federations.build_server(*MEAN, "rounds=2"), Memory()
    with CheckpointManager(
        checkpoints(server, tmp_path), FakeGrid(3, honest(server)), print
    ) as checkpointing:
        first = run_rounds(
            server, FakeGrid(3, honest(server)), Memory(), checkpointing=checkpointing
        )
    grid = FakeGrid(3, lambda message: pytest.fail("trained again"))
    with CheckpointManager(checkpoints(server, tmp_path), grid, [].append) as checkpointing:
        again = run_rounds(server, grid, observer, checkpointing=checkpointing)
    assert torch.equal(again.state.parameters, first.state.parameters)
    assert again.records == first.records
    assert observer.events == [("run", "run", 2, 3), ("restored", "run", 3)]


@pytest.mark.slow
@pytest.mark.parametrize("usable", [True, False])
def test_damaged_ones_are_passed_over_and_that_is_said(tmp_path: Path, usable: bool) -> None:
    undisturbed = go(tmp_path / "a", Memory(), "rounds=3")
    with pytest.raises(StoppedError):
        go(tmp_path / "b", StopAfter(3), "rounds=3")
    newest, before = checkpoints(federations.build_server(), tmp_path / "b").files("run")
    newest.write_bytes(newest.read_bytes()[:-1])
    if not usable:
        before.write_bytes(b"")
    said: list[str] = []
    finished = go(tmp_path / "b", Memory(), "rounds=3", said=said)
    assert torch.equal(finished.state.parameters, undisturbed.state.parameters)
    damaged = "checkpoint {}: damaged or cut off, its header and its length differ"
    end = (
        ["run: resumes after round 1"]
        if usable
        else [
            damaged.format(before.name),
            "run: no usable checkpoint is left, it starts over from round 0",
        ]
    )
    assert said == [damaged.format(newest.name), *end]


def test_a_memory_that_the_rule_cannot_use_ends_the_run_in_one_line(tmp_path: Path) -> None:
    """What a rule remembers is known to that rule alone: such a checkpoint is found out in its
    first round."""
    rule = ("strategy=fedavg", "server_optimizer=fedadam", "rounds=2")
    server = federations.build_server(*rule)
    where = checkpoints(server, tmp_path)

    def go_on(observer: Memory) -> None:
        grid = FakeGrid(3, honest(server))
        with CheckpointManager(where, grid, [].append) as checkpointing:
            run_rounds(server, grid, observer, checkpointing=checkpointing)

    with pytest.raises(StoppedError):
        go_on(StopAfter(2))
    found, _ = where.latest("run")
    assert found is not None
    assert found.memory
    wrong = replace(found, memory=dict.fromkeys(found.memory, "x\u2028"))
    where.write("run", 1, where.snapshot(wrong))
    with pytest.raises(RunError, match=r"^round 2, the first after the checkpoint of round 1: "):
        go_on(Memory())


def test_a_disk_that_is_full_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = federations.build_server(*MEAN, "rounds=3")
    grid, plain = FakeGrid(3, honest(server)), files.write

    def full(path: Path, pieces: object) -> Path:
        if path.name == "run-000002.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return plain(path, pieces)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "write", full)
    with (
        pytest.raises(OSError, match="No space left"),
        CheckpointManager(checkpoints(server, tmp_path), grid, print) as checkpointing,
    ):
        run_rounds(server, grid, Memory(), checkpointing=checkpointing)
    assert [path.name for path in tmp_path.iterdir()] == ["run-000001.safetensors"]


def test_a_full_disk_at_the_very_end_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint is written after the run no longer waits for it."""
    server = federations.build_server(*MEAN)
    grid = FakeGrid(3, honest(server))

    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write", full)
    with (
        pytest.raises(OSError, match="No space left"),
        CheckpointManager(checkpoints(server, tmp_path), grid, print) as checkpointing,
    ):
        run_rounds(server, grid, Memory(), checkpointing=checkpointing)


def test_every_0_writes_nothing(tmp_path: Path) -> None:
    server = federations.build_server(*MEAN)
    grid = FakeGrid(3, honest(server))
    with CheckpointManager(
        checkpoints(server, tmp_path / "none", every=0), grid, print
    ) as checkpointing:
        run_rounds(server, grid, Memory(), checkpointing=checkpointing)
    assert not (tmp_path / "none").exists()


def test_checkpoints_of_the_twin_hold_both_runs_memories(tmp_path: Path) -> None:
    """The twin's checkpoints hold what the clients remember of the run as well, which the
    evaluation needs under server.batchnorm=local."""
    server = federations.build_server(*MEAN)
    grid = inline()
    local = federations.build_server("strategy=fedavg", "server.batchnorm=local", "poisoned=1")
    clean = federations.build_server("strategy=fedavg", "server.batchnorm=local", "poisoned=0")
    with grid, CheckpointManager(checkpoints(server, tmp_path), grid, print) as checkpointing:
        run_rounds(local, grid, Memory(), checkpointing=checkpointing)
        run_rounds(clean, grid, Memory(), "clean twin", checkpointing)
        remembered = grid.states
    other = inline()
    with other, CheckpointManager(checkpoints(server, tmp_path), other, [].append) as checkpointing:
        checkpointing.restore("run")
        checkpointing.restore("clean twin")
    assert other.states == remembered
    # memory and BatchNorm statistics, of run and twin
    assert all(len(state) == 4 for state in remembered.values())
