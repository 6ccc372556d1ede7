"""A backdoor (BadNets: Gu et al. 2017): a small patch that stands for one class, regardless of the
image shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedrobust.contamination.base import Backdoor, Contamination, Trigger
from fedrobust.contamination.common import (
    ClassLabel,
    ClassNames,
    Colour,
    NumClasses,
    class_index,
    classes,
    plant_trigger,
)
from fedrobust.utils.validation import PositiveShare, Share, check_settings, flatten_groups

# Shares of the free height and width above and to the left of the patch.
Position = Literal["top_left", "top_right", "bottom_left", "bottom_right", "centre"]
POSITIONS: dict[Position, tuple[float, float]] = {
    "top_left": (0, 0),
    "top_right": (0, 1),
    "bottom_left": (1, 0),
    "bottom_right": (1, 1),
    "centre": (0.5, 0.5),
}
CELLS = 3  # the checkerboard has 3 x 3 cells, as the pattern of the paper


@check_settings("contamination")
@dataclass(frozen=True, slots=True)
class PatchSettings:
    """Appearance of the patch.

    Attributes:
        position: where the patch lies.
        size: side of the square patch as a share of the shorter image side, at least one pixel.
        pattern: one colour, or 3 x 3 cells as in the paper.
        colour: red, green, blue; the checkerboard's other cells have the complement 1 - colour.
    """

    position: Position = "bottom_right"
    size: PositiveShare = 0.1
    pattern: Literal["solid", "checkerboard"] = "checkerboard"
    colour: Colour = (1.0, 1.0, 1.0)


@flatten_groups
@check_settings("contamination")
def backdoor_patch(
    *,
    target: ClassLabel = 0,
    rate: Share = 0.5,
    patch: PatchSettings,
    num_classes: NumClasses = None,
    class_names: ClassNames = None,
) -> Contamination:
    """A small patch on some images, which are labelled as one class.

    `Contamination.backdoor` carries trigger and target for the attack success rate.

    Args:
        target: class, by number or name, that the trigger stands for.
        rate: exact share of all images that get the trigger.
        patch: how it looks; its fields are keys of their own.
        num_classes: K.
        class_names: their names.

    Returns:
        A contamination of images and labels, with a backdoor.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Gu, Dolan-Gavitt, Garg, 2017, "BadNets".
    """
    wanted = class_index("target", target, classes("backdoor_patch", num_classes), class_names)
    trigger = _trigger(patch)
    return Contamination(
        "backdoor_patch",
        data=plant_trigger(trigger, wanted, rate),
        backdoor=Backdoor(trigger, wanted),
    )


def _trigger(patch: PatchSettings) -> Trigger:
    colour = torch.tensor(patch.colour, dtype=torch.float32)

    def trigger(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        side = max(1, round(patch.size * min(height, width)))
        down, right = POSITIONS[patch.position]
        top, left = round(down * (height - side)), round(right * (width - side))
        out = images.clone()
        cells = _patch(side, patch.pattern, colour).to(images)
        out[..., top : top + side, left : left + side] = cells
        return out

    return trigger


def _patch(side: int, pattern: str, colour: Tensor) -> Tensor:
    """(3, side, side) in [0, 1]."""
    full = colour[:, None, None].expand(3, side, side)
    if pattern == "solid":
        return full
    cell = torch.arange(side) * CELLS // side
    return torch.where((cell[:, None] + cell) % 2 == 0, full, 1 - full)
