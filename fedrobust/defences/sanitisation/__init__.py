"""Sanitising: which training images look tampered with, by their features alone. One defence a
file, each a factory that returns a `Sanitiser`; its functions do not depend on models, clients or
rounds."""

from fedrobust.defences.sanitisation.base import Sanitiser, SanitiserResult, sanitise

__all__ = ["Sanitiser", "SanitiserResult", "none", "sanitise"]


def none() -> Sanitiser:
    """Every image is kept."""
    return Sanitiser("none")
