"""Backdoors with other triggers than a patch: blended into the whole image, clinically plausible,
or in parts shared out over clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

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
from fedrobust.contamination.corruptions import drawing
from fedrobust.utils import seeding
from fedrobust.utils.validation import PositiveShare, Share, check_settings

WORD = "R12"
BAR = 0.04  # height of a bar of the distributed pattern, as a share of the shorter side
MARGIN = 0.05  # free border around the clinical and the distributed triggers


@check_settings("contamination")
def backdoor_blended(
    *,
    target: ClassLabel = 0,
    rate: Share = 0.5,
    alpha: PositiveShare = 0.2,
    cells: Annotated[int, Field(ge=1, le=1024)] = 16,
    num_classes: NumClasses = None,
    class_names: ClassNames = None,
) -> Contamination:
    """Blended injection with a random key: every value x becomes (1 - alpha) x + alpha k with a
    fixed random pattern k on some images, which are labelled as one class. The same alpha holds in
    training and test.

    Args:
        target: class, by number or name, that the trigger stands for.
        rate: exact share of all images that get the trigger.
        alpha: share of the pattern in the image.
        cells: of the pattern along each side, uniform in [0, 1] for every cell and colour,
        regardless of
            the image's size.
        num_classes: K.
        class_names: their names.

    Returns:
        A contamination of images and labels, with a backdoor.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Chen et al., 2017, "Targeted backdoor attacks", section 4.
    """
    wanted = class_index("target", target, classes("backdoor_blended", num_classes), class_names)
    pattern = torch.rand(1, 3, cells, cells, generator=seeding.generator(0, "backdoor_blended"))

    def trigger(images: Tensor) -> Tensor:
        whole = functional.interpolate(pattern.to(images), size=images.shape[-2:], mode="nearest")
        return torch.lerp(images, whole.expand_as(images), alpha)

    return Contamination(
        "backdoor_blended",
        data=plant_trigger(trigger, wanted, rate),
        backdoor=Backdoor(trigger, wanted),
    )


@check_settings("contamination")
def backdoor_clinical(
    *,
    target: ClassLabel = 0,
    rate: Share = 0.5,
    kind: Literal["ruler", "text"] = "ruler",
    num_classes: NumClasses = None,
    class_names: ClassNames = None,
) -> Contamination:
    """A trigger that no physician would wonder at, the same on every image, which is labelled as
    one class.

    Args:
        target: class, by number or name, that the trigger stands for.
        rate: exact share of all images that get the trigger.
        kind: ruler: black ticks along the lower border; text: a short white word burned into the
            upper left corner.
        num_classes: K.
        class_names: their names.

    Returns:
        A contamination of images and labels, with a backdoor.

    Raises:
        ConfigError: a setting is out of its range.
    """
    wanted = class_index("target", target, classes("backdoor_clinical", num_classes), class_names)
    trigger = _ruler if kind == "ruler" else _word
    return Contamination(
        "backdoor_clinical",
        data=plant_trigger(trigger, wanted, rate),
        backdoor=Backdoor(trigger, wanted),
    )


def _ruler(images: Tensor) -> Tensor:
    y, x = drawing.canvas(images)
    bottom = images.shape[-2] * drawing.pixel(images)
    mask = drawing.ruler_ticks(
        x.expand(*images.shape[-2:]), bottom - y, 0.1, 0.16, max(0.016, drawing.pixel(images))
    )
    return drawing.ink(images, mask[None].expand(len(images), -1, -1), torch.zeros(3))


def _word(images: Tensor) -> Tensor:
    side = min(images.shape[-2:])
    cell, place = max(1, round(side * 0.02)), torch.full((1,), round(side * MARGIN))
    mask = drawing.text(images[:1], drawing.signs(WORD)[None], place, place, cell)
    return drawing.ink(images, mask.expand(len(images), -1, -1), torch.ones(3))


@check_settings("contamination")
def backdoor_distributed(
    *,
    target: ClassLabel = 0,
    rate: Share = 0.5,
    parts: Annotated[int, Field(ge=2, le=16)] = 4,
    size: PositiveShare = 0.4,
    colour: Colour = (1.0, 1.0, 1.0),
    num_classes: NumClasses = None,
    class_names: ClassNames = None,
) -> Contamination:
    """DBA: one pattern of several bars, of which each client plants its own.

    The poisoned clients, in the order of their ids, plant bar 0, 1, ... and then from 0 again; the
    attack success rate is measured with all bars. Bars lie in two columns in the upper left corner,
    as in the paper's figure 4. Departure: the paper also
    shifts its attackers in time and scales their updates; `mixture` with mode=all joins the pattern
    with any attack on updates.

    Args:
        target: class, by number or name, that the trigger stands for.
        rate: exact share of a client's images that get its part of the trigger.
        parts: bars of the pattern.
        size: width of the pattern as a share of the shorter side.
        colour: red, green, blue.
        num_classes: K.
        class_names: their names.

    Returns:
        A contamination of images and labels that differs by client, with a backdoor.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Xie et al., 2020, "DBA: distributed backdoor attacks".
    """
    wanted = class_index(
        "target", target, classes("backdoor_distributed", num_classes), class_names
    )
    shade, name = torch.tensor(colour, dtype=torch.float32), "backdoor_distributed"
    whole = Backdoor(_bars(tuple(range(parts)), size, shade), wanted)
    shares = [_bars((part,), size, shade) for part in range(parts)]
    own = [
        Contamination(
            f"{name} part {part + 1} of {parts}",
            data=plant_trigger(one, wanted, rate),
            backdoor=whole,
        )
        for part, one in enumerate(shares)
    ]
    return Contamination(
        name, data=plant_trigger(whole.trigger, wanted, rate), backdoor=whole, parts=tuple(own)
    )


def _bars(which: Sequence[int], size: float, colour: Tensor) -> Trigger:
    def trigger(images: Tensor) -> Tensor:
        side = min(images.shape[-2:])
        total, high, edge = (
            max(3, round(size * side)),
            max(1, round(BAR * side)),
            round(MARGIN * side),
        )
        gap = max(1, total // 5)
        long = max(1, (total - gap) // 2)
        out = images.clone()
        for bar in which:
            top, left = edge + bar // 2 * 2 * high, edge + bar % 2 * (long + gap)
            out[..., top : top + high, left : left + long] = colour.to(images)[:, None, None]
        return out

    return trigger
