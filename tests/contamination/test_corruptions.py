"""Image corruptions: values worked by hand, other libraries' results, and what severity and rate
promise."""

from __future__ import annotations

import colorsys
import inspect
import math
import re
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from torch import Tensor

from fedrobust.contamination import common
from fedrobust.contamination.base import Contamination
from fedrobust.contamination.corruptions import artefacts, digital, noise
from fedrobust.contamination.corruptions import blur as blurs
from fedrobust.contamination.corruptions import colour as tones
from fedrobust.contamination.corruptions import gaussian_noise as gaussian
from fedrobust.data.synthetic.lesions import KINDS, draw_lesions
from fedrobust.errors import ConfigError
from fedrobust.experiment.factories import find_factory
from fedrobust.utils.images import as_bytes
from fedrobust.utils.seeding import generator
from fedrobust.utils.settings_table import list_settings

GRADED = {
    one.__name__: one
    for one in (
        *(
            noise.speckle_noise,
            noise.shot_noise,
            noise.impulse_noise,
            blurs.defocus_blur,
            blurs.motion_blur,
            blurs.zoom_blur,
        ),
        *(
            digital.jpeg,
            digital.pixelate,
            tones.brightness_up,
            tones.brightness_down,
            tones.contrast_up,
            tones.contrast_down,
        ),
        *(
            tones.gamma_up,
            tones.gamma_down,
            tones.saturation,
            artefacts.hair,
            artefacts.ruler,
            artefacts.bubbles,
            artefacts.vignette,
        ),
        artefacts.burned_text,
    )
}
every = pytest.mark.parametrize("name", GRADED)
GREY = torch.full((6, 3, 24, 20), 0.5)


@cache
def lesions(size: int = 64) -> Tensor:
    return torch.cat([draw_lesions(kind, 4, size, generator(0, kind.name)) for kind in KINDS])


def through(contamination: Contamination, images: Tensor, seed: int = 0) -> Tensor:
    return contamination.data(images, torch.zeros(len(images), dtype=torch.int64), generator(seed))[
        0
    ]


def strengths(name: str) -> list[float]:
    """Mean absolute change of drawn lesions at severities 1 to 5, over four draws."""
    images = lesions()
    return [
        sum(
            float((through(GRADED[name](severity=grade), images, seed) - images).abs().mean())
            for seed in range(4)
        )
        / 4
        for grade in range(1, 6)
    ]


@every
def test_severity_climbs(name: str) -> None:
    found = strengths(name)
    assert found[0] > 0
    # the published motion blurs 1 and 2 have the same deviation and differ only where their trails
    # have faded
    assert all(
        later > (0.98 if name == "motion_blur" else 1) * earlier
        for earlier, later in pairwise(found)
    ), found


@every
@pytest.mark.parametrize("severity", [0, 6, 2.5])
def test_severity_goes_from_one_to_five(name: str, severity: float) -> None:
    with pytest.raises(ConfigError, match=r"contamination\.severity"):
        GRADED[name](severity=severity)


@every
def test_rate_is_an_exact_share_and_the_others_keep_every_bit(name: str) -> None:
    # 28 lesions at a rate of .25: 7 images
    images = lesions()
    changed = (through(GRADED[name](severity=5, rate=0.25), images) != images).flatten(1).any(dim=1)
    assert int(changed.sum()) == 7


@every
@settings(max_examples=12)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    severity=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_any_size(name: str, height: int, width: int, severity: int, seed: int) -> None:
    images = torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(seed))
    before = images.clone()
    after = through(GRADED[name](severity=severity), images, seed)
    assert after.shape == images.shape
    assert torch.equal(images, before)
    assert after.isfinite().all()
    assert 0 <= float(after.min()) <= float(after.max()) <= 1


@every
def test_many_images_are_done_in_portions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "PIXELS", 2 * 8 * 8)  # two images at once
    images = torch.rand(5, 3, 8, 8, generator=generator(3))
    calls: list[int] = []

    @common.corruption_factory((0,) * 5)
    def count(some: Tensor, level: int, generator: torch.Generator) -> Tensor:
        calls.append(len(some))
        return some

    through(count(), images)
    assert calls == [2, 2, 1]
    after = through(GRADED[name](severity=5), images)
    assert after.shape == images.shape
    # whose disc is below a pixel at this size
    assert not torch.equal(after[-1], images[-1]) or name == "defocus_blur"


# 6 * 3 * 480 = 8640 values of .5: five standard errors of the share p are 5 sqrt(p (1 - p) / 8640)
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_impulses(severity: int) -> None:
    share = noise.IMPULSE[severity - 1]
    after = through(noise.impulse_noise(severity=severity), GREY)
    for value in (0.0, 1.0):
        assert float((after == value).float().mean()) == pytest.approx(
            share / 2, abs=5 * math.sqrt(share / 2 / 8640)
        )
    assert set(after.unique().tolist()) == {0.0, 0.5, 1.0}


