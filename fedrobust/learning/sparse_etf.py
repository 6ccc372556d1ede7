"""A sparse simplex ETF classifier: most entries of every class vector are 0, and the angles between
any two are equal as far as the other entries allow."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from fedrobust.errors import ConfigError
from fedrobust.utils.seeding import generator

STEPS = 500  # alternating projections; 64 x 7 with a sparsity of 0.6 end at equal angles to 2e-8


@lru_cache(maxsize=8)
def sparse_etf(dimension: int, num_classes: int, sparsity: float) -> Tensor:
    """Class vectors (dimension, num_classes), float32, of unit length, of whose entries at least a
    share of `sparsity` is 0: the same for all runs of one size.

    Alternating projections between unit columns with these zeros and simplex ETFs. The authors of
    SSE-C maximise the smallest angle by Adam, with such zeros; here the angles end equal wherever
    the other entries leave room (from about three of them for each class and other class).

    Args:
        dimension: of the features, at least num_classes - 1.
        num_classes: K, at least 2.
        sparsity: share of zeros, in [0, 1).

    Raises:
        ConfigError: so many zeros leave a class vector without any other entry.

    Reference:
        Xiao et al., ICLR 2024 (arXiv 2401.08977): SSE-C. Of 64 x 7 with a sparsity of
        0.6 the cosines are -0.1676 to -0.1657 in the authors' code, here -1/6 to 3e-8; both have
        268 zeros.
    """
    g = generator(0, "sparse ETF", dimension, num_classes)
    zeros = int(sparsity * dimension * num_classes)
    places = torch.randperm(dimension * num_classes, generator=g)[zeros:]
    mask_dK = torch.zeros(dimension * num_classes, dtype=torch.float64)
    mask_dK[places] = 1
    mask_dK = mask_dK.view(dimension, num_classes)
    found_dK = mask_dK * torch.randn(dimension, num_classes, generator=g, dtype=torch.float64)
    for _ in range(STEPS):
        found_dK = functional.normalize(mask_dK * _nearest_etf(found_dK), dim=0)
    if not bool((found_dK.norm(dim=0) > 0.5).all()):
        raise ConfigError(
            f"client.sparsity={sparsity:g}: leaves a class vector of {num_classes} classes with "
            f"{dimension} features nothing but zeros; lower it"
        )
    return found_dK.to(torch.float32)


def _nearest_etf(matrix_dK: Tensor) -> Tensor:
    """The simplex ETF nearest to a matrix: the orthonormal part of its centred columns, at the
    ETF's length."""
    num_classes = matrix_dK.shape[1]
    centred_dK = matrix_dK - matrix_dK.mean(dim=1, keepdim=True)
    left, _, right = torch.linalg.svd(centred_dK, full_matrices=False)
    rank = num_classes - 1  # the last direction is that of the mean
    nearest: Tensor = left[:, :rank] @ right[:rank]
    return math.sqrt(num_classes / (num_classes - 1)) * nearest
