"""Mixtures of updates, seen as updates: every way to look at them agrees with the mixed matrix."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from fedrobust.aggregation.mixtures import MixedUpdates, mix_updates
from fedrobust.aggregation.round import merge_buffers
from fedrobust.aggregation.updates import Updates
from fedrobust.state import Layout
from tests.helpers.rounds import SMALL, normal

laws = settings(max_examples=40)
seeds = st.integers(0, 2**32)


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A matrix (N, 9) and non-negative coefficients (M, N), some rows of which are zero."""
    n, m, seed = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(seeds)
    coefficients = normal(seed, m, n).clamp(min=0).double()
    return normal(seed + 1, n, 9), coefficients


@laws
@given(mixtures(), st.integers(1, 11))
def test_mixed_updates_are_the_mixed_matrix(case: tuple[Tensor, Tensor], width: int) -> None:
    matrix, mixing_MN = case
    base = Updates.of(matrix)
    view, expected = mix_updates(base, mixing_MN, base.gram()), mixing_MN @ matrix.double()
    assert len(view) == len(expected)
    weights = normal(7, len(expected)).double()
    order = torch.randperm(len(expected), generator=Generator().manual_seed(0))
    for n in range(len(expected)):
        torch.testing.assert_close(view.row(n).double(), expected[n], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(view.gram(), expected @ expected.T, rtol=1e-6, atol=1e-6)
    assert torch.equal(view.gram_estimate(1, torch.Generator()), view.gram())
    torch.testing.assert_close(
        view.combine(weights).double(), weights @ expected, rtol=1e-4, atol=1e-4
    )
    for chosen, wanted in ((None, expected), (order, expected[order])):
        blocks = [(part, block.clone()) for part, block in view.blocks(width, chosen)]
        torch.testing.assert_close(
            torch.cat([block for _, block in blocks], dim=1).double(), wanted, rtol=1e-4, atol=1e-5
        )
        assert [part.start for part, _ in blocks] == list(range(0, 9, width))


def test_blocks_follow_each_other_in_the_same_memory() -> None:
    base = Updates.of(torch.ones(8, 9 << 17))  # 36 MB
    view = mix_updates(base, torch.full((8, 8), 1 / 8, dtype=torch.float64), torch.zeros(8, 8))
    found = [
        (block.nbytes >> 20, block.data_ptr(), bool((block == 1).all()))
        for _, block in view.blocks()
    ]
    assert [size for size, _, _ in found] == [8, 8, 8, 8, 4]
    assert len({(place, right) for _, place, right in found}) == 1


def test_buffers_examples_and_numbers_follow_the_shares() -> None:
    """Rows: half of client 4 and half of client 9; a quarter of client 7 (shortened); nothing of
    client 7."""
    layout = Layout(
        (("weight", torch.Size([2])),),
        (("norm.running_mean", torch.Size([1])), ("norm.running_var", torch.Size([1]))),
    )
    base = Updates(
        SMALL,
        torch.tensor([[1.0, 2], [5, 6], [3, 4]]),
        torch.tensor([10.0, 20, 40]).double(),
        (4, 7, 9),
        layout,
    )
    coefficients = torch.tensor([[0.5, 0, 0.5], [0, 0.25, 0], [0, 0, 0]], dtype=torch.float64)
    view = mix_updates(base, coefficients, base.gram())
    assert isinstance(view, MixedUpdates)
    assert view.clients == (4, 7, 9)
    # row 0: means 1 and 3 -> 2; variances 2 and 4 -> 3, and their means lie 1 from 2 -> 3 + 1; row
    # 2 keeps its client's
    assert view.buffers_NB.tolist() == [[2, 4], [5, 6], [3, 4]]
    assert view.num_examples_N.tolist() == [25, 20, 40]
    shortened = mix_updates(base, torch.diag(torch.tensor([1.0, 0.5, 0.1])), base.gram())
    assert shortened.buffers_NB is base.buffers_NB
    buckets = mix_updates(base, torch.tensor([[0, 0.5, 0.5], [1, 0, 0]]), base.gram())
    assert (buckets.clients, len(buckets)) == ((7, 4), 2)
    expected = merge_buffers(layout, base.buffers_NB, torch.tensor([0, 0.5, 0.5]))
    torch.testing.assert_close(buckets.buffers_NB[0], expected)
