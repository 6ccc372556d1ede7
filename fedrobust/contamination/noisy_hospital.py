"""A careless but honest hospital: noisy images and some wrong labels. The default of `noisy`
clients."""

from __future__ import annotations

from fedrobust.contamination.apply import chain
from fedrobust.contamination.base import Contamination
from fedrobust.contamination.corruptions.gaussian_noise import gaussian_noise
from fedrobust.contamination.labels.label_error import label_error


def clinical_noise(
    *, std: float = 0.04, rate: float = 0.1, num_classes: int | None = None
) -> Contamination:
    """Gaussian image noise of `std` in [0, 1] units (.04: severity 2), then symmetric label errors
    in an exact share `rate`.

    Both defaults are assumptions, not estimates from data. num_classes: K.
    """
    return chain(
        "clinical_noise", gaussian_noise(std=std), label_error(rate=rate, num_classes=num_classes)
    )
