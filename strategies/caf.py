"""CAF: weights are taken from the updates that stand out in the direction of the largest spread."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust.aggregation.gram import center_gram
from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import normalize
from fedrobust.utils.validation import Count, check_settings


@check_settings("strategy")
def caf(f: Count = 3) -> Strategy:
    """Covariance bound-agnostic filter: clients lose weight by how far they stand out in the
    direction of the largest spread.

    With c_n = 1 to begin with, while sum c > N - 2f: mu = sum c_n x_n / sum c; (lambda, v) the top
    eigenpair of sum c_n (x_n - mu)(x_n - mu)' / sum c; s_n = ((x_n - mu)'v)^2; c_n <- c_n (1 - s_n
    / max s). The answer is the mu with the least lambda.

    The eigenpair is exact, of the Gram matrix. The maximum is over clients with c_n > 0: one that
    is already out, and far away, would stop the filter. Weights reported: c / sum c of that mu.

    Args:
        f: attackers to tolerate, among more than 2f clients.

    Returns:
        The rule.

    Raises:
        ConfigError: f is out of its range.

    Reference:
        Allouah, Guerraoui, Stephan, ICML 2025, algorithm 2.

    Needs:
        at least 2f + 1 clients a round
    """

    def rule(round: Round) -> Aggregate:
        weights_N = caf_weights(round.updates.gram().cpu(), f)
        return make_aggregate(round, round.updates.combine(weights_N), weights_N)

    return Strategy("caf", rule, min_clients=2 * f + 1)


def caf_weights(gram_NN: Tensor, f: int) -> Tensor:
    """(N,) float64 weights summing to 1, from the (N, N) float64 Gram matrix."""
    counts_N = torch.ones(len(gram_NN), dtype=torch.float64)
    best_N, least = normalize(counts_N), torch.inf
    while counts_N.sum() > len(counts_N) - 2 * f:
        weights_N = normalize(counts_N)
        spread, scores_N = _top(center_gram(gram_NN, weights_N), weights_N)
        if spread < least:
            best_N, least = weights_N, spread
        scores_N = scores_N * (counts_N > 0)
        if not scores_N.max() > 0:  # no update differs from the mean
            break
        counts_N = counts_N * (1 - scores_N / scores_N.max())
    return best_N


def _top(inner_NN: Tensor, weights_N: Tensor) -> tuple[float, Tensor]:
    """The largest eigenvalue of the weighted covariance, and the (N,) squared projections on its
    eigenvector v.

    With A = diag(sqrt w)(X - mu), AA' has the covariance's eigenvalues, and v = A'u / sqrt(lambda):
    (x_n - mu)'v = (K sqrt(w) u)_n / sqrt(lambda).
    """
    roots_N = weights_N.sqrt()
    values_N, vectors_NN = torch.linalg.eigh(roots_N[:, None] * inner_NN * roots_N)
    top = max(float(values_N[-1]), 0.0)
    if top == 0:
        return 0.0, torch.zeros_like(weights_N)
    return top, (inner_NN @ (roots_N * vectors_NN[:, -1])).square() / top
