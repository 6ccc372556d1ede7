"""Many small images in named lines, side by side: one picture of what all corruptions or triggers
look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fedrobust.reporting.plots.style import DPI, FONT_SIZE, INK, new_figure, save_figure
from fedrobust.utils.counting import format_count
from fedrobust.utils.images import as_bytes

GAP = 0.06  # between images, in their widths
NAME = 1.9  # width of a line's name, in widths of an image
TILE = 0.62  # inches of an image's side

Lines = Sequence[tuple[str, Tensor]]


def plot_contact_sheet(blocks: Sequence[Lines], heads: Sequence[str], path: Path) -> Path:
    """Blocks side by side, each of lines (name, images (C, 3, H, W) of one shape) under the column
    heads. Returns the path.

    Raises ValueError without lines, or where a line has not one image for every head.
    """
    lines = [line for block in blocks for line in block]
    if not lines or any(len(images) != len(heads) for _, images in lines):
        raise ValueError(
            f"a contact sheet needs lines of {format_count(len(heads), 'image')} each, as many as "
            "it has heads"
        )
    tall, wide = max(len(block) for block in blocks), NAME + (1 + GAP) * len(heads)
    figure = new_figure(TILE * wide * len(blocks), TILE * ((1 + GAP) * tall + 0.6))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for place, block in enumerate(blocks):
        for column, head in enumerate(heads):
            middle = place * wide + NAME + (1 + GAP) * column + 0.5
            axes.text(
                middle, -0.12, head, ha="center", va="bottom", fontsize=FONT_SIZE - 1, color=INK
            )
        for row, (name, images) in enumerate(block):
            top = (1 + GAP) * row
            axes.text(
                place * wide + NAME - 0.12,
                top + 0.5,
                name,
                ha="right",
                va="center",
                fontsize=FONT_SIZE - 1,
                color=INK,
            )
            _strip(axes, images, place * wide + NAME, top)
    axes.set_xlim(0, wide * len(blocks))
    axes.set_ylim((1 + GAP) * tall, -0.6)
    return save_figure(figure, path)


def _strip(axes: Any, images: Tensor, left: float, top: float) -> None:
    """A line of images as one."""
    pixels = as_bytes(_enlarged(images)).permute(0, 2, 3, 1).cpu().numpy()
    for column, image in enumerate(pixels):
        start = left + (1 + GAP) * column
        axes.imshow(
            image, extent=(start, start + 1, top + 1, top), interpolation="nearest", aspect="auto"
        )


def _enlarged(images: Tensor) -> Tensor:
    """Whole multiples of the pixels, so that small images keep crisp ones at this resolution."""
    times = max(1, round(TILE * DPI / images.shape[-1]))
    return images.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)
