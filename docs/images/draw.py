"""Draw docs/images/{corruptions,triggers}.png from the embedded data set: python
docs/images/draw.py"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fedrobust.contamination.base import Contamination
from fedrobust.data.synthetic import synthetic
from fedrobust.experiment import compose, factories
from fedrobust.reporting.plots.contact_sheet import plot_contact_sheet
from fedrobust.utils.images import as_unit
from fedrobust.utils.seeding import generator

IMAGES = Path(__file__).parent
CLASSES = 7
CORRUPTIONS = (
    *(
        "gaussian_noise",
        "shot_noise",
        "speckle_noise",
        "impulse_noise",
        "defocus_blur",
        "motion_blur",
        "zoom_blur",
        "jpeg",
        "pixelate",
    ),
    *(
        "brightness_up",
        "brightness_down",
        "contrast_up",
        "contrast_down",
        "gamma_up",
        "gamma_down",
        "saturation",
    ),
    *("hair", "ruler", "bubbles", "vignette", "burned_text"),
)
TRIGGERS = (
    *(
        ("patch", "backdoor_patch", {}),
        ("blended", "backdoor_blended", {}),
        ("ruler", "backdoor_clinical", {}),
    ),
    *(
        ("text", "backdoor_clinical", {"kind": "text"}),
        ("distributed, whole", "backdoor_distributed", {}),
    ),
)


def build_corruption(name: str, **changes: object) -> Contamination:
    """The contamination of a yaml with some settings changed."""
    chosen = compose.compose(f"contamination={name}")["contamination"]
    made: Contamination = factories.build_group(
        {"contamination": {**chosen, **changes}}, "contamination", num_classes=CLASSES
    )
    return made


def apply_corruption(contamination: Contamination, images: Tensor) -> Tensor:
    """The images after it."""
    return contamination.data(
        images, torch.zeros(len(images), dtype=torch.int64), generator(0, "sheet")
    )[0]


def main() -> None:
    """Both pictures."""
    dataset = synthetic(size=96, num_images=60).load()
    one_each = torch.stack([(dataset.labels == kind).nonzero()[1, 0] for kind in range(CLASSES)])
    images = as_unit(dataset.samples(one_each).images)
    shown = images[1:2]
    lines = [
        (
            name.replace("_", " "),
            torch.cat(
                [
                    shown,
                    *(
                        apply_corruption(build_corruption(name, severity=grade), shown)
                        for grade in range(1, 6)
                    ),
                ]
            ),
        )
        for name in CORRUPTIONS
    ]
    half = (len(lines) + 1) // 2
    plot_contact_sheet(
        [lines[:half], lines[half:]], ("clean", "1", "2", "3", "4", "5"), IMAGES / "corruptions.png"
    )
    doors = [(title, build_corruption(name, **changes)) for title, name, changes in TRIGGERS]
    marked = [
        (title, door.backdoor.trigger(images)) for title, door in doors if door.backdoor is not None
    ]
    plot_contact_sheet(
        [[("clean", images), *marked]],
        [str(kind) for kind in range(CLASSES)],
        IMAGES / "triggers.png",
    )


if __name__ == "__main__":
    main()
