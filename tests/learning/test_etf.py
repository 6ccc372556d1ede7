import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.errors import ConfigError
from fedrobust.learning import etf
from fedrobust.utils.seeding import generator


def make(dimension=6, num_classes=4, seed=0):
    return etf.simplex_etf(dimension, num_classes, generator(seed, "etf"))


def test_two_classes_in_one_dimension_are_plus_and_minus_one():
    # K = 2, d = 1: unit columns with inner product -1/(2-1) = -1, so {+1, -1} in some order
    anchors = make(1, 2)
    assert anchors.shape == (1, 2)
    assert sorted(anchors.flatten().tolist()) == pytest.approx([-1.0, 1.0], abs=1e-7)


def test_three_classes_in_the_plane_stand_120_degrees_apart():
    # K = 3, d = 2: cos = -1/2, the corners of an equilateral triangle
    gram = make(2, 3).T @ make(2, 3)
    assert torch.allclose(
        gram, torch.tensor([[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5], [-0.5, -0.5, 1.0]]), atol=5e-6
    )


@settings(max_examples=30)
@given(num_classes=st.integers(2, 12), extra=st.integers(-1, 60), seed=st.integers(0, 99))
def test_invariants(num_classes, extra, seed):
    dimension = num_classes + extra
    anchors = make(dimension, num_classes, seed)
    assert anchors.shape == (dimension, num_classes)
    assert anchors.dtype == torch.float32
    assert not anchors.requires_grad
    ideal = num_classes / (num_classes - 1) * (torch.eye(num_classes) - 1 / num_classes)
    assert torch.allclose(anchors.T @ anchors, ideal, atol=5e-6)
    assert torch.allclose(anchors.sum(1), torch.zeros(dimension), atol=5e-6)
    assert torch.linalg.matrix_rank(anchors, tol=1e-3) == num_classes - 1
    # M M' = K/(K-1) times a projector: squared it is itself, up to the factor
    outer = (anchors @ anchors.T) * (num_classes - 1) / num_classes
    assert torch.allclose(outer @ outer, outer, atol=5e-6)


def test_no_class_is_out_of_reach_of_non_negative_features():
    # max over h >= 0 of cos(h, m) = |max(m, 0)|; about sqrt(1/2) for normal anchors, .08 for the
    # first anchor of uniform ones
    assert make(2048, 8).clamp(min=0).norm(dim=0).min() > 0.6


def test_only_its_generator_decides():
    before = torch.get_rng_state()
    assert torch.equal(make(seed=3), make(seed=3))
    assert not torch.equal(make(seed=3), make(seed=4))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("dimension", "num_classes"), [(2, 4), (1, 3), (5, 1), (5, 0)])
def test_impossible_sizes_are_refused(dimension, num_classes):
    with pytest.raises(ConfigError, match=r"model\.dimension=|num_classes="):
        make(dimension, num_classes)


@settings(max_examples=20)
@given(num_classes=st.integers(2, 9), extra=st.integers(-1, 20))
def test_bytes_come_back_bit_by_bit(num_classes, extra):
    anchors = make(num_classes + extra, num_classes)
    data = etf.to_bytes(anchors)
    assert len(data) == 4 * anchors.numel()
    assert torch.equal(etf.from_bytes(data, num_classes, etf.digest(anchors)), anchors)


def test_layout_of_the_bytes():
    # row by row, little-endian: 1.0 is 00 00 80 3f, -2.0 is 00 00 00 c0
    assert etf.to_bytes(torch.tensor([[1.0, -2.0]])) == bytes.fromhex("0000803f000000c0")
    assert etf.to_bytes(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T) == etf.to_bytes(
        torch.tensor([[1.0, 3.0], [2.0, 4.0]])
    )


def test_one_flipped_bit_is_noticed():
    anchors = make()
    data = bytearray(etf.to_bytes(anchors))
    data[0] ^= 1
    assert etf.digest(anchors) != etf.hashlib.sha256(bytes(data)).hexdigest()
    with pytest.raises(ValueError, match="SHA-256"):
        etf.from_bytes(bytes(data), 4, etf.digest(anchors))


@pytest.mark.parametrize(
    ("anchors", "num_classes", "match"),
    [
        (make(6, 4), 5, "are no anchors of 5 classes"),
        (make(6, 4)[:, :0], 4, "are no anchors"),
        (make(6, 4), 1, "are no anchors of 1"),
        (make(6, 4).index_fill(0, torch.tensor([0]), math.nan), 4, "not finite"),
        (make(6, 4).index_fill(0, torch.tensor([2]), math.inf), 4, "not finite"),
        (make(6, 4) * 1.001, 4, "geometry"),
        (make(6, 4)[:, [0, 0, 1, 2]], 4, "geometry"),
        (make(6, 4), 2, "geometry"),
    ],
)
def test_bytes_that_are_no_simplex_are_refused(anchors, num_classes, match):
    with pytest.raises(ValueError, match=match):
        etf.from_bytes(etf.to_bytes(anchors), num_classes, etf.digest(anchors))
