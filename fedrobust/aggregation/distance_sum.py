"""The point with the least weighted sum of distances to given rows, in the space of their Gram
matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedrobust.aggregation.gram import squared_to
from fedrobust.aggregation.updates import normalize, squared_distances

TOLERANCE = 1e-9  # length of the last step, as a part of the median distance
WEISZFELD_STEPS = 10  # before Newton's
ROUNDING = 1e-14  # relative error of a sum of float64 terms
RIDGE = 1e-12  # is added to the Hessian, as a part of the bound of its eigenvalues
HALVINGS = 100  # of a step's interval


@dataclass(frozen=True, slots=True)
class Minimum:
    """Where a minimisation ended.

    Attributes:
        weights_N: (N,) float64 weights of the rows in the point, none negative, summing to 1.
        last_step: length of the last step as a part of the weighted median of the distances; 0
            where nothing leads further down in float64.
    """

    weights_N: Tensor
    last_step: float

    @property
    def converged(self) -> bool:
        return self.last_step <= TOLERANCE


@dataclass(frozen=True, slots=True)
class Problem:
    """sum_n a_n |v - x_n|, where a length below `smoothing` is replaced by the parabola of the same
    slope there, which makes the gradient continuous.

    gram_NN: (N, N) float64 inner products of the rows x_n. shares_N: a_n, summing to 1.
    """

    gram_NN: Tensor
    shares_N: Tensor
    smoothing: float

    def value(self, squares: Tensor) -> Tensor:
        """The sum for squared distances (..., N)."""
        nu, lengths = self.smoothing, squares.sqrt()
        smooth = torch.where(lengths >= nu, lengths, squares / (2 * nu) + nu / 2)
        return smooth @ self.shares_N

    def pulls(self, squares_N: Tensor) -> Tensor:
        """(N,) a_n / max(smoothing, distance): the gradient is sum_n pulls_n (v - x_n)."""
        return self.shares_N / squares_N.sqrt().clamp(min=self.smoothing)

    def weiszfeld(self, squares_N: Tensor) -> Tensor:
        """(N,) weights of the rows in the next point by Weiszfeld."""
        return normalize(self.pulls(squares_N))


def minimize_distances(
    gram_NN: Tensor, shares_N: Tensor, smoothing: float, iterations: int
) -> Minimum:
    """The (smoothed) geometric median of N rows.

    Weiszfeld's steps from the weighted mean on, then Newton's, each as long as the sum falls. They
    end when one is shorter than `TOLERANCE` times the median distance.

    Args:
        gram_NN: (N, N) float64 inner products of the rows.
        shares_N: (N,) float64 weights of the distances, not negative, summing to 1.
        smoothing: distances below this length count as this, above 0.
        iterations: at most so many steps, at least 1.

    Returns:
        The weights of the rows in that point, and whether it was reached.

    Reference:
        Weiszfeld, Tohoku Mathematical Journal 1937; Overton, Mathematical Programming 1983.
    """
    problem = Problem(gram_NN, shares_N, smoothing)
    weights_N, last_step = shares_N, float("inf")
    for number in range(iterations):
        newton = number >= WEISZFELD_STEPS
        if number == WEISZFELD_STEPS:
            weights_N = _best_row_if_better(problem, weights_N)
        squares_N = squared_to(gram_NN, weights_N)
        next_N = _newton(problem, weights_N, squares_N) if newton else problem.weiszfeld(squares_N)
        moved = float((next_N - weights_N).abs() @ squares_N.sqrt())
        last_step = moved / _weighted_median(squares_N.sqrt(), shares_N, smoothing)
        # the minimum is a fixed point of Weiszfeld's step, after which no weight is negative
        weights_N = problem.weiszfeld(squared_to(gram_NN, next_N)) if newton else next_N
        if last_step <= TOLERANCE:
            break
    return Minimum(weights_N, last_step)


def _weighted_median(lengths_N: Tensor, shares_N: Tensor, smoothing: float) -> float:
    ordered_N, order_N = lengths_N.sort()
    middle = int((shares_N[order_N].cumsum(0) < 0.5).sum())
    return max(smoothing, float(ordered_N[min(middle, len(ordered_N) - 1)]))


def _best_row_if_better(problem: Problem, weights_N: Tensor) -> Tensor:
    """The row with the least sum, if that is less than the point's: where the minimum lies at a
    row, or as good as, Newton's steps find it from there at once."""
    here = problem.value(squared_to(problem.gram_NN, weights_N))
    rows_N = problem.value(squared_distances(problem.gram_NN))
    best = int(rows_N.argmin())
    if rows_N[best] >= here * (1 - ROUNDING):
        return weights_N
    return torch.zeros_like(weights_N).index_fill_(0, torch.tensor([best]), 1.0)


def _newton(problem: Problem, weights_N: Tensor, squares_N: Tensor) -> Tensor:
    """(N,) weights of the rows in the next point: along Newton's step, or Weiszfeld's if the sum
    does not fall there; the same weights where it falls along neither."""
    for step_N in (
        _newton_step(problem, weights_N, squares_N),
        problem.weiszfeld(squares_N) - weights_N,
    ):
        if length := _length(problem, weights_N, squares_N, step_N):
            return weights_N + length * step_N
    return weights_N


def _newton_step(problem: Problem, weights_N: Tensor, squares_N: Tensor) -> Tensor:
    """(N,) coefficients, summing to 0, of -H^-1 g. The Hessian H is sum_n b_n (I - u_n u_n'),
    without u_n for rows within `smoothing`; b_n: pulls, u_n: unit vector from x_n to the point."""
    gram_NN, pulls_N = problem.gram_NN, problem.pulls(squares_N)
    identity_NN, total = torch.eye(len(weights_N)).to(gram_NN), pulls_N.sum()
    lengths_N = squares_N.sqrt().clamp(min=problem.smoothing)
    factors_N = pulls_N.sqrt() / lengths_N * (squares_N.sqrt() > problem.smoothing)
    # b_n^(1/2) u_n as coefficients of the rows, and its inner products with them
    units_NN = factors_N[:, None] * (weights_N - identity_NN)
    inner_NN = factors_N[:, None] * (gram_NN @ weights_N - gram_NN)
    hessian_NN = total * (1 + RIDGE) * identity_NN - units_NN.T @ inner_NN
    # lengths as units: coefficients of far rows are tiny
    scaled_NN = lengths_N[:, None] * hessian_NN / lengths_N[None, :]
    right_N = lengths_N * (pulls_N - total * weights_N)
    solved_N: Tensor = torch.linalg.solve_ex(scaled_NN, right_N)[0]
    return solved_N / lengths_N


def _length(problem: Problem, weights_N: Tensor, squares_N: Tensor, step_N: Tensor) -> float:
    """Length of the step in units of itself at which the sum stops to fall; 0 where it does not
    fall at all, 1 where that is far down already."""
    products_N = problem.gram_NN @ step_N
    slopes_N = weights_N @ products_N - products_N  # of half the squared distances
    bend = (step_N @ products_N).clamp(min=0)

    def slope(length: float) -> float:
        moved_N = (squares_N + 2 * length * slopes_N + length**2 * bend).clamp(min=0)
        return float(problem.pulls(moved_N) @ (slopes_N + length * bend))

    start = slope(0.0)
    if not start < -ROUNDING * float(problem.pulls(squares_N) @ slopes_N.abs()):
        return 0.0
    if abs(slope(1.0)) <= 0.1 * abs(start):
        return 1.0
    low, high = 0.0, 1.0
    while slope(high) < 0 and high < 1e12:
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
        if high - low <= 1e-3 * low:
            break
    return low
