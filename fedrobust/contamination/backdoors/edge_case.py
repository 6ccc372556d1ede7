"""A backdoor without a mark: images of a rare class are themselves the trigger."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedrobust.contamination.base import Backdoor, Contamination
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
def backdoor_edge_case(
    *,
    source: ClassLabel | None = None,
    target: ClassLabel = 0,
    rate: Share = 0.5,
    num_classes: NumClasses = None,
    class_names: ClassNames = None,
) -> Contamination:
    """Edge-case backdoor: the client's images of a rare class, labelled as another one, and copies
    of them in place of others, so that they weigh more than they are common.

    An exact share of the client's other images becomes copies of its images of class `source`, each
    as often as the others but for one; these and the originals are labelled `target`. A client
    without such images stays clean. The attack success rate is the share of all test images of
    `source` that are predicted as `target`. Departure: the paper adds images from the tail of
    another data set; here the tail is a rare class of this one, and the number of images stays.

    Args:
        source: the rare class, by number or name; null: the last one.
        target: class, by number or name, that its images are labelled; not the source.
        rate: exact share of the other images that become copies; 0 changes nothing, not even the
            originals.
        num_classes: K.
        class_names: their names.

    Returns:
        A contamination of images and labels, with a backdoor.

    Raises:
        ConfigError: a setting is out of its range, or target is source.

    Reference:
        Wang et al., 2020, "Attack of the tails".
    """
    count = classes("backdoor_edge_case", num_classes)
    rare = count - 1 if source is None else class_index("source", source, count, class_names)
    wanted = class_index("target", target, count, class_names)
    if rare == wanted:
        raise ConfigError(f"contamination.target={target}: must differ from contamination.source")

    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        tail = (labels == rare).nonzero().reshape(-1)
        if len(tail) == 0 or rate == 0:
            return images, labels
        rows = sample_rows((labels != rare).nonzero().reshape(-1), rate, generator)
        copied = tail[torch.arange(len(rows)) % len(tail)]
        return images.index_copy(0, rows, images[copied]), labels.index_fill(
            0, torch.cat([tail, rows]), wanted
        )

    return Contamination(
        "backdoor_edge_case", data=data, backdoor=Backdoor(_unmarked, wanted, rare)
    )


def _unmarked(images: Tensor) -> Tensor:
    return images
