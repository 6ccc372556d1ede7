"""The sphere defence: an image far from the centre of its class is suspicious."""

from __future__ import annotations

from torch import Tensor

from fedrobust.defences.sanitisation.base import Sanitiser, SanitiserSettings
from fedrobust.utils.validation import flatten_groups


@flatten_groups
def sphere(*, settings: SanitiserSettings) -> Sanitiser:
    """The sphere defence: keep |x - mu_y| <= r_y, with r_y from a quantile of each class.

    anchors "centroid": mu_y is the mean feature of the class, which poisoned images move. "etf": it
    is the fixed anchor m_y, and the score of a unit feature u is 1 - u . m_y = |u - m_y|^2 / 2, in
    [0, 2].

    Args:
        settings: those of every sanitiser.

    Returns:
        The sanitiser.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Steinhardt, Koh, Liang, NeurIPS 2017 (arXiv 1706.03691), section 2.
    """
    return settings.make("sphere", misalignment if settings.anchors == "etf" else distance)


def distance(features_Nd: Tensor, labels_N: Tensor, centres_Kd: Tensor) -> Tensor:
    """(N,) Euclidean distance of each feature to the centre of its class."""
    distances_N: Tensor = (features_Nd - centres_Kd[labels_N]).norm(dim=1)
    return distances_N


def misalignment(features_Nd: Tensor, labels_N: Tensor, centres_Kd: Tensor) -> Tensor:
    """(N,) 1 - u . m_y of unit features and unit centres; a zero feature, which points nowhere, has
    1."""
    return 1 - (features_Nd * centres_Kd[labels_N]).sum(dim=1)