def test_speckle_and_shot_deviations() -> None:
    # speckle at severity 2: .15 * .5 = .075; shot at severity 1: sqrt(60 * .5) / 60 = .0913;
    # standard error about sigma / sqrt(2 * 8640)
    speckle = through(noise.speckle_noise(severity=2), GREY) - 0.5
    assert float(speckle.std()) == pytest.approx(0.075, rel=0.04)
    shot = through(noise.shot_noise(severity=1), GREY) - 0.5
    assert float(shot.std()) == pytest.approx(0.0913, rel=0.04)
    assert float(shot.mean()) == pytest.approx(0, abs=5 * 0.0913 / math.sqrt(8640))
    black = torch.zeros(2, 3, 4, 4)
    # neither has noise where there is no light
    assert not through(noise.speckle_noise(), black).any()
    assert not through(noise.shot_noise(), black).any()


def test_gaussian_levels_are_the_published_ones_but_for_the_first() -> None:
    # DermaMNIST-C: .04, .08, .12, .18, .26; ours begins with the poster's .01
    assert gaussian.SEVERITIES == (0.01, 0.04, 0.08, 0.12, 0.18)


def test_tones_golden() -> None:
    # two pixels, grey .2 and .6: mean luma .4; contrast 1.3 at severity 3: .4 + 1.3 * (-.2, .2) =
    # (.14, .66)
    images = torch.tensor([0.2, 0.6]).expand(1, 3, 1, 2).contiguous()

    def row(contamination: Contamination) -> list[float]:
        return through(contamination, images)[0, 1, 0].tolist()

    assert row(tones.contrast_up(severity=3)) == pytest.approx([0.14, 0.66])
    assert row(tones.contrast_down(severity=5)) == pytest.approx([0.32, 0.48])
    assert row(tones.brightness_up(severity=2)) == pytest.approx([0.24, 0.72])
    assert row(tones.brightness_down(severity=5)) == pytest.approx([0.1, 0.3])
    assert row(tones.gamma_up(severity=5)) == pytest.approx([0.2**1.6, 0.6**1.6])
    assert row(tones.gamma_down(severity=5)) == pytest.approx([0.2**0.4, 0.6**0.4])
    assert row(tones.saturation(severity=5)) == pytest.approx([0.2, 0.6])  # greys


def pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(as_bytes(image).permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("kind", "ours"), [("Brightness", tones.brightness_up), ("Contrast", tones.contrast_down)]
)
def test_tones_against_pillow(kind: str, ours: type) -> None:
    # severity 3 is 1.3 and .6; Pillow rounds the mean and every result to whole bytes: at most 2 of
    # 255 apart
    image = as_bytes(lesions()[:1]) / 255
    factor = 1.3 if kind == "Brightness" else 0.6
    theirs = np.asarray(getattr(ImageEnhance, kind)(pillow(image[0])).enhance(factor)) / 255
    assert (
        np.abs(through(ours(severity=3), image)[0].permute(1, 2, 0).numpy() - theirs).max()
        <= 2 / 255
    )


@settings(max_examples=40)
@given(colour=st.tuples(*[st.floats(0, 1, width=32)] * 3), severity=st.integers(1, 5))
def test_saturation_against_colorsys(colour: tuple[float, float, float], severity: int) -> None:
    hue, old, value = colorsys.rgb_to_hsv(*colour)
    after = (
        through(tones.saturation(severity=severity), torch.tensor(colour).view(1, 3, 1, 1))
        .reshape(3)
        .tolist()
    )
    if max(colour) - min(colour) > 1e-3:  # below that the hue is rounding
        assert after == pytest.approx(
            colorsys.hsv_to_rgb(hue, min(1.0, old + tones.SATURATION[severity - 1]), value),
            abs=2e-3,
        )


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_pixelate_against_pillow(severity: int) -> None:
    image = as_bytes(lesions(50)[:1]) / 255
    small = int(50 * digital.COARSE[severity - 1])
    theirs = (
        np.asarray(
            pillow(image[0])
            .resize((small, small), Image.Resampling.BOX)
            .resize((50, 50), Image.Resampling.BOX)
        )
        / 255
    )
    ours = through(digital.pixelate(severity=severity), image)[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).max() <= 2 / 255


def test_jpeg_is_a_picture_that_was_compressed() -> None:
    images = lesions()
    after = through(digital.jpeg(severity=1), images)
    assert torch.equal(after, as_bytes(after) / 255)  # whole bytes
    assert float((after - images).abs().mean()) < 0.03
    # a grey of 128 is what JPEG codes without any loss: its blocks have the value 0
    grey = torch.full((1, 3, 16, 16), 128 / 255)
    assert torch.equal(through(digital.jpeg(severity=5), grey), grey)


@pytest.mark.parametrize("blur", [blurs.defocus_blur, blurs.motion_blur, blurs.zoom_blur])
def test_blurs_keep_what_is_even(blur: type) -> None:
    assert torch.allclose(through(blur(severity=5), GREY), GREY, atol=1e-6)


