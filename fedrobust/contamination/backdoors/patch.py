"""A backdoor (BadNets: Gu et al. 2017): a small patch that stands for one class, whatever the image
shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedrobust.contamination.base import Backdoor, Contamination, Trigger
from fedrobust.contamination.common import class_index, classes, plant_trigger, rgb
from fedrobust.utils.validation import choice, number

# Shares of the free height and width above and to the left of the patch.
POSITIONS = {
    "top_left": (0, 0),
    "top_right": (0, 1),
    "bottom_left": (1, 0),
    "bottom_right": (1, 1),
    "centre": (0.5, 0.5),
}
PATTERNS = ("solid", "checkerboard")
CELLS = 3  # the checkerboard has 3 x 3 cells, as the pattern of the paper


def backdoor_patch(
    *,
    target: int | str = 0,
    rate: float = 0.5,
    position: str = "bottom_right",
    size: float = 0.1,
    pattern: str = "checkerboard",
    colour: Sequence[float] = (1.0, 1.0, 1.0),
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Contamination:
    """Put the patch on an exact share of all images and label these `target`.

    target: the wanted class, by number or name. rate: share in [0, 1]. size: side of the square
    patch in (0, 1] of the shorter image side, at least one pixel. colour: red, green, blue in [0,
    1]; the checkerboard's other cells have the complement 1 - colour. num_classes, class_names: K
    and the names. `Contamination.backdoor` carries trigger and target for the attack success rate.
    """
    wanted = class_index("target", target, classes("backdoor_patch", num_classes), class_names)
    trigger = _trigger(
        choice("contamination.position", position, tuple(POSITIONS)),
        number("contamination.size", size, low=0, high=1, open_low=True),
        choice("contamination.pattern", pattern, PATTERNS),
        rgb(colour),
    )

    return Contamination(
        "backdoor_patch",
        data=plant_trigger(trigger, wanted, rate),
        backdoor=Backdoor(trigger, wanted),
    )


def _trigger(position: str, size: float, pattern: str, colour: Tensor) -> Trigger:
    def trigger(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        side = max(1, round(size * min(height, width)))
        down, right = POSITIONS[position]
        top, left = round(down * (height - side)), round(right * (width - side))
        out = images.clone()
        out[..., top : top + side, left : left + side] = _patch(side, pattern, colour).to(images)
        return out

    return trigger


def _patch(side: int, pattern: str, colour: Tensor) -> Tensor:
    """(3, side, side) in [0, 1]."""
    full = colour[:, None, None].expand(3, side, side)
    if pattern == "solid":
        return full
    cell = torch.arange(side) * CELLS // side
    return torch.where((cell[:, None] + cell) % 2 == 0, full, 1 - full)
