"""Random inputs of a model."""

import torch
from torch import Generator

from fedrobust.learning.random_inputs import random_inputs


def test_they_have_the_images_shape_or_the_features_range() -> None:
    images = torch.zeros(2, 3, 5, 5, dtype=torch.uint8)
    drawn = random_inputs(images, 7, Generator().manual_seed(0))
    assert drawn.shape == (7, 3, 5, 5)
    assert 0 <= drawn.min() < 0.1
    assert 0.9 < drawn.max() <= 1
    features = torch.tensor([[0.0, 3], [2, 3], [1, 5]])
    for like in (features, torch.stack([features, features + 100], dim=1)):  # the first view
        drawn = random_inputs(like, 500, Generator().manual_seed(0))
        assert drawn.shape == (500, 2)
        torch.testing.assert_close(drawn.amin(dim=0), torch.tensor([0.0, 3]), atol=0.05, rtol=0)
        torch.testing.assert_close(drawn.amax(dim=0), torch.tensor([2.0, 5]), atol=0.05, rtol=0)
    one, other = (random_inputs(features, 4, Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)
