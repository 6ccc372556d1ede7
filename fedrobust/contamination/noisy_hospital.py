"""A careless but honest hospital: noisy images and some wrong labels. The default of `noisy`
clients."""

from __future__ import annotations

from fedrobust.contamination.apply import chain
from fedrobust.contamination.base import Contamination
from fedrobust.contamination.common import NumClasses
from fedrobust.contamination.corruptions.gaussian_noise import gaussian_noise
from fedrobust.contamination.labels.label_error import label_error
from fedrobust.utils.validation import NonNegative, Share, check_settings


@check_settings("contamination")
def clinical_noise(
    *, std: NonNegative = 0.04, rate: Share = 0.1, num_classes: NumClasses = None
) -> Contamination:
    """Gaussian image noise, then symmetric label errors. Both defaults are assumptions, not
    estimates from data.

    Args:
        std: standard deviation of the image noise, in units of the range [0, 1]; 0.04 is severity
            2.
        rate: exact share of wrong labels.
        num_classes: K.

    Returns:
        A contamination of images and labels.

    Raises:
        ConfigError: a setting is out of its range.
    """
    return chain(
        "clinical_noise", gaussian_noise(std=std), label_error(rate=rate, num_classes=num_classes)
    )
