"""Images before and after contamination: their size, their labels, the difference."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from fedrobust.reporting.samples import encode_image, make_block
from fedrobust.types import Samples
from fedrobust.utils.seeding import generator
from tests.helpers.samples import sample_block


def pixels(address: str) -> np.ndarray:
    with Image.open(BytesIO(b64decode(address.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB"))


def test_the_difference_is_grey_but_where_pixels_change_and_larger() -> None:
    block = sample_block(changed=True)
    first, second = block.tiles
    assert block.gain == 4.0  # 30 shades: 8 times would be too many
    shades = pixels(first.difference)
    assert (shades[0, 0] == 128 + 120).all()
    assert (shades[1:] == 128).all()
    assert (pixels(second.difference) == 128).all()
    assert (pixels(first.before) == 100).all()
    assert (first.changed, second.changed) == (False, True)


def test_without_changed_pixels_there_is_one_image() -> None:
    block = sample_block(changed=False)
    assert all(not tile.after and not tile.difference and tile.before for tile in block.tiles)


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_made_small(channels: int) -> None:
    image = torch.randint(0, 256, (channels, 300, 450), generator=generator(0, "image"))
    address = encode_image(image.to(torch.uint8))
    assert address.startswith("data:image/jpeg;base64,")
    assert pixels(address).shape == (64, 96, 3)


def test_a_page_of_large_noise_stays_below_three_megabytes() -> None:
    g = generator(0, "noise")
    clean, other = (
        Samples(torch.rand(8, 3, 224, 224, generator=g), torch.zeros(8, dtype=torch.int64))
        for _ in range(2)
    )
    block = make_block("noise", clean, other, ["a"])
    size = sum(len(tile.before) + len(tile.after) + len(tile.difference) for tile in block.tiles)
    assert 5 * size < 2_500_000  # two clients of each kind, and test images
