import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.learning.augmentation import augment, draw_batch, first_view
from fedrobust.utils.seeding import generator


def symmetries(image):
    """The eight pictures that flips and quarter turns make of one."""
    turned = [torch.rot90(image, quarter, (1, 2)) for quarter in range(4)]
    return [*turned, *(picture.flip(2) for picture in turned)]


@settings(max_examples=20)
@given(seed=st.integers(0, 999), size=st.integers(2, 7))
def test_below_eight_pixels_every_image_becomes_one_of_its_eight_symmetries(seed, size):
    images = torch.rand(6, 3, size, size, generator=generator(seed, "images"))
    for before, after in zip(images, augment(images, generator(seed, "augment")), strict=True):
        assert any(torch.equal(after, picture) for picture in symmetries(before))


def test_all_eight_occur_about_equally_often():
    image = torch.arange(4.0).view(1, 1, 2, 2)
    out = augment(image.expand(1600, -1, -1, -1), generator(0, "augment")).flatten(1)
    _, counts = out.unique(dim=0, return_counts=True)
    # 1600 / 8 = 200 each, standard deviation sqrt(1600 * 1/8 * 7/8) = 13
    assert len(counts) == 8
    assert counts.min() > 140
    assert counts.max() < 260


def test_shifts_reach_an_eighth_and_repeat_the_border():
    # not square: no quarter turns; height 3: no vertical shift
    ramp = torch.arange(16.0).view(1, 1, 1, 16).expand(400, 1, 3, 16)
    rows = augment(ramp, generator(0, "augment"))[:, 0, 0]
    forward = torch.stack([row if row[0] < row[-1] else row.flip(0) for row in rows])
    expected = torch.stack([(torch.arange(16.0) + shift).clamp(0, 15) for shift in range(-2, 3)])
    assert {tuple(row.tolist()) for row in forward} == {tuple(row.tolist()) for row in expected}


def test_shape_dtype_input_and_generator():
    images = torch.randint(
        0, 256, (5, 3, 16, 24), generator=generator(0, "images"), dtype=torch.uint8
    )
    kept, before = images.clone(), torch.get_rng_state()
    out = augment(images, generator(0, "augment"))
    assert (out.shape, out.dtype) == (images.shape, torch.uint8)
    assert torch.equal(images, kept)
    assert torch.equal(out, augment(images, generator(0, "augment")))
    assert not torch.equal(out, augment(images, generator(1, "augment")))
    assert torch.equal(before, torch.get_rng_state())
    assert augment(images[:0], generator(0, "augment")).shape == (0, 3, 16, 24)


def test_a_batch_of_features_holds_one_drawn_view_of_each_image() -> None:
    views = torch.arange(5 * 3 * 2.0).reshape(5, 3, 2)
    index = torch.tensor([4, 0, 4, 2])
    drawn = torch.randint(3, (4,), generator=generator(1))
    assert torch.equal(draw_batch(views, index, generator(1)), views[index, drawn])
    assert torch.equal(draw_batch(views, index, None), views[index, 0])
    assert torch.equal(first_view(views), views[:, 0])


def test_a_batch_of_plain_features_is_never_augmented() -> None:
    features, g = torch.rand(5, 2), generator(1)
    before = g.get_state()
    assert torch.equal(draw_batch(features, torch.tensor([3, 1]), g), features[[3, 1]])
    assert torch.equal(g.get_state(), before)
    assert first_view(features) is features


def test_a_batch_of_images_is_augmented_as_such() -> None:
    images, index = torch.rand(4, 3, 8, 8), torch.tensor([2, 0])
    made = draw_batch(images, index, generator(1))
    assert torch.equal(made, augment(images[index], generator(1)))
    assert torch.equal(draw_batch(images, index, None), images[index])
