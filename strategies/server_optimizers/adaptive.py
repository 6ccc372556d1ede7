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
from typing import Any

import torch
from fedrobust.strategies.server_optimizers.momentum import check_decay
from torch import Tensor

from fedrobust.aggregation.composition import ServerOptimizer
from fedrobust.utils import validation

Second = Callable[[Tensor, Tensor], Tensor]  # (v_{t-1}, delta_t^2) -> v_t


def fedadagrad(
    learning_rate: float = 0.01, beta1: float = 0.0, tau: float = 1e-3
) -> ServerOptimizer:
    """FedAdagrad. learning_rate: eta, about the largest step of a coordinate. tau: adaptivity;
    updates much smaller than it move the model little."""
    return _optimizer(
        "fedadagrad", lambda second_D, square_D: second_D + square_D, learning_rate, beta1, tau
    )


def fedyogi(
    learning_rate: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> ServerOptimizer:
    """FedYogi: the second moment moves towards delta^2 by at most (1 - beta2) delta^2. Settings as
    in FedAdam."""
    check_decay("beta2", beta2)

    def second(second_D: Tensor, square_D: Tensor) -> Tensor:
        return second_D - (1 - beta2) * square_D * torch.sign(second_D - square_D)

    return _optimizer("fedyogi", second, learning_rate, beta1, tau)


def fedadam(
    learning_rate: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> ServerOptimizer:
    """FedAdam. learning_rate: eta, about the largest step of a coordinate. beta1, beta2: shares of
    the past in [0, 1). tau: adaptivity; updates much smaller than it move the model little."""
    check_decay("beta2", beta2)
    return _optimizer(
        "fedadam",
        lambda second_D, square_D: beta2 * second_D + (1 - beta2) * square_D,
        learning_rate,
        beta1,
        tau,
    )


def _optimizer(
    name: str, second: Second, learning_rate: float, beta1: float, tau: float
) -> ServerOptimizer:
    validation.number("server_optimizer.learning_rate", learning_rate, low=0, open_low=True)
    check_decay("beta1", beta1)
    validation.number("server_optimizer.tau", tau, low=0, open_low=True)

    def step(delta_D: Tensor, memory: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        first_D = memory["first"].to(delta_D) if memory else torch.zeros_like(delta_D)
        second_D = memory["second"].to(delta_D) if memory else torch.full_like(delta_D, tau**2)
        first_D = (beta1 * first_D).add_(delta_D, alpha=1 - beta1)
        second_D = second(second_D, delta_D.square())
        movement_D = second_D.sqrt().add_(tau)
        torch.div(first_D, movement_D, out=movement_D).mul_(learning_rate)
        return movement_D, {"first": first_D, "second": second_D}

    return ServerOptimizer(name, step)
