"""Pre-aggregations: by hand, against ByzFL, alone and before a rule."""

from __future__ import annotations

import byzfl
import numpy as np
import pytest
import torch
from fedrobust.strategies import server_optimizers
from fedrobust.strategies.median import median
from fedrobust.strategies.preaggregation.bucketing import bucketing
from fedrobust.strategies.preaggregation.clipping import arc, static_clipping
from fedrobust.strategies.preaggregation.foundationfl import extreme_distances, foundationfl
from fedrobust.strategies.preaggregation.nnm import nnm
from fedrobust.strategies.trimmed_mean import trimmed_mean
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from fedrobust.aggregation.composition import Preaggregation, compose_strategy
from fedrobust.aggregation.updates import Updates
from fedrobust.errors import ConfigError
from tests.helpers.rounds import SMALL, apply_rule, mixing, normal, rows

laws = settings(max_examples=40)
seeds = st.integers(0, 2**32)
PLAIN = server_optimizers.none()


def test_pre_aggregations_by_hand() -> None:
    # squared distances 01: 1 + 4 = 5, 02: 25 + 4 = 29, 12: 16 + 16 = 32; f = 1: the nearest 2, each
    # with itself 0 and 1: ((0, 3) + (1, 1))/2 = (.5, 2); 2 with 0: ((5, 5) + (0, 3))/2 = (2.5, 4)
    assert rows(nnm(1), SMALL).tolist() == [[0.5, 2], [0.5, 2], [2.5, 4]]
    # lengths 3, 1.4142, 7.0711; f = 1: k = floor(2 1/3 2) = 1 is shortened to the next one's 3: 3
    # (5, 5)/7.0711
    torch.testing.assert_close(
        rows(arc(1), SMALL).float(),
        torch.tensor([[0, 3], [1, 1], [2.1213, 2.1213]]),
        atol=1e-4,
        rtol=0,
    )
    # to length 2: (0, 2), (1, 1), 2 (1, 1)/1.4142
    torch.testing.assert_close(
        rows(static_clipping(2), SMALL).float(),
        torch.tensor([[0, 2], [1, 1], [1.4142, 1.4142]]),
        atol=1e-4,
        rtol=0,
    )
    # two buckets, of two and of one
    found = mixing(bucketing(2), SMALL)
    assert sorted(found.sum(dim=0).tolist()) == [0.5, 0.5, 1]
    assert found.sum(dim=1).tolist() == [1, 1]


