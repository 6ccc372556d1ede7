"""Points in two groups, by a mixture of two normal distributions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor


def higher_group(values_Nd: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
    """(N,) bool: the points in that component of a mixture of two normal distributions whose mean
    has the larger sum (scikit-learn's GaussianMixture, expectation maximisation from k-means).

    seeds: of the starting points; of several the grouping that most of them give, of those the
    first. Where fewer than two points differ there is one group, and none is higher.
    """
    points_Nd = values_Nd.to(torch.float64).cpu()
    if len(points_Nd) < 2 or bool((points_Nd == points_Nd[0]).all()):
        return torch.zeros(len(points_Nd), dtype=torch.bool)
    found = [_higher(points_Nd, seed) for seed in seeds]
    votes = [sum(torch.equal(one, other) for other in found) for one in found]
    return found[votes.index(max(votes))]


def _higher(points_Nd: Tensor, seed: int) -> Tensor:
    from sklearn.exceptions import ConvergenceWarning  # imports half of scipy
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture = GaussianMixture(n_components=2, random_state=seed).fit(points_Nd.numpy())
    group_N = mixture.predict(points_Nd.numpy())
    return torch.from_numpy(group_N == mixture.means_.sum(axis=1).argmax())
