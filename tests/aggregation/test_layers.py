"""Layers of updates, and the largest values of a row."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedrobust.aggregation.layers import (
    largest_bounds,
    layer_slices,
    layer_strips,
    weight_layers,
)
from fedrobust.aggregation.updates import Updates
from fedrobust.state import Layout
from tests.helpers.rounds import normal

MODEL = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1, bias=False))
NAMED = replace(Updates.of(normal(0, 4, 14)), layout=Layout.of(MODEL))


def test_layers_are_the_named_parameters() -> None:
    assert layer_slices(NAMED) == [
        slice(0, 6),
        slice(6, 8),
        slice(8, 10),
        slice(10, 12),
        slice(12, 14),
    ]
    assert weight_layers(NAMED) == [True, False, False, False, True]
    bare = Updates.of(normal(0, 4, 14))
    assert (layer_slices(bare), weight_layers(bare)) == ([slice(0, 14)], [True])


@settings(max_examples=20)
@given(st.integers(1, 20), st.integers(1, 5))
def test_strips_cover_every_column_once_in_its_layer(width: int, columns: int) -> None:
    blocks = Updates.blocks
    with (
        patch.object(Updates, "blocks", lambda self: blocks(self, width)),
        patch("fedrobust.aggregation.updates.STRIP", 16 * columns),
    ):
        found = list(layer_strips(NAMED))
    torch.testing.assert_close(torch.cat([one for _, _, one in found], dim=1), NAMED.matrix_ND)
    slices = layer_slices(NAMED)
    for layer, part, strip_Nb in found:
        assert slices[layer].start <= part.start < part.stop <= slices[layer].stop
        assert torch.equal(strip_Nb, NAMED.matrix_ND[:, part])


def test_largest_values_by_hand() -> None:
    updates = Updates.of(torch.tensor([[1.0, -5, 3, 2], [0, 0, 0, 7]]))
    assert largest_bounds(updates, 0.5).tolist() == [3, 0]
    assert largest_bounds(updates, 0.01).tolist() == [5, 7]  # one at least
    assert largest_bounds(updates, 1.0).tolist() == [1, 0]
    assert largest_bounds(updates, 0.5, [slice(0, 1), slice(3, 4)]).tolist() == [2, 7]
    assert largest_bounds(Updates.of(torch.rand(1, 10)), 1 - 0.9).shape == (1,)  # .99999999
