"""Purifiers: what images go through at test time before a model sees them, one factory each, one
yaml each in configs/purifier."""

from fedrobust.types import NO_PURIFIER, Purifier


def none() -> Purifier:
    """The images as they are."""
    return NO_PURIFIER
