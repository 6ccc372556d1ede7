"""Model poisoning, or a broken connection: noise on what a client sends."""

from __future__ import annotations

import torch
from torch import Generator

from fedrobust.checks import flag, number
from fedrobust.types import Contamination, State


def gaussian_update(*, std: float = 1.0, relative: bool = True) -> Contamination:
    """The reply becomes trained + e with independent Gaussian noise e on all trainable parameters.

    relative (default): `std` is the length of the noise relative to the length of the update, so that one value means the
    same for any model: every e_d has the standard deviation std * |trained - reference| / sqrt(D). Otherwise `std` is the
    standard deviation of every e_d itself. Buffers (BatchNorm statistics) stay as trained. std 0: the reply is untouched.
    """
    number("contamination.std", std, low=0)
    flag("contamination.relative", relative)

    def update(trained: State, reference: State, generator: Generator) -> State:
        if std == 0:
            return trained
        spread = std
        if relative:
            change = torch.linalg.vector_norm(trained.parameters - reference.parameters, dtype=torch.float64)
            spread = std * float(change) / max(1, trained.parameters.numel()) ** 0.5
        noise = torch.randn(trained.parameters.shape, generator=generator, device=generator.device).to(trained.parameters)
        return State(noise.mul_(spread).add_(trained.parameters), trained.buffers)

    return Contamination("gaussian_update", update=update)
