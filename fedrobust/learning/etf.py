"""The fixed simplex ETF (equiangular tight frame) classifier: K unit anchors that are as far apart
as K directions can be.

Source: Yang et al. 2022 (arXiv 2203.09081), definition 1: M = sqrt(K/(K-1)) P (I - 11'/K), P'P = I.
The originals draw P from uniform numbers, which makes the first anchor almost unreachable for
non-negative features; here P comes from normal numbers. Made once on the server and sent as bytes
with their SHA-256: the last bits of a QR depend on the machine's LAPACK.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Generator, Tensor

from fedrobust.errors import ConfigError

# of every entry of the Gram matrix; float32 rounding of the construction stays below 2e-7
TOLERANCE = 5e-6


def simplex_etf(dimension: int, num_classes: int, generator: Generator) -> Tensor:
    """Anchors (dimension, num_classes), float32: unit columns m_k with m_k . m_l = -1/(K-1), which
    sum to zero.

    Raises ConfigError for fewer than two classes and for dimension < K - 1, where no simplex ETF
    exists.
    """
    if num_classes < 2:
        raise ConfigError(f"num_classes={num_classes}: a classifier needs at least 2 classes")
    if dimension < num_classes - 1:
        raise ConfigError(
            f"model.dimension={dimension}: {num_classes} classes need model.dimension "
            f"of at least {num_classes - 1}"
        )
    centring_KK = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    if dimension >= num_classes:
        anchors_dK = _orthonormal(dimension, num_classes, generator) @ centring_KK
    else:  # the K - 1 directions that centring leaves, turned at random
        directions_KK, _, _ = torch.linalg.svd(centring_KK)
        anchors_dK = _orthonormal(dimension, dimension, generator) @ directions_KK[:, :dimension].T
    anchors_dK = (math.sqrt(num_classes / (num_classes - 1)) * anchors_dK).to(torch.float32)
    if deviation(anchors_dK) > TOLERANCE:
        raise ArithmeticError(
            f"the anchors miss the simplex geometry by {deviation(anchors_dK):.1e}"
        )
    return anchors_dK


def _orthonormal(rows: int, columns: int, generator: Generator) -> Tensor:
    """A random (rows, columns) matrix with orthonormal columns; the sign diag(R) > 0 makes the QR
    unique."""
    q, r = torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))
    signed: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return signed


def deviation(anchors_dK: Tensor) -> float:
    """The largest difference between the Gram matrix M'M and that of a simplex ETF, K/(K-1) (I -
    11'/K)."""
    num_classes = anchors_dK.shape[1]
    wide_dK = anchors_dK.to(torch.float64)
    ideal_KK = (
        (torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes)
        * num_classes
        / (num_classes - 1)
    )
    return float((wide_dK.T @ wide_dK - ideal_KK).abs().max())


def to_bytes(anchors_dK: Tensor) -> bytes:
    """The anchors as little-endian float32, row by row."""
    return anchors_dK.detach().cpu().contiguous().numpy().astype("<f4").tobytes()


def digest(anchors_dK: Tensor) -> str:
    """SHA-256 (hexadecimal) of `to_bytes`: two parties hold the same classifier if and only if
    their digests agree."""
    return hashlib.sha256(to_bytes(anchors_dK)).hexdigest()


def from_bytes(data: bytes, num_classes: int, sha256: str) -> Tensor:
    """The anchors (d, num_classes) that `to_bytes` wrote, with d from the length.

    Raises ValueError when the bytes are not the announced ones or are no simplex ETF of that many
    classes.
    """
    if num_classes < 2 or not data or len(data) % (4 * num_classes):
        raise ValueError(f"{len(data)} bytes are no anchors of {num_classes} classes")
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ValueError(f"the anchors' SHA-256 is {found[:12]}, announced was {sha256[:12]}")
    anchors_dK = torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32)).view(
        -1, num_classes
    )
    if not anchors_dK.isfinite().all():
        raise ValueError("the anchors hold values that are not finite")
    if (off := deviation(anchors_dK)) > TOLERANCE:
        raise ValueError(
            f"the anchors miss the simplex geometry by {off:.1e}, allowed is {TOLERANCE:.0e}"
        )
    return anchors_dK
