"""Adaptive server optimizers (Reddi et al., ICLR 2021, "Adaptive Federated Optimization", algorithm
2).

With delta_t, the rule's result minus the model as sent, in every coordinate:
  m_t = beta1 m_{t-1} + (1 - beta1) delta_t
  v_t = v_{t-1} + delta_t^2                                                (FedAdagrad)
  v_t = v_{t-1} - (1 - beta2) delta_t^2 sign(v_{t-1} - delta_t^2)          (FedYogi)
  v_t = beta2 v_{t-1} + (1 - beta2) delta_t^2                              (FedAdam)
  x_{t+1} = x_t + eta m_t / (sqrt(v_t) + tau)
from m_{-1} = 0 and v_{-1} = tau^2, without a correction of the bias, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedrobust.aggregation.composition import ServerOptimizer
from fedrobust.utils.validation import Decay, Positive, check_settings, flatten_groups

Second = Callable[[Tensor, Tensor], Tensor]  # (v_{t-1}, delta_t^2) -> v_t


@check_settings("server_optimizer")
@dataclass(frozen=True, slots=True)
class StepSettings:
    """What the three take.

    Attributes:
        learning_rate: eta, about the largest step of a parameter in a round.
        tau: adaptivity: changes much smaller than it move a parameter little.
    """

    learning_rate: Positive = 0.01
    tau: Positive = 1e-3


@check_settings("server_optimizer")
@dataclass(frozen=True, slots=True)
class MomentSettings:
    """How fast FedYogi and FedAdam forget.

    Attributes:
        beta1: share of the last step that is kept.
        beta2: share of the last second moment that is kept.
    """

    beta1: Decay = 0.9
    beta2: Decay = 0.99


@flatten_groups
@check_settings("server_optimizer")
def fedadagrad(*, step: StepSettings, beta1: Decay = 0.0) -> ServerOptimizer:
    """FedAdagrad: the second moment adds all squared changes up.

    Args:
        step: learning_rate and tau.
        beta1: share of the last step that is kept.

    Returns:
        The optimizer. It remembers two vectors of the model's size.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Reddi et al., ICLR 2021, algorithm 2.
    """
    return _optimizer("fedadagrad", lambda second_D, square_D: second_D + square_D, step, beta1)


@flatten_groups
@check_settings("server_optimizer")
def fedyogi(*, step: StepSettings, moments: MomentSettings) -> ServerOptimizer:
    """FedYogi: the second moment moves towards delta^2 by at most (1 - beta2) delta^2.

    Args:
        step: learning_rate and tau.
        moments: beta1 and beta2.

    Returns:
        The optimizer. It remembers two vectors of the model's size.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Reddi et al., ICLR 2021, algorithm 2.
    """

    def second(second_D: Tensor, square_D: Tensor) -> Tensor:
        return second_D - (1 - moments.beta2) * square_D * torch.sign(second_D - square_D)

    return _optimizer("fedyogi", second, step, moments.beta1)


@flatten_groups
@check_settings("server_optimizer")
def fedadam(*, step: StepSettings, moments: MomentSettings) -> ServerOptimizer:
    """FedAdam: the second moment is a moving average of the squared changes.

    Args:
        step: learning_rate and tau.
        moments: beta1 and beta2.

    Returns:
        The optimizer. It remembers two vectors of the model's size.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Reddi et al., ICLR 2021, algorithm 2.
    """

    def second(second_D: Tensor, square_D: Tensor) -> Tensor:
        return moments.beta2 * second_D + (1 - moments.beta2) * square_D

    return _optimizer("fedadam", second, step, moments.beta1)


def _optimizer(name: str, second: Second, settings: StepSettings, beta1: float) -> ServerOptimizer:
    tau = settings.tau

    def step(delta_D: Tensor, memory: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        first_D = memory["first"].to(delta_D) if memory else torch.zeros_like(delta_D)
        second_D = memory["second"].to(delta_D) if memory else torch.full_like(delta_D, tau**2)
        first_D = (beta1 * first_D).add_(delta_D, alpha=1 - beta1)
        second_D = second(second_D, delta_D.square())
        movement_D = second_D.sqrt().add_(tau)
        torch.div(first_D, movement_D, out=movement_D).mul_(settings.learning_rate)
        return movement_D, {"first": first_D, "second": second_D}

    return ServerOptimizer(name, step)
