"""The slab defence: an image that lies far out on a line between its class and another one is
suspicious."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fedrobust.defences.sanitisation.base import Sanitiser, SanitiserSettings
from fedrobust.utils.validation import flatten_groups


@flatten_groups
def slab(*, settings: SanitiserSettings) -> Sanitiser:
    """The slab defence: keep |<x - mu_y, mu_y - mu_-y>| <= s_y, with s_y from a quantile.

    The paper has two classes. Here the directions to all other classes are tried, at unit length,
    and the largest value counts; with two classes this drops the same images as the paper's.
    anchors "centroid": of the classes that occur; "etf": the fixed anchors of all classes, (m_a -
    m_b)/|m_a - m_b|.

    Args:
        settings: those of every sanitiser.

    Returns:
        The sanitiser.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Steinhardt, Koh, Liang, NeurIPS 2017 (arXiv 1706.03691), section 2.
    """
    return settings.make("slab", offset)


def offset(features_Nd: Tensor, labels_N: Tensor, centres_Kd: Tensor) -> Tensor:
    """(N,) largest |<x - c_a, (c_a - c_b)/|c_a - c_b|>| over the other classes b of an image of
    class a; classes without a centre (NaN) and those whose centres coincide give no direction. 0
    where there is no direction at all."""
    scores_N = torch.zeros(len(labels_N), dtype=features_Nd.dtype)
    known_Cd = centres_Kd[centres_Kd.isfinite().all(dim=1)]
    for label in torch.unique(labels_N).tolist():
        rows = (labels_N == label).nonzero().reshape(-1)
        # that to itself is zero
        directions_Cd = functional.normalize(centres_Kd[label] - known_Cd, dim=1, eps=1e-12)
        positions_nC = (features_Nd[rows] - centres_Kd[label]) @ directions_Cd.T
        scores_N[rows] = positions_nC.abs().amax(dim=1)
    return scores_N
