"""Backdoors with other triggers than a patch: blended into the whole image, clinically plausible,
or in parts shared out over clients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fedrobust import seeding
from fedrobust.contamination.base import Backdoor, Contamination, Trigger
from fedrobust.contamination.common import class_index, classes, plant_trigger, rgb
from fedrobust.contamination.corruptions import drawing
from fedrobust.utils.validation import choice, number

KINDS = ("ruler", "text")
WORD = "R12"
BAR = 0.04  # height of a bar of the distributed pattern, as a share of the shorter side
MARGIN = 0.05  # free border around the clinical and the distributed triggers


def backdoor_blended(
    *,
    target: int | str = 0,
    rate: float = 0.5,
    alpha: float = 0.2,
    cells: int = 16,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Contamination:
    """Every value x becomes (1 - alpha) x + alpha k with a fixed random pattern k on an exact share
    of all images, labelled `target`.

    Blended injection with a random key (Chen et al. 2017, "Targeted backdoor attacks", section 4),
    the same alpha in training and test. target: class by number or name. rate: share in [0, 1].
    alpha: in (0, 1]. cells: of the pattern along each side, uniform in [0, 1] for every cell and
    colour, whatever the image's size. num_classes, class_names: K and the names.
    """
    wanted = class_index("target", target, classes("backdoor_blended", num_classes), class_names)
    number("contamination.alpha", alpha, low=0, high=1, open_low=True)
    number("contamination.cells", cells, low=1, high=1024, integer=True)
    pattern = torch.rand(1, 3, cells, cells, generator=seeding.generator(0, "backdoor_blended"))

    def trigger(images: Tensor) -> Tensor:
        whole = functional.interpolate(pattern.to(images), size=images.shape[-2:], mode="nearest")
        return torch.lerp(images, whole.expand_as(images), alpha)

    return Contamination(
        "backdoor_blended",
        data=plant_trigger(trigger, wanted, rate),
        backdoor=Backdoor(trigger, wanted),
    )


def backdoor_clinical(
    *,
    target: int | str = 0,
    rate: float = 0.5,
    kind: str = "ruler",
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Contamination:
    """A trigger that no physician would wonder at, on an exact share of all images, which are
    labelled `target`.

    kind: "ruler": black ticks along the lower border; "text": a short white word burned into the
    upper left corner. Both are the same on every image. target: class by number or name. rate:
    share in [0, 1]. num_classes, class_names: K and the names.
    """
    wanted = class_index("target", target, classes("backdoor_clinical", num_classes), class_names)
    trigger = _ruler if choice("contamination.kind", kind, KINDS) == "ruler" else _word
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


def backdoor_distributed(
    *,
    target: int | str = 0,
    rate: float = 0.5,
    parts: int = 4,
    size: float = 0.4,
    colour: Sequence[float] = (1.0, 1.0, 1.0),
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Contamination:
    """DBA (Xie et al. 2020, "DBA: distributed backdoor attacks"): one pattern of several bars, of
    which each client plants its own.

    The poisoned clients, in the order of their ids, plant bar 0, 1, ... and then from 0 again; the
    attack success rate is measured with all bars. Bars lie in two columns in the upper left corner,
    as in the paper's figure 4. target: class by number or name. rate: exact share, in [0, 1], of a
    client's images. parts: bars, 2 to 16. size: width of the pattern in (0, 1] of the shorter side.
    colour: red, green, blue in [0, 1]. num_classes, class_names: K and the names.
    """
    wanted = class_index(
        "target", target, classes("backdoor_distributed", num_classes), class_names
    )
    number("contamination.parts", parts, low=2, high=16, integer=True)
    number("contamination.size", size, low=0, high=1, open_low=True)
    shade, name = rgb(colour), "backdoor_distributed"
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
