"""Images and labels before and after contamination, client by client."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fedrobust.reporting.plots.style import (
    FONT_SIZE,
    INK,
    KIND_COLOURS,
    class_labels,
    new_figure,
    save_figure,
)
from fedrobust.types import Samples
from fedrobust.utils.images import as_bytes

TILE = 0.95  # inches of an image's side
LETTERS = 13  # that fit below an image
CHANGED = KIND_COLOURS["poisoned"]


def plot_samples(
    rows: Sequence[tuple[str, Samples, Samples]], class_names: Sequence[str], path: Path
) -> Path:
    """One block for each (title, clean samples, the same samples contaminated): images above,
    contaminated images below, and under each column its label, "before → after" where it changed.
    Returns the path.

    Give a handful of samples (6 to 8); shorter blocks leave their last columns empty. Raises
    ValueError without rows, on an empty block, or when clean and contaminated do not have the same
    number.
    """
    for title, clean, contaminated in rows:
        if not 0 < len(clean) == len(contaminated):
            raise ValueError(
                f"{title}: {len(clean)} clean and {len(contaminated)} contaminated "
                "samples do not make pairs"
            )
    if not rows:
        raise ValueError("no samples to show")
    names = class_labels(class_names)
    columns = max(len(clean) for _, clean, _ in rows)
    figure = new_figure((TILE + 0.06) * columns + 0.4, (2 * TILE + 0.8) * len(rows))
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.04, wspace=0, hspace=0)
    blocks = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for block, (title, clean, contaminated) in zip(blocks, rows, strict=True):
        block.suptitle(
            title, x=0.012, ha="left", fontsize=FONT_SIZE + 1, fontweight="bold", color=INK
        )
        grid = block.subplots(2, columns, squeeze=False)
        _strip(grid[0], "clean", clean.images)
        _strip(grid[1], "contaminated", contaminated.images)
        _captions(grid[1], clean.labels.tolist(), contaminated.labels.tolist(), names)
    return save_figure(figure, path)


def _strip(axes_row: Any, name: str, images: Tensor) -> None:
    """One line of images; its name stands to the left."""
    pixels = as_bytes(images).permute(0, 2, 3, 1).cpu().numpy()
    for axes in axes_row:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    for axes, image in zip(axes_row, pixels, strict=False):
        axes.imshow(image, interpolation="nearest")
    axes_row[0].set_ylabel(name, fontsize=FONT_SIZE - 1, color=INK)


def _captions(
    axes_row: Any, before: Sequence[int], after: Sequence[int], names: Sequence[str]
) -> None:
    """The labels below the images; a changed one is bold and red."""
    for axes, old, new in zip(axes_row, before, after, strict=False):
        shown = [names[one] for one in ((old,) if old == new else (old, new))]
        look = {} if old == new else {"color": CHANGED, "fontweight": "bold"}
        axes.set_xlabel(_fitting(shown), **{"fontsize": FONT_SIZE - 2, "color": INK, **look})


def _fitting(names: Sequence[str]) -> str:
    """One name, or "before → after", within an image's width: on two lines and with long names cut
    where it must be."""
    line = " → ".join(names)
    cut = [name if len(name) <= LETTERS else name[: LETTERS - 1] + "…" for name in names]
    return line if len(line) <= LETTERS else "\n→ ".join(cut)
