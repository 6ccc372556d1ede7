"""MDDA: what its parts do, worked by hand or against resampling alone; and what it is for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedrobust.defences.purification import mdda
from fedrobust.defences.purification.base import resize_images, smooth_images
from fedrobust.types import Purifier
from fedrobust.utils.seeding import generator


def made(std: float = 0.0, blocks: int = 0, weight: float = 0.05) -> Purifier:
    return mdda.mdda(std=std, blocks=blocks, weight=weight)


def through(purifier: Purifier, images: Tensor, seed: int = 0) -> Tensor:
    return purifier.purify(images, generator(seed, "purifier"))


def roughness(images: Tensor) -> Tensor:
    return images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()


@pytest.mark.parametrize(("height", "width"), [(32, 40), (29, 31), (3, 1)])
def test_no_blocks_are_resampling_alone(height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width, generator=generator(0, "pictures"))
    back = [
        resize_images(
            resize_images(images, (max(1, round(height * scale)), max(1, round(width * scale)))),
            (height, width),
        )
        for scale in (0.25, 0.5, 1, 2)
    ]
    assert torch.allclose(
        through(made(), images), smooth_images(sum(back) / 4, (0.25, 0.5, 0.25)), atol=1e-6
    )


def test_no_blocks_keep_planes() -> None:
    # every filter in it is symmetric, so brightness that rises evenly stays but for the borders,
    # where pixels are repeated: resampling at 1/4 reaches 8 pixels far, the 3 x 3 Gaussian one more
    rows, columns = torch.meshgrid(
        torch.linspace(0, 0.5, 48), torch.linspace(0, 0.4, 40), indexing="ij"
    )
    plane = (rows + columns).expand(1, 3, 48, 40)
    inner = (..., slice(9, -9), slice(9, -9))
    assert torch.allclose(through(made(), plane)[inner], plane[inner], atol=1e-5)


def test_no_blocks_draw_nothing() -> None:
    random = generator(0, "purifier")
    before = random.get_state()
    made(std=0.5).purify(torch.rand(2, 3, 8, 8), random)
    assert torch.equal(random.get_state(), before)


def test_aggregation_by_hand() -> None:
    # even scales 0, 1, 2, 4: ends (2/3, 1/3), between (1/4, 1/2, 1/4)
    # 0 * 2/3 + 1/3 = .3333; 0 + .5 + .5 = 1; .25 + 1 + 1 = 2.25; 2/3 + 4 * 2/3 = 3.3333
    pyramid = [
        torch.full((1, 1, size, size), value)
        for size, value in ((2, 0.0), (4, 1.0), (8, 2.0), (16, 4.0))
    ]
    after = mdda.aggregate_scales(pyramid)
    assert [one.shape for one in after] == [one.shape for one in pyramid]
    for one, value in zip(after, (1 / 3, 1.0, 2.25, 10 / 3), strict=True):
        assert torch.allclose(one, torch.full_like(one, value))


def test_the_last_filter_by_hand() -> None:
    # a dot of 16: (1, 2, 1) x (1, 2, 1)
    dot = torch.zeros(1, 1, 3, 3)
    dot[0, 0, 1, 1] = 16
    assert smooth_images(dot, mdda.TAPS)[0, 0].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]


def test_as_much_of_the_last_filter_as_asked_for() -> None:
    images = torch.rand(2, 3, 9, 12, generator=generator(0, "pictures"))
    none, half, whole = (
        through(mdda.mdda(std=0, blocks=1, weight=0.05, smoothing=share), images)
        for share in (0, 0.5, 1)
    )
    assert torch.allclose(half, (none + whole) / 2, atol=1e-6)
    assert torch.allclose(smooth_images(none, mdda.TAPS), whole, atol=1e-6)
    assert float(roughness(none)) > float(roughness(whole))


def test_noise_has_deviation_one_and_every_block_its_own() -> None:
    # 64 * 3 * 400 numbers: five standard errors of the deviation are 5 / sqrt(2 * 76800) = .0128
    first, second = mdda.noise(
        torch.zeros(64, 3, 1, 1), [(20, 20), (20, 20)], generator(0, "noise")
    )
    assert float(first.std()) == pytest.approx(1, abs=0.013)
    assert abs(float((first * second).mean())) < 5 / 76800**0.5


def test_an_even_image_is_a_fixed_point_without_noise() -> None:
    even = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 20, 23)
    assert torch.allclose(through(made(blocks=4), even), even, atol=1e-6)


@pytest.mark.parametrize("blocks", [1, 4])
def test_noise_goes_in_and_less_comes_out(blocks: int) -> None:
    noisy = (0.5 + 0.05 * torch.randn(4, 3, 32, 32, generator=generator(1, "noise"))).clamp(0, 1)
    after = through(made(std=0.02, blocks=blocks), noisy)
    assert float(after.var()) < 0.1 * float(noisy.var())
    assert float(roughness(after)) < 0.2 * float(roughness(noisy))
    assert torch.allclose(after.mean(), noisy.mean(), atol=2e-3)


def test_more_weight_is_smoother() -> None:
    images = torch.rand(2, 3, 24, 24, generator=generator(0, "pictures"))
    rough = [
        float(roughness(through(made(0.01, 2, weight), images))) for weight in (0.02, 0.05, 0.1)
    ]
    assert rough[0] > rough[1] > rough[2]


def test_an_edge_stays_where_it_was() -> None:
    edge = torch.full((1, 3, 32, 32), 0.2)
    edge[..., 16:] = 0.8
    after = through(made(std=0.01, blocks=1), edge)[0, 0, 16]
    assert float(after[:8].mean()) == pytest.approx(0.2, abs=0.03)
    assert float(after[24:].mean()) == pytest.approx(0.8, abs=0.03)
    assert float(after[:16].max()) < 0.55 < float(after[16:].min()) + 0.1


def test_the_gradient_is_that_of_all_steps() -> None:
    images = (
        (0.2 + 0.6 * torch.rand(1, 1, 5, 4, generator=generator(0, "pictures")))
        .double()
        .requires_grad_()
    )
    purifier = mdda.mdda(std=0.02, blocks=1, weight=0.05, iterations=3)
    assert torch.autograd.gradcheck(lambda one: through(purifier, one), images)
