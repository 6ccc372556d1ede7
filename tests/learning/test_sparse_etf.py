"""The sparse simplex ETF: zeros, unit lengths, equal angles."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.errors import ConfigError
from fedrobust.learning.sparse_etf import sparse_etf


@settings(max_examples=10)
@given(dimension=st.integers(16, 48), num_classes=st.integers(2, 7))
def test_zeros_lengths_and_angles(dimension: int, num_classes: int) -> None:
    found = sparse_etf(dimension, num_classes, 0.6)
    assert int((found == 0).sum()) >= int(0.6 * dimension * num_classes)
    assert torch.allclose(found.norm(dim=0), torch.ones(num_classes), atol=1e-5)
    apart = ~torch.eye(num_classes, dtype=torch.bool)
    cosines = (found.T @ found)[apart]
    # where a class has enough entries of its own to be turned freely
    if dimension >= 6 * num_classes:
        assert (cosines + 1 / (num_classes - 1)).abs().max() < 0.02


def test_equal_sizes_give_equal_bits_and_no_sparsity_gives_a_simplex() -> None:
    first = sparse_etf(64, 7, 0.6).clone()
    sparse_etf.cache_clear()
    assert torch.equal(sparse_etf(64, 7, 0.6), first)
    dense = sparse_etf(8, 3, 0.0)
    # K = 3: M'M = 3/2 (I - 1/3), 1 on the diagonal and -1/2 elsewhere
    wanted = torch.tensor([[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5], [-0.5, -0.5, 1.0]])
    assert torch.allclose(dense.T @ dense, wanted, atol=1e-5)


@pytest.mark.parametrize("sparsity", [0.2, 0.8])
def test_at_least_the_share_of_zeros_that_is_asked_for(sparsity: float) -> None:
    """More where a feature is left to one class alone, which orthogonality then takes away."""
    assert int(sparsity * 200) <= int((sparse_etf(50, 4, sparsity) == 0).sum()) < 200


def test_a_class_vector_of_zeros_is_refused() -> None:
    # 60 of 64 entries are zeros: 4 are left for 8 classes
    with pytest.raises(ConfigError, match=r"^client\.sparsity=0\.95: leaves a class vector"):
        sparse_etf(8, 8, 0.95)
