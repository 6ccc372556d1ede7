"""Model poisoning by one client alone: scaled, flipped, noisy, absent and unusable updates."""

from __future__ import annotations

import torch
from torch import Generator

from fedrobust.contamination.base import Contamination
from fedrobust.contamination.common import sample_rows
from fedrobust.state import State
from fedrobust.utils.validation import choice, flag, number


def free_rider(*, noise: float = 0.0) -> Contamination:
    """The reply is the received state, buffers included: a plain free rider (Fraboni, Vidal &
    Lorenzi, AISTATS 2021).

    noise: standard deviation of Gaussian noise on every parameter, by which it may be taken for
    work (their disguised free rider, whose noise is to be as large as what one would have learnt);
    0: none. In the simulation the client trains all the same, and nobody sees what it learnt.
    """
    number("contamination.noise", noise, low=0)

    def update(trained: State, reference: State, generator: Generator) -> State:
        if noise == 0:
            return reference
        drawn = torch.randn(
            reference.parameters.shape, generator=generator, device=generator.device
        ).to(reference.parameters)
        return State(drawn.mul_(noise).add_(reference.parameters), reference.buffers)

    return Contamination("free_rider", update=update)


def gaussian_update(*, std: float = 1.0, relative: bool = True) -> Contamination:
    """The reply becomes trained + e with independent Gaussian noise e on all trainable parameters.

    relative (default): `std` is the length of the noise relative to the length of the update, so
    that one value means the same for any model: every e_d has the standard deviation std * |trained
    - reference| / sqrt(D). Otherwise `std` is the standard deviation of every e_d itself. Buffers
    (BatchNorm statistics) stay as trained. std 0: the reply is untouched.
    """
    number("contamination.std", std, low=0)
    flag("contamination.relative", relative)

    def update(trained: State, reference: State, generator: Generator) -> State:
        if std == 0:
            return trained
        spread = std
        if relative:
            change = torch.linalg.vector_norm(
                trained.parameters - reference.parameters, dtype=torch.float64
            )
            spread = std * float(change) / max(1, trained.parameters.numel()) ** 0.5
        noise = torch.randn(
            trained.parameters.shape, generator=generator, device=generator.device
        ).to(trained.parameters)
        return State(noise.mul_(spread).add_(trained.parameters), trained.buffers)

    return Contamination("gaussian_update", update=update)


VALUES = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


def not_finite(*, value: str = "nan", rate: float = 1.0) -> Contamination:
    """An exact share of all trainable parameters becomes `value`.

    value: "nan", "inf" or "-inf". rate: share in [0, 1]. The adapter refuses such a reply, so the
    client counts as failed, and the run goes on only within server.max_failures.
    """
    spoilt = VALUES[choice("contamination.value", value, tuple(VALUES))]
    number("contamination.rate", rate, low=0, high=1)

    def update(trained: State, reference: State, generator: Generator) -> State:
        places = sample_rows(torch.arange(trained.parameters.numel()), rate, generator)
        if len(places) == 0:
            return trained
        return State(trained.parameters.index_fill(0, places, spoilt), trained.buffers)

    return Contamination("not_finite", update=update)


def scaling(*, factor: float = 10.0) -> Contamination:
    """The reply becomes reference + factor * (trained - reference) in all trainable parameters:
    model replacement (Bagdasaryan et al., AISTATS 2020, equation 3) of whatever the client has
    learnt, here without a backdoor.

    factor >= 0: of N clients with equal weights, N replaces the mean by this client's model; 1 is
    honest. Buffers (BatchNorm statistics) stay as trained.
    """
    number("contamination.factor", factor, low=0)

    def update(trained: State, reference: State, generator: Generator) -> State:
        if factor == 1:
            return trained
        longer = (trained.parameters - reference.parameters).mul_(factor).add_(reference.parameters)
        return State(longer, trained.buffers)

    return Contamination("scaling", update=update)


def sign_flip(*, scale: float = 1.0) -> Contamination:
    """The reply becomes reference - scale * (trained - reference) in all trainable parameters.

    scale > 0: length of the false update relative to the true one. Buffers (BatchNorm statistics)
    stay as trained: a running variance pushed backwards may fall below 0, which would give the
    attacker away.
    """
    number("contamination.scale", scale, low=0, open_low=True)

    def update(trained: State, reference: State, generator: Generator) -> State:
        flipped = (
            (trained.parameters - reference.parameters).mul_(-scale).add_(reference.parameters)
        )
        return State(flipped, trained.buffers)

    return Contamination("sign_flip", update=update)