@laws
@given(st.integers(1, 9), st.integers(0, 4), seeds)
def test_nnm_arc_and_clipping_agree_with_byzfl(n: int, f: int, seed: int) -> None:
    f = min(f, (n - 1) // 2)
    matrix = normal(seed, n, 5) * (
        1 + 3 * torch.rand(n, 1, generator=Generator().manual_seed(seed))
    )
    for ours, theirs in (
        (nnm(f), byzfl.NNM(f)),
        (arc(f), byzfl.ARC(f)),
        (static_clipping(2), byzfl.Clipping(2.0)),
    ):
        wanted = theirs(matrix.double().numpy().copy())
        np.testing.assert_allclose(rows(ours, matrix), wanted, rtol=1e-6, atol=1e-9)
        found = apply_rule(compose_strategy(trimmed_mean(f), ours, PLAIN), matrix).state.parameters
        np.testing.assert_allclose(found, byzfl.TrMean(f)(wanted), rtol=1e-4, atol=1e-5)


@laws
@given(st.integers(1, 9), st.integers(1, 4), seeds)
def test_bucketing_agrees_with_byzfl_in_the_same_order(n: int, size: int, seed: int) -> None:
    matrix = normal(seed, n, 5)
    order = torch.randperm(n, generator=Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "permutation", lambda values: values[order.numpy()])
        wanted = byzfl.Bucketing(size)(matrix.double().numpy())
    found = rows(bucketing(size), matrix, seed)
    np.testing.assert_allclose(
        found[found[:, 0].argsort()], wanted[wanted[:, 0].argsort()], rtol=1e-9, atol=1e-9
    )
    found = apply_rule(
        compose_strategy(median(), bucketing(size), PLAIN), matrix, seed
    ).state.parameters
    np.testing.assert_allclose(found, byzfl.Median()(wanted), rtol=1e-4, atol=1e-5)


MIXERS = [nnm(2), bucketing(2), bucketing(3), static_clipping(1.5), arc(2)]


@pytest.mark.parametrize("before", MIXERS, ids=lambda one: one.name)
@settings(max_examples=20)
@given(seeds)
def test_every_pre_aggregation_shortens_and_never_lengthens(
    before: Preaggregation, seed: int
) -> None:
    matrix = normal(seed, 7, 6)
    found = mixing(before, matrix, seed)
    assert found.dtype == torch.float64
    assert found.shape == (before.rows(7), 7)
    assert (found >= 0).all()
    assert (found.sum(dim=1) <= 1 + 1e-12).all()
    assert (found @ matrix.double()).norm(dim=1).max() <= matrix.norm(dim=1).max() + 1e-5
    equal = matrix[:1].expand(7, 6)
    # all but a fixed length keep equal updates
    wanted = static_clipping(1.5) if before.name == "clipping" else bucketing(1)
    torch.testing.assert_close(rows(before, equal)[0], rows(wanted, equal)[0])


@pytest.mark.parametrize("before", [nnm(2), static_clipping(1.5), arc(2)], ids=lambda one: one.name)
@settings(max_examples=20)
@given(seeds)
def test_the_order_of_clients_does_not_matter(before: Preaggregation, seed: int) -> None:
    matrix = normal(seed, 7, 6)
    order = torch.randperm(7, generator=Generator().manual_seed(seed))
    torch.testing.assert_close(rows(before, matrix)[order], rows(before, matrix[order]))
    one, other = (
        apply_rule(compose_strategy(median(), before, PLAIN), values)
        for values in (matrix, matrix[order])
    )
    torch.testing.assert_close(one.state.parameters, other.state.parameters)
    torch.testing.assert_close(one.weights_N[order], other.weights_N)


@settings(max_examples=20)
@given(seeds, st.floats(10, 1e30))
def test_mixing_neighbours_keeps_far_attackers_out_of_the_honest_rows(
    seed: int, far: float
) -> None:
    matrix = normal(seed, 9, 6)
    matrix[:2] = far * torch.sign(normal(seed + 1, 1, 6)) + far * 1e-3 * normal(seed + 2, 2, 6)
    found = mixing(nnm(2), matrix)
    if far > 1000:
        assert found[2:, :2].abs().max() == 0
    result = apply_rule(compose_strategy(trimmed_mean(2), nnm(2), PLAIN), matrix).state.parameters
    honest = matrix[2:]
    assert (result <= honest.amax(dim=0) + 1e-3).all()
    assert (result >= honest.amin(dim=0) - 1e-3).all()


# FoundationFL


def test_foundationfl_by_hand() -> None:
    # max (5, 5), min (0, 1). To max: 29, 32, 0; to min: 4, 1, 41 (squared): scores 2, 1, 0, so the
    # first update is copied, once for three clients. Median of (0, 3) (1, 1) (5, 5) (0, 3): (.5, 3)
    torch.testing.assert_close(
        extreme_distances(Updates.of(SMALL)), torch.tensor([2.0, 1, 0]).double()
    )
    result = apply_rule(compose_strategy(median(), foundationfl(), PLAIN), SMALL)
    assert result.state.parameters.tolist() == [0.5, 3]
    # three copies: (0, 3) four times among six
    result = apply_rule(compose_strategy(median(), foundationfl(3), PLAIN), SMALL)
    assert result.state.parameters.tolist() == [0, 3]
    # without copies nothing changes
    result = apply_rule(compose_strategy(median(), foundationfl(0), PLAIN), SMALL)
    assert result.state.parameters.tolist() == [1, 3]


@settings(max_examples=20)
@given(seeds, st.integers(3, 9), st.integers(0, 4))
def test_foundationfl_agrees_with_its_definition(seed: int, n: int, copies: int) -> None:
    matrix = normal(seed, n, 5)
    wide = matrix.double()
    high, low = wide.amax(dim=0), wide.amin(dim=0)
    scores = [min(float((row - high).norm()), float((row - low).norm())) for row in wide]
    added = torch.cat([matrix, matrix[[int(np.argmax(scores))] * copies]])
    one = apply_rule(compose_strategy(trimmed_mean(1), foundationfl(copies), PLAIN), matrix)
    other = apply_rule(trimmed_mean(1), added)
    torch.testing.assert_close(one.state.parameters, other.state.parameters)
    order = torch.randperm(n, generator=Generator().manual_seed(seed))
    moved = apply_rule(
        compose_strategy(trimmed_mean(1), foundationfl(copies), PLAIN), matrix[order]
    )
    torch.testing.assert_close(moved.state.parameters, one.state.parameters)
    torch.testing.assert_close(moved.weights_N, one.weights_N[order])


def test_foundationfl_s_copies_count_as_clients_of_the_rule() -> None:
    both = compose_strategy(trimmed_mean(3), foundationfl(), PLAIN)
    assert both.min_clients == 5  # and two copies: 2 3 + 1
    assert compose_strategy(trimmed_mean(3), foundationfl(0), PLAIN).min_clients == 7
    # one client is its own maximum and minimum
    single = apply_rule(compose_strategy(median(), foundationfl(2), PLAIN), SMALL[:1])
    assert single.state.parameters.tolist() == [0, 3]
    with pytest.raises(ConfigError, match=r"preaggregation\.synthetic=-1"):
        foundationfl(-1)
