"""Honest label errors that follow a pattern: between pairs of classes, or by what the image looks
like (symmetric ones: label_error.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Generator, Tensor
from torch.nn import functional

from fedrobust.contamination.base import Contamination
from fedrobust.contamination.common import ClassNames, NumClasses, class_index, classes, sample_rows
from fedrobust.errors import ConfigError
from fedrobust.utils import seeding
from fedrobust.utils.validation import Count, Share, Words, check_settings

THUMBNAIL = 8  # pixels a side from which an annotator's errors follow


@check_settings("contamination")
def label_pair(
    *,
    rate: Share = 0.2,
    pairs: Annotated[
        Sequence[Sequence[int | str]],
        Words("[[class, mistaken for], ...], each class at most once in front"),
    ]
    | None = None,
    num_classes: NumClasses = None,
    class_names: ClassNames = None,
) -> Contamination:
    """Pair noise: a wrong label is always the same other class.

    Args:
        rate: exact share of wrong labels among the samples of the classes concerned.
        pairs: [[mel, nv], ...] by name or number: class, mistaken for; null: each class for the
            next, the last for the first.
        num_classes: K.
        class_names: their names.

    Returns:
        A contamination of labels.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Han et al., 2018, "Co-teaching", section 4.
    """
    new_K = _partners(pairs, classes("label_pair", num_classes), class_names)

    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        rows = sample_rows((new_K[labels] != labels).nonzero().reshape(-1), rate, generator)
        return images, labels.index_copy(0, rows, new_K[labels[rows]]) if len(rows) else labels

    return Contamination("label_pair", data=data)


def _partners(
    pairs: Sequence[Sequence[int | str]] | None,
    num_classes: int,
    class_names: Sequence[str] | None,
) -> Tensor:
    """(K,) int64: what each class is mistaken for; itself where it is not."""
    if pairs is None:
        return (torch.arange(num_classes) + 1) % num_classes
    wrong = ConfigError(
        f"contamination.pairs={pairs}: must be null or [[class, mistaken for], ...], "
        "each class at most once in front"
    )
    if not pairs:
        raise wrong
    new_K = torch.arange(num_classes)
    for pair in pairs:
        if len(pair) != 2:
            raise wrong
        given, taken = (class_index("pairs", one, num_classes, class_names) for one in pair)
        if given == taken or new_K[given] != given:
            raise wrong
        new_K[given] = taken
    return new_K


@check_settings("contamination")
def label_instance(
    *, rate: Share = 0.2, annotators: Count = 0, num_classes: NumClasses = None
) -> Contamination:
    """Instance-dependent noise: which wrong class an image gets follows from the image, so that
    similar images are mistaken alike.

    A Gaussian projection W_y for every true class y maps the image's features to K scores; the
    wrong class is drawn from their softmax without y. Features: the image at 8 x 8 pixels, each
    value standardised over the samples. Departure: the paper draws a rate for every image from a
    truncated normal distribution about `rate`, independent of the image; here an exact share is
    wrong.

    Args:
        rate: exact share of wrong labels.
        annotators: seed of the projections; hospitals with the same one err alike.
        num_classes: K.

    Returns:
        A contamination of labels.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Xia et al., NeurIPS 2020, "Part-dependent label noise"; the wrong class is drawn as in
        the authors' code (`get_instance_noisy_label`).
    """
    count = classes("label_instance", num_classes)
    maps_KFK = torch.randn(
        count, 3 * THUMBNAIL**2, count, generator=seeding.generator(annotators, "label_instance")
    )

    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        rows = sample_rows(torch.arange(len(labels)), rate, generator)
        if len(rows) == 0:
            return images, labels
        features_NF = _features(images)[rows]
        scores_NK = torch.empty(len(rows), count)
        for kind in range(count):
            own = labels[rows] == kind
            scores_NK[own] = features_NF[own] @ maps_KFK[kind]
        scores_NK.scatter_(1, labels[rows, None], float("-inf"))
        drawn = torch.multinomial(scores_NK.softmax(dim=1), 1, generator=generator).reshape(-1)
        return images, labels.index_copy(0, rows, drawn)

    return Contamination("label_instance", data=data)


def _features(images: Tensor) -> Tensor:
    """(N, F) standardised values of thumbnails; a value that is the same everywhere becomes 0."""
    flat_NF = functional.adaptive_avg_pool2d(images, THUMBNAIL).flatten(1)
    centred_NF = flat_NF - flat_NF.mean(dim=0)
    return centred_NF / centred_NF.square().mean(dim=0).sqrt().clamp(min=1e-3)