def dot(size: int) -> Tensor:
    images = torch.zeros(3, 3, size, size)
    images[:, :, size // 2, size // 2] = 1
    return images


def test_a_dot_out_of_focus_is_a_disc() -> None:
    # at 225 pixels severity 1 has radius 4 * 225 / 224 = 4.018: area 50.7 pixels, so 1 / 50.7
    # inside
    after = through(blurs.defocus_blur(severity=1), dot(225))[0, 0]
    assert float(after.sum()) == pytest.approx(1, abs=1e-4)
    assert float(after[112, 112]) == pytest.approx(1 / (math.pi * 4.018**2), rel=0.01)
    assert float(after[112, 112 + 6]) == pytest.approx(0, abs=1e-6)
    assert torch.allclose(after, after.T, atol=1e-6)


def test_a_moving_dot_leaves_a_trail_to_one_side() -> None:
    # at 224 pixels severity 1 has a trail of 20 pixels within 45 degrees: nothing to the left,
    # weights fall along it
    after = through(blurs.motion_blur(severity=1), dot(224))[:, 0]
    assert torch.allclose(after.sum(dim=(1, 2)), torch.ones(3), atol=1e-4)
    assert float(after[:, :, : 112 - 1].abs().max()) < 1e-5
    assert float(after[:, :, 112 + 22 :].abs().max()) < 1e-5
    columns = after.sum(dim=1)[:, 113:130]
    assert (columns.diff(dim=1) < 1e-3).all()
    assert not torch.allclose(after[0], after[1])  # every image has its own direction


def test_zooming_keeps_the_centre() -> None:
    image = torch.zeros(1, 3, 65, 65)
    image[..., 20:45, 20:45] = 1
    after = through(blurs.zoom_blur(severity=5), image)[0, 0]
    assert float(after[32, 32]) == pytest.approx(1, abs=1e-6)
    # 16 pixels off the centre is reached by factors above 16 / 12.5 = 1.28
    assert 0 < float(after[32, 16]) < 1
    assert float(after[32, 14]) == pytest.approx(0, abs=1e-6)  # 18 / 12.5 = 1.44 is not


def test_vignette_golden() -> None:
    # 24 x 20 pixels at severity 3: a circle of radius 10; corners are dark, the centre is not
    after = through(artefacts.vignette(severity=3), GREY)
    assert after[0, 0, 0, 0] == 0
    assert after[0, 0, 12, 10] == 0.5
    assert float((after[0, 0] > 0).float().sum()) == pytest.approx(math.pi * 100, rel=0.03)


def test_bubbles_are_white_mixed_in_by_the_published_parts() -> None:
    # grey .5 inside: .5 + .5 * 100 / 255 = .696; in the rim: .5 + .5 * 130 / 255 = .755
    values = {
        round(value, 3)
        for value in through(artefacts.bubbles(severity=5), GREY.repeat(1, 1, 8, 8))
        .unique()
        .tolist()
    }
    assert values == {0.5, 0.696, 0.755}


def test_hair_only_darkens_and_differs_from_image_to_image() -> None:
    after = through(artefacts.hair(severity=5), GREY)
    assert (after <= GREY + 1e-6).all()
    assert not torch.equal(after[0], after[1])


def test_a_ruler_has_a_tick_every_twentieth() -> None:
    # 200 pixels: ticks every 10; along a line close to the border there are 19 to 21 of them, less
    # what tilting by 8 degrees takes
    after = through(artefacts.ruler(severity=5), torch.ones(8, 3, 200, 200))[:, 0] < 0.5
    # (8, 4 borders, 200)
    lines = torch.stack([after[:, 12], after[:, -13], after[:, :, 12], after[:, :, -13]], dim=1)
    begins = (lines[..., 1:] & ~lines[..., :-1]).sum(dim=2).amax(dim=1)
    assert ((begins >= 10) & (begins <= 22)).all(), begins


def test_text_stands_in_the_image() -> None:
    after = through(artefacts.burned_text(severity=1), GREY.repeat(1, 1, 2, 2))
    changed = (after != 0.5).any(dim=1)
    # one word of 3 to 6 letters of 4 to 13 cells each, 5 pixels high, fewer than 4 * 6 pixels wide
    heights = changed.any(dim=2).sum(dim=1)
    widths = changed.any(dim=1).sum(dim=1)
    assert (heights == 5).all()
    assert ((widths >= 8) & (widths < 24)).all()


@every
def test_the_factory_is_that_of_its_function(name: str) -> None:
    """`_target_` finds it, help shows its two settings, and its description stays."""
    factory = GRADED[name]
    target = f"{factory.__module__}.{name}"
    assert find_factory("contamination", target) is factory
    assert [one.name for one in list_settings(factory)] == ["severity", "rate"]
    assert all(one.description for one in list_settings(factory))
    described = inspect.getdoc(factory) or ""
    assert re.fullmatch(r".+\n\nArgs:\n.+\n\nReturns:\n.+\n\nRaises:\n.+", described, re.S)
    assert factory().name == name
