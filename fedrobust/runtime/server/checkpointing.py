"""Checkpoints of a run on a Grid of ours: what is kept after a round, and how a resumed run gets it
back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self, final

import torch

from fedrobust.runtime.checkpoints import Checkpoint, Checkpoints, record_text
from fedrobust.runtime.engines.base import SimulationGrid
from fedrobust.runtime.engines.site_grid import FederationGrid
from fedrobust.runtime.messages.client_state import from_plain, to_plain
from fedrobust.runtime.server.rule_strategy import RuleStrategy
from fedrobust.state import State
from fedrobust.types import RoundRecord


@final
class CheckpointManager:
    """Keeps a run and its clean twin in `checkpoints`, whose files are written during the next
    round. Use it with `with`.

    grid: holds what the clients remember. say: puts a line on the screen. exact: the checkpoints
    were written under the conditions of now, so that a run resumed from them is what it would have
    been. A file that cannot be written raises its OSError at the next checkpoint, or at the end.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        grid: SimulationGrid | FederationGrid,
        say: Callable[[str], None],
        exact: bool = True,
    ) -> None:
        self.exact = exact
        self._checkpoints, self._grid, self._say = checkpoints, grid, say
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._pending: Future[Path] | None = None
        # for a copy of the global model while it is written; fresh memory is expensive
        self._buffer: State | None = None
        self._history: dict[str, list[str]] = {}  # of each run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._writer.shutdown()  # waits
        if kind is None:
            self._finish()

    def restore(self, run: str, last: int | None = None) -> Checkpoint | None:
        """The newest usable checkpoint of this run, after giving the clients back what they
        remembered then; None: from the start.

        Args:
            run: "run" or "clean twin".
            last: the run's last round; None: unknown.
        """

        def take(found: Checkpoint) -> None:
            if last is not None and found.round > last:
                raise ValueError(f"after round {found.round} of {last}")
            self._grid.restore(from_plain(found.clients))

        found, problems = self._checkpoints.latest(run, take)
        for problem in problems:
            self._say(f"checkpoint {problem}")
        if found is None:
            if problems:
                self._say(f"{run}: no usable checkpoint is left, it starts over from round 0")
            return None
        self._history[run] = list(found.history)
        self._say(f"{run}: resumes after round {found.round}")
        return found

    def save(
        self,
        run: str,
        strategy: RuleStrategy,
        records: Sequence[RoundRecord],
        last: int,
        best: State | None = None,
    ) -> None:
        """A checkpoint after the last of these rounds, where one is due of a run of `last` rounds.
        best: the model of the best round, where that is wanted and not this one."""
        number = records[-1].number
        if self._checkpoints.due(number, last):
            # a disk slower than the rounds slows them down: never do two copies of the model wait
            self._finish()
            history = self._history.setdefault(run, [])
            history += [record_text(record) for record in records[len(history) :]]
            clients = to_plain(self._grid.states)
            state = self._copy(strategy.state)
            now = Checkpoint(run, number, state, strategy.memory, clients, tuple(history), best)
            self._pending = self._writer.submit(
                self._checkpoints.write, run, number, self._checkpoints.snapshot(now)
            )

    def _copy(self, state: State) -> State:
        if self._buffer is None:
            self._buffer = State(
                torch.empty_like(state.parameters), torch.empty_like(state.buffers)
            )
        self._buffer.parameters.copy_(state.parameters)
        self._buffer.buffers.copy_(state.buffers)
        return self._buffer

    def _finish(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None
