"""The geometric median to its tolerance: by hand, against scipy close to the breakdown point, and
with steps that end too early."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fedrobust.strategies.geometric_median import geometric_median
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor, nn

from fedrobust.aggregation.distance_sum import TOLERANCE, minimize_distances
from fedrobust.aggregation.round import Aggregate, Round, ServerData, Strategy
from fedrobust.aggregation.updates import Updates
from fedrobust.state import State

SMOOTHING = 1e-6


def median_of(points_ND: Tensor, shares: list[float] | None = None) -> Tensor:
    points_ND = points_ND.double()
    count = len(points_ND)
    shares_N = torch.tensor(shares or [1 / count] * count, dtype=torch.float64)
    found = minimize_distances(points_ND @ points_ND.T, shares_N, SMOOTHING, 1000)
    assert found.converged
    assert (found.weights_N >= 0).all()
    assert float(found.weights_N.sum()) == pytest.approx(1)
    return found.weights_N @ points_ND


@pytest.mark.parametrize(
    ("points", "shares", "expected"),
    [
        # the angle at (0, 1 / sqrt 3) is exactly 120 degrees: that row is the median, and
        # Weiszfeld's steps come closer to it by 1 / steps only
        ([[-1, 0], [1, 0], [0, 1 / math.sqrt(3)]], None, [0, 1 / math.sqrt(3)]),
        # the angle is above 120 degrees
        ([[-1, 0], [1, 0], [0, 0.3]], None, [0, 0.3]),
        # convex quadrilateral: where the diagonals cross
        ([[0, 0], [4, 4], [4, 0], [0, 2]], None, [4 / 3, 4 / 3]),
        # 0.501 of the weight at one row: that row, however far it is
        ([[0, 0], [0, 1], [1e6, 0]], [0.25, 0.249, 0.501], [1e6, 0]),
        ([[0, 0], [0, 1], [1e6, 0]], [0.5, 0.25, 0.25], [0, 0]),
        ([[5.0, 7]], None, [5, 7]),
        ([[5.0, 7], [5.0, 7]], None, [5, 7]),
    ],
)
def test_the_median_by_hand(
    points: list[list[float]], shares: list[float] | None, expected: list[float]
) -> None:
    found = median_of(torch.tensor(points, dtype=torch.float64), shares)
    longest = max(math.hypot(*point) for point in points)
    # the Gram matrix has 16 digits, so a distance has 8 of the longest row's
    np.testing.assert_allclose(found, expected, atol=3 * SMOOTHING + 3e-8 * longest)


def scipy_median(points_ND: np.ndarray) -> tuple[np.ndarray, float]:
    """The best of scipy's minima from the mean, an attacker and an honest client."""

    def value(v: np.ndarray) -> tuple[float, np.ndarray]:
        away = v - points_ND
        d = np.linalg.norm(away, axis=1)
        smooth = np.where(d >= SMOOTHING, d, d * d / (2 * SMOOTHING) + SMOOTHING / 2)
        return smooth.mean(), (away / np.maximum(d, SMOOTHING)[:, None]).mean(axis=0)

    starts = [points_ND.mean(axis=0), points_ND[0], points_ND[-1]]
    found = [
        minimize(value, start, jac=True, method="BFGS", options={"gtol": 1e-12}) for start in starts
    ]
    best = min(found, key=lambda one: float(one.fun))
    return best.x, float(best.fun)


@settings(max_examples=8)
@given(st.integers(2, 5), st.sampled_from([0, 1]), st.sampled_from([3.0, 50.0]), st.integers(0, 99))
def test_the_median_next_to_its_breakdown_point_is_scipys(
    attackers: int, more: int, far: float, seed: int
) -> None:
    """Half of the clients are attackers, or one fewer than the others: the sum is nearly flat
    between the two crowds. 1,000 steps of Weiszfeld ended up to 0.8 away."""
    points_ND = np.random.default_rng(seed).normal(size=(2 * attackers + more, 4))
    points_ND[:attackers] = far + 0.1 * points_ND[:attackers]
    expected, least = scipy_median(points_ND)
    found = median_of(torch.from_numpy(points_ND)).numpy()
    assert np.linalg.norm(found - points_ND, axis=1).mean() <= least * (1 + 1e-9) + SMOOTHING
    np.testing.assert_allclose(found, expected, atol=1e-4 if far < 10 else 1e-3)


def apply(strategy: Strategy, points_ND: Tensor) -> Aggregate:
    reference = State(torch.zeros(points_ND.shape[1]), torch.zeros(0))
    return strategy.rule(
        Round(1, reference, Updates.of(points_ND), ServerData(nn.Identity()), torch.Generator(), {})
    )


def test_a_median_that_was_not_reached_says_so() -> None:
    points_ND = torch.tensor([[-1.0, 0], [1, 0], [0, 1 / math.sqrt(3)], [0, 4]])
    assert apply(geometric_median(), points_ND).extras == {}
    (name, left), *more = apply(geometric_median(iterations=3), points_ND).extras.items()
    assert (name, more) == ("unfinished_step", [])
    assert TOLERANCE < left < 1
