"""Updates shortened before a rule sees them: to a fixed length, or to one that follows from the
updates."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedrobust.aggregation.composition import Preaggregation
from fedrobust.utils.validation import Count, Positive, check_settings


@check_settings("preaggregation")
def static_clipping(threshold: Positive = 1.0) -> Preaggregation:
    """Static clipping: x_i min(1, c / |x_i|).

    Args:
        threshold: c, the longest length of an update in parameter space; it fits one model and
            learning rate.

    Returns:
        The map to the shortened updates.

    Raises:
        ConfigError: the threshold is out of its range.
    """

    def mix(gram_NN: Tensor, clients: tuple[int, ...], generator: Generator) -> Tensor:
        return torch.diag(clip_factors(gram_NN.diagonal().sqrt(), threshold))

    return Preaggregation("clipping", mix)


@check_settings("preaggregation")
def arc(f: Count = 3) -> Preaggregation:
    """Adaptive robust clipping: the k = floor(2 f/N (N - f)) longest updates are shortened to the
    length of the next one.

    Args:
        f: attackers to tolerate, among at least 2f + 1 clients.

    Returns:
        The map to the shortened updates.

    Raises:
        ConfigError: f is out of its range.

    Reference:
        Allouah et al., ICLR 2025.

    Needs:
        at least 2f + 1 clients a round
    """

    def mix(gram_NN: Tensor, clients: tuple[int, ...], generator: Generator) -> Tensor:
        lengths_N = gram_NN.diagonal().sqrt()
        clipped = 2 * f * (len(clients) - f) // len(clients)
        return torch.diag(
            clip_factors(lengths_N, float(lengths_N.sort(descending=True).values[clipped]))
        )

    return Preaggregation("arc", mix, min_clients=2 * f + 1)


def clip_factors(lengths_N: Tensor, threshold: float) -> Tensor:
    """(N,) factors in [0, 1] that bring lengths above the threshold down to it; shorter ones (and
    zero) stay."""
    return torch.where(lengths_N > threshold, threshold / lengths_N, 1.0)
