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
REFERENCES = {"mdda": "scikit-image, MDDA's denoising alone", "tv": "scikit-image, TV"}


def run(given: Mapping[str, Any], mark: Callable[[int], None]) -> dict[str, Any]:
    """given: size, images, loop_images (of the scikit-image loops, 0: none), device, repeats, threads. Images a second of each
    repeat by purifier, and of the loops by the purifier whose denoising they do."""
    images = torch.rand(given["images"], 3, given["size"], given["size"], generator=generator(0, "benchmark"))
    settings = {name: config.compose(f"purifier={name}") for name in PURIFIERS}
    ours: dict[str, list[float]] = {name: [] for name in PURIFIERS}
    loops: dict[str, list[float]] = {name: [] for name in REFERENCES if given["loop_images"]}
    there = images.to(given["device"])
    for name in PURIFIERS:  # whatever happens once only, happens here
        _through(settings[name], there[:2])
    for repeat in range(given["repeats"]):
        mark(repeat)
        for name in PURIFIERS:
            ours[name].append(len(images) / _timed(lambda: _through(settings[name], there)))  # noqa: B023  # called at once
        for name, speeds in loops.items():
            some = images[: given["loop_images"]]
            speeds.append(len(some) / _timed(lambda: looped(settings[name]["purifier"], some)))  # noqa: B023
    return {"ours": ours, "loops": loops}


def _through(settings: Mapping[str, Any], images: Tensor) -> Tensor:
    made: Tensor = config.build(settings, "purifier").purify(images, generator(0, "purifier"))
    return made


def looped(settings: Mapping[str, Any], images: Tensor) -> list[Any]:
    """Every image alone through scikit-image's Chambolle iteration, as often and at the sizes at which the purifier denoises it, with
    as many steps (scikit-image's first one changes the dual field only). Resampling and noise are left out, in the loop's favour."""
    from skimage.restoration import denoise_tv_chambolle  # type: ignore[import-not-found, unused-ignore]

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


def _timed(action: Callable[[], Any]) -> float:
    _wait()
    began = time.perf_counter()
    action()
    _wait()
    return time.perf_counter() - began


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
