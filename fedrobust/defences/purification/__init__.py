"""Purifiers of test images, applied before a model sees them, one factory each, one
yaml each in configs/purifier."""

from fedrobust.types import NO_PURIFIER, Purifier


def none() -> Purifier:
    """No purification: the images are returned unchanged."""
    return NO_PURIFIER
