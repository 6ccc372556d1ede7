"""Laws of purifiers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from fedrobust.testing.laws import SEEDS, Law, check_laws, require
from fedrobust.types import Purifier
from fedrobust.utils.seeding import generator

LARGEST_SIDE = 31


def check_purifier(
    purifier: Purifier, *, without: Collection[str] = (), seeds: Iterable[int] = SEEDS
) -> None:
    """Put a purifier through the laws in `PURIFIER_LAWS`.

    Args:
        purifier: what the factory returns.
        without: names of laws that it does not claim to keep.
        seeds: of the images and its own randomness.

    Raises:
        LawError: a law does not hold; the message says which.
        ValueError: `without` names no law.
    """
    check_laws(purifier.name, purifier, PURIFIER_LAWS, seeds, without)


def example_pictures(
    count: int = 5, channels: int = 3, height: int = 13, width: int = 16, *, seed: int = 0
) -> Tensor:
    """Random images (count, channels, height, width), float32 in [0, 1]."""
    return torch.rand(count, channels, height, width, generator=generator(seed, "pictures"))


def purified(purifier: Purifier, images: Tensor, seed: int = 0) -> Tensor:
    """Images behind the purifier with randomness of its own."""
    return purifier.purify(images, generator(seed, "purifier"))


def _images(purifier: Purifier, seed: int) -> None:
    """Images of any size and number of channels keep shape, type and range; the given ones are not
    changed."""
    sides = torch.randint(1, LARGEST_SIDE + 1, (2,), generator=generator(seed, "sides"))
    images = example_pictures(1 + seed % 3, 1 + 2 * (seed % 2), *sides.tolist(), seed=seed)
    before = images.clone()
    after = purified(purifier, images, seed)
    require(after.shape == images.shape, f"{tuple(images.shape)} becomes {tuple(after.shape)}")
    require(after.dtype == torch.float32, f"float32 becomes {after.dtype}")
    require(((after >= 0) & (after <= 1)).all(), "values lie outside [0, 1], or are NaN")
    require(torch.equal(images, before), "the given images are changed in place")


def _no_images(purifier: Purifier, seed: int) -> None:
    """No images give no images."""
    after = purified(purifier, example_pictures(0), seed)
    require(after.shape == (0, 3, 13, 16), f"they give {tuple(after.shape)}")


def _generator(purifier: Purifier, seed: int) -> None:
    """The given generator decides everything: equal seeds give equal bits, and torch's global
    random numbers stay untouched."""
    images, before = example_pictures(seed=seed), torch.random.get_rng_state()
    one, other = purified(purifier, images, seed), purified(purifier, images, seed)
    require(torch.equal(one, other), "images differ")
    require(torch.equal(before, torch.random.get_rng_state()), "global random numbers are drawn")


def _batches(purifier: Purifier, seed: int) -> None:
    """How images are split into batches changes no image."""
    images = example_pictures(7, seed=seed)
    whole, random = purified(purifier, images, seed), generator(seed, "purifier")
    pieces = torch.cat([purifier.purify(part, random) for part in torch.split(images, 2)])
    require(torch.allclose(pieces, whole, atol=1e-6), "images differ")


PURIFIER_LAWS: Mapping[str, Law[Purifier]] = {
    "images": _images,
    "no_images": _no_images,
    "generator": _generator,
    "batches": _batches,
}
