"""Server momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fedrobust.aggregation.composition import ServerOptimizer
from fedrobust.errors import ConfigError
from fedrobust.utils import validation


def fedavgm(learning_rate: float = 1.0, momentum: float = 0.9) -> ServerOptimizer:
    """m_t = beta m_{t-1} + delta_t, x_{t+1} = x_t + eta m_t, m_{-1} = 0 (Hsu, Qi, Brown 2019, arXiv
    1909.06335).

    delta_t: the rule's result minus the model as sent. learning_rate: eta; momentum: beta in [0,
    1).
    """
    validation.number("server_optimizer.learning_rate", learning_rate, low=0, open_low=True)
    check_decay("momentum", momentum)

    def step(delta_D: Tensor, memory: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        momentum_D = momentum * memory["momentum"].to(delta_D) + delta_D if memory else delta_D
        return learning_rate * momentum_D, {"momentum": momentum_D}

    return ServerOptimizer("fedavgm", step)


def check_decay(key: str, value: float) -> None:
    """A share of the past: in [0, 1). Raises ConfigError."""
    validation.number(f"server_optimizer.{key}", value, low=0)
    if value >= 1:
        raise ConfigError(f"server_optimizer.{key}={value}: must be less than 1")
