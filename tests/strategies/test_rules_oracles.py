"""More rules: ByzFL and direct computations on the updates themselves as oracles of what is done in
the space of the Gram matrix."""

from __future__ import annotations

import itertools

import byzfl
import numpy as np
import torch
from fedrobust.strategies.bulyan import bulyan
from fedrobust.strategies.caf import caf
from fedrobust.strategies.centered_clipping import centered_clipping
from fedrobust.strategies.dnc import dnc
from fedrobust.strategies.geometric_median import geometric_median
from fedrobust.strategies.mda import mda
from fedrobust.strategies.meamed import meamed
from fedrobust.strategies.monna import monna
from fedrobust.strategies.norm_clipping import norm_clipping
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedrobust.aggregation.round import Aggregate, Round, ServerData, Strategy
from fedrobust.aggregation.updates import Updates
from fedrobust.state import State

seeds = st.integers(0, 2**32)
sizes = st.integers(3, 9)
few = settings(max_examples=25)


def crowd(seed: int, n: int, d: int = 4) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def apply(
    strategy: Strategy, matrix_ND: Tensor, memory: dict[str, Tensor] | None = None
) -> Aggregate:
    reference = State(torch.zeros(matrix_ND.shape[1]), torch.zeros(0))
    generator = torch.Generator().manual_seed(0)
    return strategy.rule(
        Round(
            1, reference, Updates.of(matrix_ND), ServerData(nn.Identity()), generator, memory or {}
        )
    )


def update(strategy: Strategy, matrix_ND: Tensor) -> np.ndarray:
    return apply(strategy, matrix_ND).state.parameters.numpy()


@few
@given(st.integers(3, 40), st.integers(0, 5), seeds)
def test_meamed_agrees_with_byzfl(n: int, f: int, seed: int) -> None:
    assume(2 * f < n)
    matrix = crowd(seed, n)
    np.testing.assert_allclose(
        update(meamed(f), matrix), byzfl.Meamed(f)(matrix.double().numpy()), atol=1e-5
    )


@few
@given(sizes, st.integers(0, 3), seeds)
def test_monna_agrees_with_byzfl(n: int, f: int, seed: int) -> None:
    assume(2 * f < n)
    matrix, pivot = crowd(seed, n), seed % n
    np.testing.assert_allclose(
        update(monna(f, pivot), matrix), byzfl.MoNNA(f, pivot)(matrix.numpy()), atol=1e-5
    )


@few
@given(st.integers(3, 10), st.integers(0, 4), seeds)
def test_mda_finds_what_byzfl_and_trying_all_sets_find(n: int, f: int, seed: int) -> None:
    """ByzFL takes the first set of the least diameter, we the tightest of them."""
    assume(2 * f < n)
    matrix = crowd(seed, n)
    distances = torch.cdist(
        matrix.double(), matrix.double(), compute_mode="donot_use_mm_for_euclid_dist"
    ).numpy()
    sets = [list(one) for one in itertools.combinations(range(n), n - f)]
    diameters = [distances[np.ix_(one, one)].max() for one in sets]
    best = [
        one
        for one, diameter in zip(sets, diameters, strict=True)
        if diameter <= min(diameters) + 1e-9
    ]
    tightest = min(best, key=lambda one: (distances[np.ix_(one, one)] ** 2).sum())
    result = apply(mda(f), matrix)
    assert result.weights_N.nonzero().flatten().tolist() == tightest
    if len(best) == 1:
        np.testing.assert_allclose(
            result.state.parameters.numpy(), byzfl.MDA(f)(matrix.numpy()), atol=1e-5
        )


@few
@given(sizes, seeds)
def test_the_geometric_median_is_no_worse_than_byzfls(n: int, seed: int) -> None:
    matrix = crowd(seed, n)
    wide = matrix.double().numpy()

    def objective(point: np.ndarray) -> float:
        return float(np.linalg.norm(wide - point, axis=1).sum())

    other = byzfl.GeometricMedian(nu=1e-6, T=3000)(wide)
    found = update(geometric_median(), matrix)
    assert objective(found) <= objective(other) + 1e-5
    np.testing.assert_allclose(found, other, atol=2e-2)  # flat around its minimum


