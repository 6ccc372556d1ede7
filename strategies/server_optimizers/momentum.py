"""Server momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fedrobust.aggregation.composition import ServerOptimizer
from fedrobust.utils.validation import Decay, Positive, check_settings


@check_settings("server_optimizer")
def fedavgm(learning_rate: Positive = 1.0, momentum: Decay = 0.9) -> ServerOptimizer:
    """Momentum of the server: m_t = beta m_{t-1} + delta_t, x_{t+1} = x_t + eta m_t, m_{-1} = 0,
    with delta_t the rule's result minus the model as sent.

    Args:
        learning_rate: eta; 1 with momentum 0 keeps the rule's result.
        momentum: beta, the share of the last step that is kept.

    Returns:
        The optimizer. It remembers a vector of the model's size.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Hsu, Qi, Brown, 2019, arXiv:1909.06335.
    """

    def step(delta_D: Tensor, memory: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        momentum_D = momentum * memory["momentum"].to(delta_D) + delta_D if memory else delta_D
        return learning_rate * momentum_D, {"momentum": momentum_D}

    return ServerOptimizer("fedavgm", step)
