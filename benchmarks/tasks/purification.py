"""Images a second through every purifier, and through loops over scikit-image's total variation that do the same denoising."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrobust import config
from fedrobust.purification.mdda import SCALES
from fedrobust.seeding import generator

PURIFIERS = ("mdda", "tv", "gaussian", "median_filter", "jpeg")
LOOPED = ("mdda", "tv")  # those whose denoising the loops do


def run(given: Mapping[str, Any], mark: Callable[[int], None]) -> dict[str, Any]:
    """given: size, images, loop_images (of the scikit-image loops, 0: none), device, repeats, threads. [seconds, the
    processor's seconds] of an image in each repeat by purifier, and of the loops by the purifier whose denoising they do."""
    images = torch.rand(given["images"], 3, given["size"], given["size"], generator=generator(0, "benchmark"))
    settings = {name: config.compose(f"purifier={name}") for name in PURIFIERS}
    ours: dict[str, list[list[float]]] = {name: [] for name in PURIFIERS}
    loops: dict[str, list[list[float]]] = {name: [] for name in LOOPED if given["loop_images"]}
    there = images.to(given["device"])
    for name in PURIFIERS:  # whatever happens once only, happens here
        _through(settings[name], there[:2])
    for repeat in range(given["repeats"]):
        mark(repeat)
        for name in PURIFIERS:
            ours[name].append(_timed(lambda: _through(settings[name], there), len(images)))  # noqa: B023  # called at once
        for name, times in loops.items():
            some = images[: given["loop_images"]]
            times.append(_timed(lambda: looped(settings[name]["purifier"], some), len(some)))  # noqa: B023
    return {"ours": ours, "loops": loops}


def _through(settings: Mapping[str, Any], images: Tensor) -> Tensor:
    made: Tensor = config.build(settings, "purifier").purify(images, generator(0, "purifier"))
    return made


def looped(settings: Mapping[str, Any], images: Tensor) -> list[Any]:
    """Every image alone through scikit-image's Chambolle iteration, as often and at the sizes at which the purifier denoises it, with
    as many steps (scikit-image's first one changes the dual field only). Resampling and noise are left out, in the loop's favour."""
    from skimage.restoration import denoise_tv_chambolle

    options = {"weight": settings["weight"], "eps": 0, "max_num_iter": settings["iterations"] + 1, "channel_axis": -1}
    scales, blocks = (SCALES, settings["blocks"]) if "blocks" in settings else ((1.0,), 1)
    out = []
    for image in images.permute(0, 2, 3, 1).numpy():
        for scale in scales:
            side = max(1, round(scale * image.shape[0]))
            some = np.resize(image, (side, side, 3))  # any pixels will do: the number of steps is fixed
            for _ in range(blocks):
                some = denoise_tv_chambolle(some, **options)
            out.append(some)
    return out


def _timed(action: Callable[[], Any], images: int) -> list[float]:
    _wait()
    began, worked = time.perf_counter(), time.process_time()
    action()
    _wait()
    return [(time.perf_counter() - began) / images, (time.process_time() - worked) / images]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
