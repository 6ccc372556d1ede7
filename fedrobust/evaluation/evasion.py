"""A model's answers under an evasion attack, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttackResult:
    """The model's probabilities (N, K) on attacked images.

    eps_255: the bound in 255ths of the range, None for an attack without one. purifier: what the
    images went through before the model. linf: the largest change of a value; l2: the mean
    Euclidean length of an image's change.
    """

    threat_model: str
    eps_255: float | None
    purifier: str
    probabilities: Tensor
    linf: float
    l2: float


@dataclass(frozen=True, slots=True)
class AttackResults:
    """All attempts on one model, with its probabilities (N, K) on the unattacked images, by
    purifier ("none" first)."""

    labels: Tensor
    clean: Mapping[str, Tensor]
    made: tuple[AttackResult, ...]