@few
@given(sizes, seeds, st.sampled_from([0.5, 2.0, 100.0]), st.integers(1, 4))
def test_centered_clipping_agrees_with_byzfl_round_after_round(
    n: int, seed: int, tau: float, steps: int
) -> None:
    other, memory = byzfl.CenteredClipping(None, steps, tau), {}
    for number in range(3):
        matrix = crowd(seed + number, n) + number
        result = apply(centered_clipping(tau, steps), matrix, memory)
        memory = dict(result.memory)
        np.testing.assert_allclose(
            result.state.parameters.numpy(), other(matrix.double().numpy()), atol=1e-5
        )


@few
@given(sizes, seeds, st.sampled_from([0.5, 2.0, 100.0]))
def test_norm_clipping_agrees_with_byzfls_clipped_mean(n: int, seed: int, tau: float) -> None:
    matrix = crowd(seed, n)
    clipped = byzfl.Clipping(tau)(matrix.double().numpy())
    np.testing.assert_allclose(
        update(norm_clipping(tau), matrix), byzfl.Average()(clipped), atol=1e-5
    )


def filter_directly(rows: np.ndarray, f: int, everyone: bool) -> np.ndarray:
    """CAF with the covariance's own eigenvectors. everyone: the greatest projection of all clients,
    also of those with no weight left; the others may then keep theirs for ever (n = 9, f = 4, seed
    448 of the test below), and there is nothing to compare with."""
    counts, best, least = np.ones(len(rows)), rows.mean(axis=0), np.inf
    for _ in range(1000):
        if counts.sum() <= len(rows) - 2 * f:
            return best
        mean = counts @ rows / counts.sum()
        apart = rows - mean
        values, vectors = np.linalg.eigh((counts[:, None] * apart).T @ apart / counts.sum())
        if values[-1] < least:
            best, least = mean, values[-1]
        scores = (apart @ vectors[:, -1]) ** 2
        counts = counts * (1 - np.minimum(scores / scores[(counts > 0) | everyone].max(), 1))
    return reject()


@few
@given(sizes, st.integers(1, 4), seeds)
def test_caf_agrees_with_the_filter_on_the_updates_themselves(n: int, f: int, seed: int) -> None:
    assume(2 * f < n)
    matrix = crowd(seed, n)
    np.testing.assert_allclose(
        update(caf(f), matrix),
        filter_directly(matrix.double().numpy(), f, everyone=False),
        atol=1e-5,
    )


@few
@given(sizes, st.integers(1, 4), seeds)
def test_caf_and_byzfls_differ_only_in_whose_projection_is_the_greatest(
    n: int, f: int, seed: int
) -> None:
    """In one dimension, where ByzFL's single power iteration from a random start is exact."""
    assume(2 * f < n)
    rows = crowd(seed, n, 1).double().numpy()
    expected = filter_directly(rows, f, everyone=True)  # before ByzFL, which may hang
    np.testing.assert_allclose(byzfl.CAF(f)(rows), expected, atol=1e-9)


@few
@given(sizes, st.integers(1, 3), seeds)
def test_dnc_agrees_with_singular_vectors_of_all_coordinates(n: int, f: int, seed: int) -> None:
    assume(2 * f < n)
    matrix = crowd(seed, n)
    rows = matrix.double().numpy()
    apart = rows - rows.mean(axis=0)
    scores = (apart @ np.linalg.svd(apart)[2][0]) ** 2
    np.testing.assert_allclose(
        update(dnc(f), matrix), rows[np.argsort(scores)[: n - f]].mean(axis=0), atol=1e-5
    )


@few
@given(st.integers(0, 2), st.integers(0, 3), seeds)
def test_bulyan_agrees_with_its_definition(f: int, more: int, seed: int) -> None:
    n = 4 * f + 3 + more
    matrix = crowd(seed, n)
    rows = matrix.double().numpy()
    left, chosen = list(range(n)), []
    while len(chosen) < n - 2 * f:
        near = {
            a: sorted(float(((rows[a] - rows[b]) ** 2).sum()) for b in left if b != a) for a in left
        }
        count = max(len(left) - f - 2, 1)
        best = min(left, key=lambda a: (round(sum(near[a][:count]), 9), near[a]))
        chosen.append(best)
        left.remove(best)
    taken = rows[chosen]
    order = np.argsort(np.abs(taken - np.median(taken, axis=0)), axis=0)[: n - 4 * f]
    np.testing.assert_allclose(
        update(bulyan(f), matrix), np.take_along_axis(taken, order, axis=0).mean(axis=0), atol=1e-5
    )
