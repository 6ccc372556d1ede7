"""Model poisoning by one client alone: scaled, flipped, noisy, absent and unusable updates."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator

from fedrobust.contamination.base import Contamination
from fedrobust.contamination.common import sample_rows
from fedrobust.state import State
from fedrobust.utils.validation import NonNegative, Positive, Share, check_settings


@check_settings("contamination")
def free_rider(*, noise: NonNegative = 0.0) -> Contamination:
    """The reply is the received state, buffers included: a plain free rider.

    In the simulation the client trains nevertheless, and its result is not used.

    Args:
        noise: standard deviation of Gaussian noise on every parameter, by which it may be taken for
            work (the paper's disguised free rider, whose noise is to be as large as what one would
            have learnt); 0: none.

    Returns:
        A contamination of the update.

    Raises:
        ConfigError: the noise is out of its range.

    Reference:
        Fraboni, Vidal, Lorenzi, AISTATS 2021.
    """

    def update(trained: State, reference: State, generator: Generator) -> State:
        if noise == 0:
            return reference
        drawn = torch.randn(
            reference.parameters.shape, generator=generator, device=generator.device
        ).to(reference.parameters)
        return State(drawn.mul_(noise).add_(reference.parameters), reference.buffers)

    return Contamination("free_rider", update=update)


@check_settings("contamination")
def gaussian_update(*, std: NonNegative = 1.0, relative: bool = True) -> Contamination:
    """The reply becomes trained + e with independent Gaussian noise e on all trainable parameters.

    Buffers (BatchNorm statistics) stay as trained.

    Args:
        std: size of the noise; 0: the reply is untouched.
        relative: true: std is the length of the noise relative to that of the update, so that one
            value means the same for any model (every e_d has the standard deviation std * |trained
            - reference| / sqrt(D)); false: std is the standard deviation of every e_d itself.

    Returns:
        A contamination of the update.

    Raises:
        ConfigError: a setting is out of its range.
    """

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


@check_settings("contamination")
def not_finite(*, value: Literal["nan", "inf", "-inf"] = "nan", rate: Share = 1.0) -> Contamination:
    """Some trainable parameters become a value that is not finite. The server refuses such a reply,
    so the client counts as failed, and the run continues only within server.max_failures.

    Args:
        value: what they become, as a word.
        rate: exact share of the parameters.

    Returns:
        A contamination of the update.

    Raises:
        ConfigError: a setting is out of its range.

    Needs:
        server.max_failures of at least the number of poisoned clients
    """
    spoilt = float(value)

    def update(trained: State, reference: State, generator: Generator) -> State:
        places = sample_rows(torch.arange(trained.parameters.numel()), rate, generator)
        if len(places) == 0:
            return trained
        return State(trained.parameters.index_fill(0, places, spoilt), trained.buffers)

    return Contamination("not_finite", update=update)


@check_settings("contamination")
def scaling(*, factor: NonNegative = 10.0) -> Contamination:
    """The reply becomes reference + factor * (trained - reference) in all trainable parameters:
    model replacement with the client's own update, here without a backdoor.

    Buffers (BatchNorm statistics) stay as trained.

    Args:
        factor: length of the update relative to the true one; of N clients with equal weights, N
            replaces the mean by this client's model; 1 is honest.

    Returns:
        A contamination of the update.

    Raises:
        ConfigError: the factor is out of its range.

    Reference:
        Bagdasaryan et al., AISTATS 2020, equation 3.
    """

    def update(trained: State, reference: State, generator: Generator) -> State:
        if factor == 1:
            return trained
        longer = (trained.parameters - reference.parameters).mul_(factor).add_(reference.parameters)
        return State(longer, trained.buffers)

    return Contamination("scaling", update=update)


@check_settings("contamination")
def sign_flip(*, scale: Positive = 1.0) -> Contamination:
    """The reply becomes reference - scale * (trained - reference) in all trainable parameters.

    Buffers (BatchNorm statistics) stay as trained: a running variance pushed backwards may fall
    below 0, which would give the attacker away.

    Args:
        scale: length of the reversed update relative to the true one.

    Returns:
        A contamination of the update.

    Raises:
        ConfigError: the scale is out of its range.
    """

    def update(trained: State, reference: State, generator: Generator) -> State:
        flipped = (
            (trained.parameters - reference.parameters).mul_(-scale).add_(reference.parameters)
        )
        return State(flipped, trained.buffers)

    return Contamination("sign_flip", update=update)
