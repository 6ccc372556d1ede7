"""The model of the best round of a run, kept beside that of the last one."""

from __future__ import annotations

from collections.abc import Sequence

from fedrobust.errors import RunError
from fedrobust.runtime.checkpoints import Checkpoint
from fedrobust.runtime.server.stopping import find_best
from fedrobust.state import State
from fedrobust.types import RoundRecord


class BestModel:
    """Keeps the state of the round with the best value.

    Args:
        metric: of the validation images; None: nothing is kept.
        begun: the checkpoint with which the run goes on; None: it starts.

    Attributes:
        state: of the best round so far; None: there is none yet.
        earlier: the same, for a checkpoint, which holds the state of its own round anyway: None
            where that is the best.
    """

    def __init__(self, metric: str | None, begun: Checkpoint | None = None) -> None:
        self._metric = metric
        self.state: State | None = None
        self.earlier: State | None = None
        best = None if begun is None or metric is None else find_best(begun.records(), metric)
        if begun is not None and best is not None:
            self.earlier = None if best.number == begun.round else begun.best
            self.state = _copy(begun.state) if best.number == begun.round else begun.best
            if self.state is None:
                raise RunError(
                    f"checkpoint of round {begun.round}: lacks the model of round {best.number}, "
                    "the best one; take that file out of the folder checkpoints"
                )

    def consider(self, records: Sequence[RoundRecord], state: State) -> None:
        """Keep a copy of this state, of the last of these rounds, if that is the best."""
        best = None if self._metric is None else find_best(records, self._metric)
        if best is not None and best.number == records[-1].number:
            self.state, self.earlier = _copy(state), None
        else:
            self.earlier = self.state


def _copy(state: State) -> State:
    return State(state.parameters.clone(), state.buffers.clone())
