"""Model poisoning: a client sends the opposite of what it learnt."""

from __future__ import annotations

from torch import Generator

from fedrobust.checks import number
from fedrobust.types import Contamination, State


def sign_flip(*, scale: float = 1.0) -> Contamination:
    """The reply becomes reference - scale * (trained - reference) in all trainable parameters.

    scale > 0: length of the false update relative to the true one. Buffers (BatchNorm statistics) stay as trained: a
    running variance pushed backwards may fall below 0, which would give the attacker away.
    """
    number("contamination.scale", scale, low=0, open_low=True)

    def update(trained: State, reference: State, generator: Generator) -> State:
        flipped = (trained.parameters - reference.parameters).mul_(-scale).add_(reference.parameters)
        return State(flipped, trained.buffers)

    return Contamination("sign_flip", update=update)
