"""Label poisoning: a malicious client turns classes into other classes on purpose."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from fedrobust.contamination.base import Contamination
from fedrobust.contamination.common import (
    ClassLabel,
    ClassNames,
    NumClasses,
    class_index,
    classes,
    sample_rows,
)
from fedrobust.errors import ConfigError
from fedrobust.utils.validation import Share, check_settings


@check_settings("contamination")
def label_flip(
    *,
    mode: Literal["shift", "pair", "targeted"] = "shift",
    rate: Share = 1.0,
    shift: int = 1,
    source: ClassLabel | None = None,
    target: ClassLabel | None = None,
    num_classes: NumClasses = None,
    class_names: ClassNames = None,
) -> Contamination:
    """Classes become other classes on purpose.

    Args:
        mode: shift: class y becomes (y + shift) mod K; pair: source and target change places;
            targeted: source becomes target, nothing else moves.
        rate: exact share of the samples that the mode can change.
        shift: with mode=shift: by how many classes.
        source: class, by number or name, for pair and targeted.
        target: class, by number or name, for pair and targeted.
        num_classes: K.
        class_names: their names.

    Returns:
        A contamination of labels.

    Raises:
        ConfigError: a setting is out of its range, or does not fit the mode.
    """
    count = classes("label_flip", num_classes)
    if mode == "shift":
        if (source, target) != (None, None):
            raise ConfigError(
                f"contamination.source={source}, target={target}: only for mode=pair "
                "and mode=targeted; leave them null"
            )
        new_K = _shifted(shift, count)
    else:
        new_K = _moved(
            mode,
            class_index("source", source, count, class_names),
            class_index("target", target, count, class_names),
            count,
        )

    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        eligible = (new_K.to(labels.device)[labels] != labels).nonzero().reshape(-1)
        rows = sample_rows(eligible, rate, generator)
        if len(rows) == 0:
            return images, labels
        return images, labels.index_copy(0, rows, new_K.to(labels.device)[labels[rows]])

    return Contamination("label_flip", data=data)


def _shifted(shift: int, num_classes: int) -> Tensor:
    """(K,) int64: what each class becomes."""
    if shift % num_classes == 0:
        raise ConfigError(
            f"contamination.shift={shift}: leaves all {num_classes} classes as they "
            "are; try contamination.shift=1"
        )
    return (torch.arange(num_classes) + shift) % num_classes


def _moved(mode: str, source: int, target: int, num_classes: int) -> Tensor:
    """(K,) int64: what each class becomes; a class that stays itself is not eligible."""
    if source == target:
        raise ConfigError(f"contamination.target={target}: must differ from contamination.source")
    new_K = torch.arange(num_classes)
    new_K[source] = target
    if mode == "pair":
        new_K[target] = source
    return new_K
