"""Sanitising: which training images look tampered with, judged by their features alone. One defence a file, each a factory that
returns a `Sanitiser`; the functions inside know nothing of models, clients or rounds."""

from fedrobust.defences.sanitisation.base import Sanitiser, Sifted, sift

__all__ = ["Sanitiser", "Sifted", "none", "sift"]


def none() -> Sanitiser:
    """Every image is kept."""
    return Sanitiser("none")
