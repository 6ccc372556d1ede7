"""Shares of the clients in an ensemble that fits the root set best: stacking, with the shares by
size as its prior. One share a client, or one for every class of a client.

Pure functions on score matrices; no model here. N members (clients' models), R root images, K
classes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from torch import Tensor

# how exactly shares of clients, and shares in every class, which only make a teacher, are found
EXACT, NEAR = (1e-9, 1e-13), (1e-7, 1e-9)  # of the gradient and of the value
RESTARTS = 6  # at most
PRECISION = 1e-6  # a gain that is not worth another start


def stack(
    scores_NRK: Tensor, labels_R: Tensor, scale: float, prior_N: Tensor, strength: float
) -> Tensor:
    """(N,) float64 shares w of sum 1 that minimise CE(softmax(scale sum_n w_n scores_n), labels) +
    strength KL(w | prior).

    Stacking (Wolpert, Neural Networks 1992; with non-negative weights Breiman, Machine Learning
    1996) of classifiers whose scores may be averaged, since all share one fixed classifier; to
    first order in the updates these are the scores of the model whose parameters are averaged with
    the same shares. The objective is convex in w. It is solved over log w by L-BFGS: a stationary
    point is the minimum there too. A step that is too long can end where shares are almost 0 and
    their logarithms hardly matter: it is begun again nearer to the prior until nothing is gained.
    It ends within 3e-7 of the least value.

    prior_N: shares, 0 for those that must not take part, whose scores do not matter; the others'
    are finite. Without any participant: zeros.
    """
    return _fit_shares(scores_NRK, labels_R, scale, prior_N, strength=strength, columns=1)[:, 0]


def stack_classes(
    scores_NRK: Tensor, labels_R: Tensor, scale: float, prior_N: Tensor, strength: float
) -> Tensor:
    """(N, K) float64 shares w, of sum 1 in every class, that minimise CE(softmax(scale sum_n w_nk
    scores_nk), labels) + strength / K sum_k KL(w_k | prior).

    Like `stack`, but every class has shares of its own: a hospital that has seen a class speaks for
    it, one that lacks it does not, whatever both are worth on the whole. The objective is convex in
    w; it ends within 1e-4 of its least value. The scores of the result are those of no averaged
    model; they are what a student learns from.
    """
    columns = scores_NRK.shape[2]
    return _fit_shares(scores_NRK, labels_R, scale, prior_N, strength=strength, columns=columns)


def _fit_shares(
    scores_NRK: Tensor,
    labels_R: Tensor,
    scale: float,
    prior_N: Tensor,
    *,
    strength: float,
    columns: int,
) -> Tensor:
    """(N, C) shares of sum 1 in each of C columns: one for all classes, or one a class."""
    part_M = prior_N.nonzero().reshape(-1)
    shares_NC = torch.zeros(len(prior_N), columns, dtype=torch.float64)
    if not len(part_M):
        return shares_NC
    # numpy: what is computed is so small that torch's threads would cost more than they do
    scores_MRK = scores_NRK[part_M].to(torch.float64).cpu().numpy()
    prior_M1 = np.log((prior_N / prior_N.sum())[part_M].to(torch.float64).cpu().numpy())[:, None]
    truth_RK = np.eye(scores_MRK.shape[2])[labels_R.cpu().numpy()]
    pull = strength / columns

    def objective(logits: np.ndarray) -> tuple[float, np.ndarray]:
        share_MC = log_softmax(logits.reshape(-1, columns), axis=0)
        w_MC, away_MC = np.exp(share_MC), share_MC - prior_M1
        w_M1K = np.broadcast_to(w_MC, (len(w_MC), scores_MRK.shape[2]))[:, None]
        guess_RK = log_softmax(scale * (w_M1K * scores_MRK).sum(axis=0), axis=1)
        value = pull * (w_MC * away_MC).sum() - (truth_RK * guess_RK).sum() / len(truth_RK)
        error_RK = (np.exp(guess_RK) - truth_RK) / len(truth_RK)
        fit_MK = scale * (error_RK * scores_MRK).sum(axis=1)
        slope_MC = (fit_MK if columns > 1 else fit_MK.sum(axis=1, keepdims=True)) + pull * away_MC
        return float(value), (w_MC * (slope_MC - (w_MC * slope_MC).sum(axis=0))).reshape(-1)

    start_MC = np.broadcast_to(prior_M1, (len(prior_M1), columns))
    gradient, value = EXACT if columns == 1 else NEAR
    least, w_MC = math.inf, np.exp(start_MC)
    for _ in range(RESTARTS):
        found = minimize(
            objective,
            np.array(start_MC.reshape(-1), dtype=np.float64),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 500, "gtol": gradient, "ftol": value},
        )
        if found.fun > least - PRECISION:
            break
        least, w_MC = found.fun, softmax(found.x.reshape(-1, columns), axis=0)
        start_MC = np.log(0.9 * w_MC + 0.1 * np.exp(prior_M1))
    shares_NC[part_M] = torch.from_numpy(w_MC)
    return shares_NC
