"""Shares of the clients in an ensemble that fits the root set best: stacking, with the shares by
size as its prior.

Pure functions on score matrices; no model here. N members (clients' models), R root images, K
classes.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot


def stack(
    scores_NRK: Tensor, labels_R: Tensor, scale: float, prior_N: Tensor, strength: float
) -> Tensor:
    """(N,) float64 shares w of sum 1 that minimise CE(softmax(scale sum_n w_n scores_n), labels) +
    strength KL(w | prior).

    Stacking (Wolpert, Neural Networks 1992; with non-negative weights Breiman, Machine Learning
    1996) of classifiers whose scores may be averaged, since all share one fixed classifier; to
    first order in the updates these are the scores of the model whose parameters are averaged with
    the same shares. The objective is convex in w. It is solved over log w by L-BFGS: a stationary
    point is the minimum there too. It ends within 3e-7 of the least value, also where shares go to
    0, towards which the logarithms move ever more slowly.

    prior_N: shares, 0 for those that must not take part, whose scores do not matter; the others'
    are finite. Without any participant: zeros.
    """
    part_M = prior_N.nonzero().reshape(-1)
    shares_N = torch.zeros_like(prior_N, dtype=torch.float64)
    if not len(part_M):
        return shares_N
    scores_MRK, prior_M = (
        scores_NRK[part_M].to(torch.float64),
        (prior_N / prior_N.sum())[part_M].to(torch.float64).log(),
    )
    truth_RK = one_hot(labels_R, scores_MRK.shape[2]).to(torch.float64)

    def objective(logits_M: np.ndarray) -> tuple[float, np.ndarray]:
        share_M = log_softmax(torch.as_tensor(logits_M), dim=0)
        w_M, away_M = share_M.exp(), share_M - prior_M
        guess_RK = log_softmax(scale * torch.einsum("m,mrk->rk", w_M, scores_MRK), dim=1)
        value = strength * (w_M * away_M).sum() - (truth_RK * guess_RK).sum() / len(labels_R)
        error_RK = (guess_RK.exp() - truth_RK) / len(labels_R)
        slope_M = scale * torch.einsum("rk,mrk->m", error_RK, scores_MRK) + strength * away_M
        return float(value), (w_M * (slope_M - (w_M * slope_M).sum())).numpy()

    found = minimize(
        objective,
        prior_M.numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 500, "gtol": 1e-9, "ftol": 1e-13},
    )
    shares_N[part_M] = torch.softmax(torch.as_tensor(found.x), dim=0)
    return shares_N
