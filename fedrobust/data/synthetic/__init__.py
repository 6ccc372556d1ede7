"""The embedded data set: drawn dermatoscopy-like lesions of seven unequal classes from four
hospitals; nothing to download."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fedrobust.data import cache, splits
from fedrobust.data.apportionment import largest_remainder
from fedrobust.data.dataset import Dataset, DataSource, Origins, make_dataset
from fedrobust.data.synthetic.lesions import KINDS, draw_lesions
from fedrobust.data.synthetic.scanners import SCANNERS, photograph
from fedrobust.errors import found_in
from fedrobust.utils.images import as_bytes
from fedrobust.utils.seeding import generator
from fedrobust.utils.validation import Count, check_settings

VERSION = 4  # raise it whenever a pixel may change: it is part of the cache key
TWICE = 0.15  # of a class's lesions were photographed twice: the reason why splits go by lesion


@check_settings("data")
def synthetic(
    size: Annotated[int, Field(ge=16, le=1024)] = 32,
    num_images: Annotated[int, Field(ge=60)] = 2400,
    imbalance: Annotated[float, Field(ge=1)] = 5,
    seed: Count = 0,
) -> DataSource:
    """Drawn lesions of seven unequal classes from four hospitals.

    Args:
        size: side of the square images, pixels.
        num_images: images of all three splits, which are drawn 7:2:1 by lesion.
        imbalance: how many times more images the commonest class has than the rarest one.
        seed: seed of the pictures and the splits; not the run's seed, so that runs share their
            test images.

    Returns:
        The source; nothing is read before its `load`.

    Raises:
        ConfigError: a setting is out of its range.
    """
    return DataSource("synthetic", lambda: _load(size, num_images, float(imbalance), seed))


def _load(size: int, num_images: int, imbalance: float, seed: int) -> Dataset:
    counts = imbalanced_counts(num_images, imbalance)
    labels = torch.repeat_interleave(torch.arange(len(KINDS)), torch.from_numpy(counts))
    groups = torch.cat([_lesions(int(count)) + 10**6 * kind for kind, count in enumerate(counts)])
    groups = torch.unique(groups, return_inverse=True)[1]
    sites = _sites(groups, seed)
    key = ["synthetic", VERSION, size, num_images, imbalance, seed]
    images, _ = cache.images(
        key, (num_images, 3, size, size), lambda out: _fill(out, labels, groups, sites, seed)
    )
    with found_in(f"data=synthetic data.num_images={num_images}"):
        return _labelled(images, labels, groups, sites, seed)


def _labelled(images: Tensor, labels: Tensor, groups: Tensor, sites: Tensor, seed: int) -> Dataset:
    split = splits.complete_splits(None, labels, groups, generator(seed, "synthetic", "splits"))
    names = [scanner.name for scanner in SCANNERS]
    kinds = [kind.name for kind in KINDS]
    return make_dataset(
        "synthetic",
        images,
        labels,
        kinds,
        Origins(split, sites=sites, site_names=names, groups=groups),
    )


def imbalanced_counts(num_images: int, imbalance: float) -> NDArray[np.int64]:
    """(K,) images per class, falling geometrically: class k gets a share proportional to
    imbalance^(-k / (K - 1)), at least 3 images."""
    falling = imbalance ** (-np.arange(len(KINDS)) / (len(KINDS) - 1))
    return 3 + largest_remainder(num_images - 3 * len(KINDS), falling)


def _lesions(count: int) -> Tensor:
    """(count,) lesion numbers of one class: the first ones have two images each, the others one."""
    pairs = int(TWICE * count / (1 + TWICE))
    return torch.cat([torch.arange(pairs).repeat_interleave(2), torch.arange(pairs, count - pairs)])


def _sites(groups: Tensor, seed: int) -> Tensor:
    """A site for every lesion, in the scanners' shares, independent of its class."""
    shares = torch.tensor([scanner.share for scanner in SCANNERS])
    drawn = torch.multinomial(
        shares,
        int(groups.max()) + 1,
        replacement=True,
        generator=generator(seed, "synthetic", "sites"),
    )
    return drawn[groups]


def _fill(
    out: NDArray[np.uint8], labels: Tensor, groups: Tensor, sites: Tensor, seed: int
) -> dict[int, str]:
    """Every (class, site) cell from its own generator, in batches of bounded memory."""
    batch = max(2, 2**19 // out.shape[-1] ** 2)
    for kind in range(len(KINDS)):
        for site, scanner in enumerate(SCANNERS):
            rows = ((labels == kind) & (sites == site)).nonzero().reshape(-1)
            source = generator(seed, "synthetic", "pixels", kind, site)
            for lesions in torch.unique(groups[rows]).split(batch):
                part = rows[torch.isin(groups[rows], lesions)]
                scenes = draw_lesions(KINDS[kind], len(lesions), out.shape[-1], source)
                scenes = _views(scenes, torch.searchsorted(lesions, groups[part]))
                out[part.numpy()] = as_bytes(photograph(scenes, scanner, source)).numpy()
    return {}


def _views(scenes: Tensor, lesion_n: Tensor) -> Tensor:
    """The scene of each image: a lesion's second image shows it upside down (the camera adds its
    own differences)."""
    views = scenes[lesion_n]
    second = torch.zeros(len(lesion_n), dtype=torch.bool)
    second[1:] = lesion_n[1:] == lesion_n[:-1]
    views[second] = views[second].flip(2, 3)
    return views
