"""Total variation: steps worked by hand, the exact minimum, another library's minimum and how near
it comes to it, the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrobust.defences.purification import total_variation, total_variation_cpu
from fedrobust.utils.seeding import generator


def pictures(
    count: int = 2, channels: int = 3, height: int = 9, width: int = 12, seed: int = 0
) -> Tensor:
    return torch.rand(count, channels, height, width, generator=generator(seed, "pictures"))


def variation(images: Tensor) -> Tensor:
    """Isotropic total variation of every image and channel, with forward differences."""
    rows = torch.nn.functional.pad(images.diff(dim=-2), (0, 0, 0, 1))
    columns = torch.nn.functional.pad(images.diff(dim=-1), (0, 1))
    return torch.hypot(rows, columns).sum(dim=(-2, -1))


def energy(after: Tensor, before: Tensor, weight: float) -> Tensor:
    """Energy that the denoising minimises, of every image and channel."""
    return weight * variation(after) + (after - before).square().sum(dim=(-2, -1)) / 2


@pytest.mark.parametrize("unrolled", [False, True])
def test_two_pixels_by_hand(unrolled: bool) -> None:
    # f = (0, 1), weight 1; u = (-p, 1 + p), so grad u = 1 + 2p, and p <- q - tau grad u, never
    # below -1 here 1 step (tau .2): p = -.2 2 steps (tau .25, then .2 with beta .1): p = -.25; q =
    # -.25 + .1 * -.25 = -.275, p = -.275 - .2 * .5 = -.375 3 steps (.35, .25 with beta .25, .2 with
    # .1): p = -.35; q = -.4375, p = -.4375 - .25 * .3 = -.5125;
    #   q = -.5125 + .1 * -.1625 = -.52875, p = -.52875 - .2 * -.025 = -.52375
    # limit: weight at least .5, so u is even
    pixels = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).requires_grad_(unrolled)
    for steps, first in ((0, 0.0), (1, 0.2), (2, 0.375), (3, 0.52375), (400, 0.5)):
        assert total_variation.rof(pixels, 1.0, steps).flatten().tolist() == pytest.approx(
            [first, 1 - first], abs=1e-5
        )
        assert total_variation.rof(
            pixels.transpose(2, 3), 1.0, steps
        ).flatten().tolist() == pytest.approx([first, 1 - first], abs=1e-5)
    # weight .25: the difference shrinks by 2 * weight, u = (.25, .75)
    assert total_variation.rof(pixels, 0.25, 400).flatten().tolist() == pytest.approx(
        [0.25, 0.75], abs=1e-5
    )


@pytest.mark.parametrize("unrolled", [False, True])
def test_one_step_in_two_directions_by_hand(unrolled: bool) -> None:
    # f = ((0, .3), (.4, 0)), weight .05: in units of the weight ((0, 6), (8, 0)), and |p| is at
    # most 1. tau .2. Differences (down, right) and p: at 00 (8, 6), -(1.6, 1.2) has length 2: p =
    # -(.8, .6); at 01 -6 down, 1.2: p = 1; at 10 -8 right, 1.6: p = 1; at 11 none. u = f - p + what
    # comes from above and from the left: 00: 0 + .8 + .6 = 1.4; 01: 6 - 1 - .6 = 4.4; 10: 8 - 1 -
    # .8 = 6.2; 11: 0 + 1 + 1 = 2; times .05
    pixels = torch.tensor([[0.0, 0.3], [0.4, 0.0]]).view(1, 1, 2, 2).requires_grad_(unrolled)
    assert total_variation.rof(pixels, 0.05, 1).flatten().tolist() == pytest.approx(
        [0.07, 0.22, 0.31, 0.1], abs=1e-6
    )


@settings(max_examples=20)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    weight=st.floats(0.005, 0.5),
    steps=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)
def test_both_ways_of_computing_it_agree(
    height: int, width: int, weight: float, steps: int, seed: int
) -> None:
    images = pictures(2, 1, height, width, seed)
    assert torch.allclose(
        total_variation.rof(images, weight, steps),
        total_variation.rof(images.clone().requires_grad_(), weight, steps),
        atol=1e-5,
    )


@settings(max_examples=20)
@given(weight=st.floats(0.01, 0.3), seed=st.integers(0, 2**31))
def test_it_keeps_the_mean_and_lowers_what_it_minimises(weight: float, seed: int) -> None:
    images = pictures(seed=seed)
    after = total_variation.rof(images, weight)
    assert torch.allclose(after.mean(dim=(2, 3)), images.mean(dim=(2, 3)), atol=1e-5)
    assert (variation(after) < variation(images)).all()
    assert (energy(after, images, weight) < energy(images, images, weight)).all()


def test_maps_portions_and_threads_do_not_touch_each_other(
    monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]
) -> None:
    images = pictures(3)
    whole = total_variation.rof(images, 0.1)
    assert torch.equal(total_variation.rof(images[1:2, 2:], 0.1), whole[1:2, 2:])
    for side_by_side in (1, 2, 4, 9):  # maps; four of nine leave one over
        monkeypatch.setattr(total_variation_cpu, "ROW", side_by_side * 12)
        for count in (1, 2):
            threads(count)
            assert torch.equal(total_variation.rof(images, 0.1), whole)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("weight", [0.01, 0.1])
def test_the_compiled_steps_and_those_by_tensors_go_the_same_way_step_by_step(
    weight: float,
) -> None:
    # rounding in another order makes differences of some units in the last place of double
    # precision, for any number of steps
    images = pictures(1, 2, 13, 7).double()
    for steps in (1, 2, 3, 5, 12, 40):
        by_tensors = total_variation.rof(images.clone().requires_grad_(), weight, steps).detach()
        assert float((total_variation.rof(images, weight, steps) - by_tensors).abs().max()) < 1e-14


def denoised(images: Tensor, weight: float, **options: float) -> Tensor:
    """By scikit-image, channel by channel."""
    restoration = pytest.importorskip(
        "skimage.restoration", reason="scikit-image is not installed; nothing to compare with"
    )
    found = [
        restoration.denoise_tv_chambolle(one.numpy(), weight=weight, **options)
        for one in images.flatten(0, 1)
    ]
    return torch.from_numpy(np.stack(found)).view(images.shape)


@pytest.mark.parametrize("weight", [0.02, 0.1])
def test_the_minimum_is_that_of_scikit_image(weight: float) -> None:
    images = pictures(1, 3, 17, 20).double()
    theirs = denoised(images, weight, eps=0, max_num_iter=4000)
    assert float((total_variation.rof(images, weight, 500) - theirs).abs().max()) < 1e-3


@pytest.mark.parametrize("weight", [0.02, 0.05])
@pytest.mark.parametrize("std", [0.01, 0.04])
def test_the_default_steps_come_lower_than_scikit_image(weight: float, std: float) -> None:
    # what purifiers see: even parts, an edge, a slope and noise. At its default tolerance, and
    # after its twenty steps
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij"
    )
    lesion = 0.7 - 0.4 * (rows.square() + 0.6 * columns.square() < 0.4).float() + 0.1 * rows
    noise = torch.randn(4, 3, 28, 28, generator=generator(0, "noise"))
    images = (lesion + std * noise).double()
    ours = energy(total_variation.rof(images, weight), images, weight)
    assert float((ours / energy(denoised(images, weight), images, weight)).mean()) < 1
    assert (ours < energy(denoised(images, weight, eps=0, max_num_iter=21), images, weight)).all()


def test_the_gradient_is_that_of_the_iteration() -> None:
    images = pictures(1, 1, 3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda one: total_variation.rof(one, 0.1, 3), images)


def test_images_that_could_have_a_gradient_need_none() -> None:
    images = pictures()
    with torch.no_grad():
        assert torch.equal(
            total_variation.rof(images.clone().requires_grad_(), 0.1),
            total_variation.rof(images, 0.1),
        )


def step_by_step(f: np.ndarray, weight: float, steps: list[tuple[float, float]]) -> np.ndarray:
    """The steps with numpy, each operation rounded for itself."""
    number = f.dtype.type
    origin = f / number(weight)
    u, p, q = origin, np.zeros((2, *f.shape), f.dtype), np.zeros((2, *f.shape), f.dtype)
    for tau, beta in steps:
        long = p + number(beta) * (p - q)
        long[0, :, :-1] += number(tau) * (u[:, :-1] - u[:, 1:])
        long[1, :, :, :-1] += number(tau) * (u[:, :, :-1] - u[:, :, 1:])
        long[0, :, -1], long[1, :, :, -1] = 0, 0
        q, p = p, long * (1 / np.sqrt(np.maximum(1, long[0] * long[0] + long[1] * long[1])))
        above = np.pad(p[0, :, :-1], ((0, 0), (1, 0), (0, 0)))
        left = np.pad(p[1, :, :, :-1], ((0, 0), (0, 0), (1, 0)))
        u = origin - p[0] - p[1] + above + left
    return u * number(weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 5, 15), (3, 4, 16), (2, 14, 17), (40, 3, 33), (1, 1, 600)])
def test_the_compiled_steps_are_those_of_numpy_bit_by_bit(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """Whatever a row's length is: rows are filled up to whole cache lines."""
    maps = torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    steps = [(0.35, 0.5), (0.35, 0.5), (0.25, 0.25), (0.2, 0.1)]
    found = total_variation_cpu.solved(maps, 0.05, steps).numpy()
    np.testing.assert_array_equal(found, step_by_step(maps.numpy(), 0.05, steps))
