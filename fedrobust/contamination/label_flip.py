"""Label poisoning: a malicious client turns classes into other classes on purpose."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedrobust.checks import choice, number
from fedrobust.contamination.common import chosen, classes, label
from fedrobust.errors import ConfigError
from fedrobust.types import Contamination

MODES = ("shift", "pair", "targeted")


def label_flip(
    *,
    mode: str = "shift",
    rate: float = 1.0,
    shift: int = 1,
    source: int | None = None,
    target: int | None = None,
    num_classes: int | None = None,
) -> Contamination:
    """Mode "shift": class y becomes (y + shift) mod K; "pair": `source` and `target` change places; "targeted": `source`
    becomes `target`, nothing else moves.

    rate: exact share, in [0, 1], of the eligible samples (all, those of the two classes, those of `source`).
    source, target: class numbers, for "pair" and "targeted" only. num_classes: K.
    """
    choice("contamination.mode", mode, MODES)
    number("contamination.rate", rate, low=0, high=1)
    new_K = _new_labels(mode, shift, source, target, classes("label_flip", num_classes))

    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        eligible = (new_K.to(labels.device)[labels] != labels).nonzero().reshape(-1)
        rows = chosen(eligible, rate, generator)
        if len(rows) == 0:
            return images, labels
        return images, labels.index_copy(0, rows, new_K.to(labels.device)[labels[rows]])

    return Contamination("label_flip", data=data)


def _new_labels(mode: str, shift: int, source: int | None, target: int | None, num_classes: int) -> Tensor:
    """(K,) int64: what each class becomes; a class that stays itself is not eligible."""
    new_K = torch.arange(num_classes)
    if mode == "shift":
        if (source, target) != (None, None):
            raise ConfigError(f"contamination.source={source}, target={target}: only for mode=pair and mode=targeted; leave them null")
        if number("contamination.shift", shift, integer=True) % num_classes == 0:
            raise ConfigError(f"contamination.shift={shift}: leaves all {num_classes} classes as they are; try contamination.shift=1")
        return (new_K + shift) % num_classes
    a, b = label("source", source, num_classes), label("target", target, num_classes)
    if a == b:
        raise ConfigError(f"contamination.target={b}: must differ from contamination.source")
    new_K[a] = b
    if mode == "pair":
        new_K[b] = a
    return new_K
