"""Total variation: steps worked by hand, the exact minimum, another library's iterates, the gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrobust.purification import tv
from fedrobust.seeding import generator


def pictures(count: int = 2, channels: int = 3, height: int = 9, width: int = 12, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, height, width, generator=generator(seed, "pictures"))


def variation(images: Tensor) -> Tensor:
    """Isotropic total variation of every image and channel, with forward differences."""
    rows = torch.nn.functional.pad(images.diff(dim=-2), (0, 0, 0, 1))
    columns = torch.nn.functional.pad(images.diff(dim=-1), (0, 1))
    return torch.hypot(rows, columns).sum(dim=(-2, -1))


@pytest.mark.parametrize("unrolled", [False, True])
def test_two_pixels_by_hand(unrolled: bool) -> None:
    # f = (0, 1), weight .25, tau .25: tau / weight = 1.
    # step 1: grad u = 1, p = (0 - .25 * 1) / (1 + 1) = -.125; u = f + div p = (0 + .125, 1 - .125)
    # step 2: grad u = .75, p = (-.125 - .25 * .75) / (1 + .75) = -.3125 / 1.75; u = (.178571, .821429)
    # limit: the difference shrinks by 2 * weight, u = (.25, .75)
    pixels = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).requires_grad_(unrolled)
    for steps, first in ((0, 0.0), (1, 0.125), (2, 0.3125 / 1.75), (400, 0.25)):
        assert tv.rof(pixels, 0.25, steps).flatten().tolist() == pytest.approx([first, 1 - first], abs=1e-4)
        assert tv.rof(pixels.transpose(2, 3), 0.25, steps).flatten().tolist() == pytest.approx([first, 1 - first], abs=1e-4)


@pytest.mark.parametrize("unrolled", [False, True])
def test_one_step_in_two_directions_by_hand(unrolled: bool) -> None:
    # f = ((0, .3), (.4, 0)), weight .25. Differences (down, right): at 00 (.4, .3), norm .5; at 01 (-.3, 0); at 10 (0, -.4); at 11 none.
    # p = -.25 g / (1 + |g|): 00 (-.4, -.3) / 6 = (-.066667, -.05); 01 .075 / 1.3 = .057692 down; 10 .1 / 1.4 = .071429 right.
    # u = f - p + what comes from above and from the left:
    # 00: 0 + .066667 + .05 = .116667; 01: .3 - .057692 - .05 = .192308; 10: .4 - .071429 - .066667 = .261905; 11: .057692 + .071429
    pixels = torch.tensor([[0.0, 0.3], [0.4, 0.0]]).view(1, 1, 2, 2).requires_grad_(unrolled)
    wanted = [0.116667, 0.192308, 0.261905, 0.129121]
    assert tv.rof(pixels, 0.25, 1).flatten().tolist() == pytest.approx(wanted, abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(
    height=st.integers(1, 12), width=st.integers(1, 12), weight=st.floats(0.005, 0.5), steps=st.integers(1, 30), seed=st.integers(0, 2**31)
)
def test_both_ways_of_computing_it_agree(height: int, width: int, weight: float, steps: int, seed: int) -> None:
    images = pictures(2, 1, height, width, seed)
    assert torch.allclose(tv.rof(images, weight, steps), tv.rof(images.clone().requires_grad_(), weight, steps), atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(weight=st.floats(0.01, 0.3), seed=st.integers(0, 2**31))
def test_it_keeps_the_mean_and_lowers_what_it_minimises(weight: float, seed: int) -> None:
    images = pictures(seed=seed)
    after = tv.rof(images, weight)
    assert torch.allclose(after.mean(dim=(2, 3)), images.mean(dim=(2, 3)), atol=1e-5)
    assert (variation(after) < variation(images)).all()
    energy = weight * variation(after) + (after - images).square().sum(dim=(2, 3)) / 2
    assert (energy < weight * variation(images)).all()


def test_channels_images_and_portions_do_not_touch_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(3)
    whole = tv.rof(images, 0.1)
    assert torch.allclose(tv.rof(images[1:2, 2:], 0.1), whole[1:2, 2:], atol=1e-6)
    monkeypatch.setattr(tv, "CELLS", 4 * 9 * 12)  # four maps at once
    assert torch.allclose(tv.rof(images, 0.1), whole, atol=1e-6)


@pytest.mark.parametrize("weight", [0.02, 0.1])
def test_against_scikit_image(weight: float) -> None:
    restoration = pytest.importorskip("skimage.restoration", reason="scikit-image is not installed; nothing to compare with")
    images = pictures(2, 3, 17, 20).double()
    # its first pass changes nothing but the dual field: 21 passes are 20 steps; eps 0: no early end
    theirs = np.stack([
        restoration.denoise_tv_chambolle(image.permute(1, 2, 0).numpy(), weight=weight, eps=0, max_num_iter=21, channel_axis=-1)
        for image in images
    ])  # fmt: skip
    assert np.abs(tv.rof(images, weight, 20).permute(0, 2, 3, 1).numpy() - theirs).max() < 1e-12


def test_the_gradient_is_that_of_the_iteration() -> None:
    images = pictures(1, 1, 3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda one: tv.rof(one, 0.1, 3), images)
