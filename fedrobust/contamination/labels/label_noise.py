"""Honest label errors that follow a pattern: between pairs of classes, or by what the image looks
like (symmetric ones: label_error.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from fedrobust import seeding
from fedrobust.contamination.base import Contamination
from fedrobust.contamination.common import class_index, classes, sample_rows
from fedrobust.errors import ConfigError
from fedrobust.utils.validation import number

THUMBNAIL = 8  # pixels a side from which an annotator's errors follow


def label_pair(
    *,
    rate: float = 0.2,
    pairs: Sequence[Sequence[int | str]] | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Contamination:
    """Pair noise (Han et al. 2018, "Co-teaching", section 4): a wrong label is always the same
    other class.

    rate: exact share, in [0, 1], of wrong labels among the samples of the classes concerned. pairs:
    [[class, mistaken for], ...] by number or name; null: every class for the next one, the last for
    the first. num_classes, class_names: K and the names.
    """
    number("contamination.rate", rate, low=0, high=1)
    new_K = _partners(pairs, classes("label_pair", num_classes), class_names)

    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        rows = sample_rows((new_K[labels] != labels).nonzero().reshape(-1), rate, generator)
        return images, labels.index_copy(0, rows, new_K[labels[rows]]) if len(rows) else labels

    return Contamination("label_pair", data=data)


def _partners(pairs: Any, num_classes: int, class_names: Sequence[str] | None) -> Tensor:
    """(K,) int64: what each class is mistaken for; itself where it is not."""
    if pairs is None:
        return (torch.arange(num_classes) + 1) % num_classes
    wrong = ConfigError(
        f"contamination.pairs={pairs}: must be null or [[class, mistaken for], ...], "
        "each class at most once in front"
    )
    if isinstance(pairs, str) or not isinstance(pairs, Sequence) or not pairs:
        raise wrong
    new_K = torch.arange(num_classes)
    for pair in pairs:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise wrong
        given, taken = (class_index("pairs", one, num_classes, class_names) for one in pair)
        if given == taken or new_K[given] != given:
            raise wrong
        new_K[given] = taken
    return new_K


def label_instance(
    *, rate: float = 0.2, annotators: int = 0, num_classes: int | None = None
) -> Contamination:
    """Instance-dependent noise (Xia et al. 2020, "Part-dependent label noise", algorithm 2): which
    wrong class an image gets follows from the image, so that similar images are mistaken alike.

    A Gaussian projection W_y for every true class y maps the image's features to K scores; the
    wrong class is drawn from their softmax without y. Features: the image at 8 x 8 pixels, each
    value standardised over the samples. Departure: the paper draws a rate for every image from a
    truncated normal distribution about `rate`, independent of the image; here an exact share is
    wrong. rate: exact share, in [0, 1], of wrong labels. annotators: seed of the projections;
    hospitals with the same one err alike. num_classes: K.
    """
    count = classes("label_instance", num_classes)
    number("contamination.rate", rate, low=0, high=1)
    number("contamination.annotators", annotators, low=0, integer=True)
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
