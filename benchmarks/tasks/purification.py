"""Images a second through every purifier, and through loops over scikit-image that do the same to
one image after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrobust.defences.purification.base import resize_images, runs_compiled
from fedrobust.defences.purification.mdda import NEIGHBOUR, OWN, SCALES
from fedrobust.defences.purification.total_variation import rof
from fedrobust.experiment import compose, factories
from fedrobust.utils.seeding import generator

PURIFIERS = ("mdda", "tv", "gaussian", "median_filter", "jpeg")
# that a value moves in one step of the denoising between the registers and the second cache: both
# p of both axes, the image and the result are read, the new p and the result written
MOVED = 4 * (6 + 3)
REPEATED = 200  # passes over the arrays of `streamed`
LAST = 2**-0.5  # deviation in pixels of MDDA's last filter
COLOUR = {"channel_axis": -1}


def run(given: Mapping[str, Any], mark: Callable[[int], None]) -> dict[str, Any]:
    """given: size, images, loop_images (of the scikit-image loops, 0: none), device, repeats,
    threads. [seconds, the processor's seconds] of an image in each repeat by purifier, and of the
    loops; energy: what total variation minimises, by ours over by scikit-image's, summed over the
    loop's images; traffic: see there."""
    images = pictures(given["images"], given["size"])
    settings = {name: compose.compose(f"purifier={name}") for name in PURIFIERS}
    ours: dict[str, list[list[float]]] = {name: [] for name in PURIFIERS}
    there, some = images.to(given["device"]), images[: given["loop_images"]]
    loops = {
        name: partial(looped, each, settings[name.split(":")[0]]["purifier"], some)
        for name, each in LOOPS.items()
        if len(some)
    }
    theirs: dict[str, list[list[float]]] = {name: [] for name in loops}
    for name in PURIFIERS:  # one-time costs fall here
        _through(settings[name], there[:2])
    for repeat in range(given["repeats"]):
        mark(repeat)
        for name in PURIFIERS:
            ours[name].append(_timed(lambda: _through(settings[name], there), len(images)))  # noqa: B023  # called at once
        for name, loop in loops.items():
            theirs[name].append(_timed(loop, len(some)))
    return {
        "ours": ours,
        "loops": theirs,
        "energy": compared(settings["tv"]["purifier"], some) if len(some) else None,
        "traffic": traffic(there, settings["mdda"]["purifier"]),
    }


def traffic(images: Tensor, settings: Mapping[str, Any]) -> dict[str, float] | None:
    """Gigabytes a second of the processor's time that the compiled denoising moves at twice the
    images' size, and that a plain loop over arrays as large as its rows moves; the best of five.
    None where no compiled loops serve the images."""
    if not runs_compiled(images):
        return None
    from fedrobust.defences.purification.total_variation_cpu import ROW

    height, width = images.shape[-2:]
    maps = resize_images(images, (2 * height, 2 * width))
    weight, steps = settings["weight"], settings["iterations"]
    moved = MOVED * steps * maps.numel()
    held = 4 * 6 * (steps + 2) * max(ROW, 2 * width)  # of each, a row for every step and two more
    return {
        "steps": _rate(lambda: rof(maps, weight, steps), moved),
        "stream": _rate(*streamed(held)),
    }


def streamed(size: int) -> tuple[Callable[[], Any], int]:
    """A loop a = b + c / 2 over arrays of so many bytes together, many times, and the bytes that it
    moves."""
    from fedrobust.utils.compiled import compiled

    first, second, third = np.ones((3, max(1, size // 12)), np.float32)
    moved = 3 * first.nbytes

    @compiled
    def triad(a: Any, b: Any, c: Any, times: int) -> None:  # pragma: no cover  # compiled
        for _ in range(times):
            for j in range(len(a)):
                a[j] = b[j] + c[j] / np.float32(2)

    return lambda: triad(first, second, third, REPEATED), REPEATED * moved


def _rate(action: Callable[[], Any], size: int) -> float:
    action()
    return size / min(_timed(action, 1)[1] for _ in range(5)) / 1e9


def pictures(count: int, size: int) -> Tensor:
    """Images (count, 3, size, size) as even as photographs: coarse random colours, resampled, with
    noise of deviation .02."""
    random = generator(0, "benchmark")
    coarse = 0.2 + 0.6 * torch.rand(count, 3, 4, 4, generator=random)
    return (
        resize_images(coarse, (size, size))
        + 0.02 * torch.randn(count, 3, size, size, generator=random)
    ).clamp(0, 1)


def _through(settings: Mapping[str, Any], images: Tensor) -> Tensor:
    made: Tensor = factories.build_group(settings, "purifier").purify(
        images, generator(0, "purifier")
    )
    return made


def looped(each: Callable[..., Any], settings: Mapping[str, Any], images: Tensor) -> list[Any]:
    """scikit-image's result for every image (H, W, C), one after the other, in float32."""
    random = np.random.default_rng(0)
    return [each(image, settings, random) for image in images.permute(0, 2, 3, 1).numpy()]


def denoised(image: Any, settings: Mapping[str, Any], random: Any) -> Any:
    """Total variation by scikit-image at its own tolerance."""
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(image, weight=settings["weight"], **COLOUR)


def mdda(image: Any, settings: Mapping[str, Any], random: Any) -> Any:
    """MDDA as one would write it with scikit-image: its resampling, its total variation, its
    Gaussian."""
    from skimage.filters import gaussian

    pyramid = [_resized(image, size) for size in _sizes(image)]
    for _ in range(settings["blocks"]):
        pyramid = [denoised(_noisy(one, settings, random), settings, random) for one in pyramid]
        pyramid = [_mixed(pyramid, place) for place in range(len(pyramid))]
    mean = sum(_resized(one, image.shape[:2]) for one in pyramid) / len(pyramid)
    last = settings["smoothing"]  # share of the last filter
    return ((1 - last) * mean + last * gaussian(mean, LAST, **COLOUR) if last else mean).clip(0, 1)


def mdda_denoising(image: Any, settings: Mapping[str, Any], random: Any) -> Any:
    """The denoising in it alone, with noise; any pixels serve at the other scales."""
    scales = [np.resize(image, (*size, image.shape[2])) for size in _sizes(image)]
    return [
        denoised(_noisy(one, settings, random), settings, random)
        for one in scales
        for _ in range(settings["blocks"])
    ]


# by purifier, and what part of it the loop does
LOOPS = {"mdda": mdda, "mdda: denoising alone": mdda_denoising, "tv": denoised}


def _noisy(image: Any, settings: Mapping[str, Any], random: Any) -> Any:
    return image + settings["std"] * random.standard_normal(image.shape, dtype=np.float32)


def _sizes(image: Any) -> list[tuple[int, int]]:
    return [
        (max(1, round(scale * image.shape[0])), max(1, round(scale * image.shape[1])))
        for scale in SCALES
    ]


def _resized(image: Any, size: tuple[int, int]) -> Any:
    from skimage.transform import resize

    return (
        image
        if image.shape[:2] == size
        else resize(image, size, order=1, mode="edge", anti_aliasing=size[0] < image.shape[0])
    )


def _mixed(pyramid: list[Any], place: int) -> Any:
    own = pyramid[place]
    others = [
        _resized(pyramid[one], own.shape[:2])
        for one in (place - 1, place + 1)
        if 0 <= one < len(pyramid)
    ]
    return (OWN * own + NEIGHBOUR * sum(others)) / (OWN + NEIGHBOUR * len(others))


def compared(settings: Mapping[str, Any], images: Tensor) -> float:
    """The energy of our total variation, over that of scikit-image's."""
    theirs = torch.from_numpy(np.stack(looped(denoised, settings, images))).permute(0, 3, 1, 2)
    values = [
        energy(after, images, settings["weight"])
        for after in (rof(images, settings["weight"], settings["iterations"]), theirs)
    ]
    return values[0] / values[1]


def energy(after: Tensor, before: Tensor, weight: float) -> float:
    """The energy weight * TV + |after - before|^2 / 2, of all images and channels (B, C, H, W)
    together."""
    rows = torch.nn.functional.pad(after.diff(dim=-2), (0, 0, 0, 1))
    columns = torch.nn.functional.pad(after.diff(dim=-1), (0, 1))
    return float(
        (weight * torch.hypot(rows, columns) + (after - before).square() / 2).double().sum()
    )


def _timed(action: Callable[[], Any], images: int) -> list[float]:
    _wait()
    began, worked = time.perf_counter(), time.process_time()
    action()
    _wait()
    return [(time.perf_counter() - began) / images, (time.process_time() - worked) / images]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
