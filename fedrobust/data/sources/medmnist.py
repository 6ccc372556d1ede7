"""The two-dimensional single-label sets of MedMNIST v2 (Yang et al.: Scientific Data 10, 41, 2023),
fetched by the package `medmnist`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

from fedrobust.data import cache
from fedrobust.data.dataset import Dataset, DataSource
from fedrobust.data.sources.npz_archive import load_npz
from fedrobust.data.table import ImageOptions, PathOf
from fedrobust.errors import DataError
from fedrobust.utils.names import expand_home
from fedrobust.utils.validation import Count, OneOf, PositiveCount, check_settings

# Without chestmnist: several labels per image, so no single class.
FLAGS = tuple(
    f"{word}mnist"
    for word in (
        "path",
        "derma",
        "oct",
        "pneumonia",
        "retina",
        "breast",
        "blood",
        "tissue",
        "organa",
        "organc",
        "organs",
    )
)
SIZES = (28, 64, 128, 224)


@check_settings("data")
def medmnist(
    flag: Annotated[str, OneOf(FLAGS)] = "dermamnist",
    size: Annotated[int, OneOf(SIZES)] = 28,
    root: Annotated[str, PathOf("give the folder of the files")] | None = None,
    max_images: PositiveCount | None = None,
    seed: Count = 0,
) -> DataSource:
    """One set in its official splits at one of its official sizes.

    The package (`pip install "fedrobust[medmnist]"`) downloads a file on first use and checks its
    md5.

    Args:
        flag: name of the set.
        size: side of the square images, pixels.
        root: folder where the files are kept; null: the cache folder.
        max_images: at most so many images, with the same mix of split and class; null: all.
        seed: seed of the subset; not the run's seed, so that runs share their test images.

    Returns:
        The source; nothing is read before its `load`.

    Raises:
        ConfigError: a setting is out of its range.

    Needs:
        the extra `medmnist`

    Reference:
        Yang et al., Scientific Data 10, 2023.
    """
    chosen = ImageOptions(size=size, max_images=max_images, seed=seed)
    folder = cache.folder() / "medmnist" if root is None else expand_home(root)
    return DataSource(
        flag, lambda: _load(flag, folder, chosen), lambda: (_file(flag, folder, size),)
    )


def _load(flag: str, folder: Path, chosen: ImageOptions) -> Dataset:
    try:
        package = import_module("medmnist")
    except ImportError as error:
        raise DataError(
            'data=medmnist: the package is not installed; pip install "fedrobust[medmnist]"'
        ) from error
    info = package.INFO[flag]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        getattr(package, info["python_class"])(
            split="train", download=True, size=chosen.size, root=str(folder)
        )
    except Exception as error:  # the package turns every trouble of the network into its own errors
        line = " ".join(str(error).split())[:200]
        raise DataError(
            f"data=medmnist: {flag} could not be fetched ({line}); put the file into "
            f"{folder} by hand"
        ) from error
    names = [info["label"][str(position)] for position in range(len(info["label"]))]
    return load_npz(flag, _file(flag, folder, chosen.size), names, chosen)


def _file(flag: str, folder: Path, size: int) -> Path:
    """The set's file, as the package names it."""
    return folder / f"{flag if size == 28 else f'{flag}_{size}'}.npz"
