"""Trust and clipping: numbers by hand, the cap of the gate, memory, and what no attacker can
reach."""

from __future__ import annotations

import math

import pytest
import torch
from fedrobust.strategies.etf_dml import trust as _trust
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation
from torch import Tensor
from torch.nn import functional

from fedrobust.aggregation import norms as clipping
from fedrobust.aggregation.updates import Updates
from fedrobust.learning import alignment

values = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=12)


def wide(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_robust_z_by_hand() -> None:
    # median 2; distances 2 1 0 1 8, MAD 1: divide by 1.4826
    torch.testing.assert_close(
        _trust.robust_z(wide(0, 1, 2, 3, 10)), wide(-2, -1, 0, 1, 8) / 1.4826
    )
    # median (1 + 2)/2 = 1.5, distances .5 .5 .5 1.5: MAD .5
    torch.testing.assert_close(
        _trust.robust_z(wide(1, 1, 2, 3)), wide(-0.5, -0.5, 0.5, 1.5) / (1.4826 * 0.5)
    )
    # MAD .001: the floor of .01 rules
    torch.testing.assert_close(_trust.robust_z(wide(0, 0.001, -0.001)), wide(0, 0.1, -0.1))


@settings(max_examples=40)
@given(values)
def test_robust_z_agrees_with_scipy(numbers: list[float]) -> None:
    x = wide(*numbers)
    spread = max(1.4826 * median_abs_deviation(x.numpy()), 0.01)
    torch.testing.assert_close(_trust.robust_z(x), (x - x.quantile(0.5)) / spread)


@settings(max_examples=40)
@given(values, st.floats(-100, 100))
def test_what_all_clients_share_cancels(numbers: list[float], shift: float) -> None:
    # so the global model's alignment, from which the drop would be measured, needs no visit
    torch.testing.assert_close(
        _trust.robust_z(wide(*numbers) + shift),
        _trust.robust_z(wide(*numbers)),
        atol=1e-6,
        rtol=1e-6,
    )


def test_alignment_and_loss_by_hand() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.5, 0.1], [0.2, -0.2]])
    labels = torch.tensor([0, 0, 1])
    # class 0: (1 + .5)/2 = .75, class 1: -.2; their mean (.75 - .2)/2 = .275
    assert float(alignment.alignment(scores, labels, "etf")) == pytest.approx(0.275)
    # log(1 + e^(wrong - true)), scale 2: differences -2, -.8, +.8
    expected = sum(math.log1p(math.exp(2 * d)) for d in (-1, -0.4, 0.4)) / 3
    assert float(alignment.root_loss(scores, labels, 2.0)) == pytest.approx(expected)
    assert float(alignment.root_losses(scores, labels, 2.0).mean()) == pytest.approx(expected)


def test_cosines_of_a_linear_head_by_hand() -> None:
    # (3, 0, 0) - 1 = (2, -1, -1), length sqrt 6, times sqrt(3/2): (1, -1/2, -1/2), as for perfect
    # ETF features
    logits = torch.tensor([[3.0, 0, 0], [0, 0, 0]])
    torch.testing.assert_close(
        alignment.cosines(logits, "linear"), torch.tensor([[1, -0.5, -0.5], [0, 0, 0]])
    )
    # oracle: the cosine with the simplex's vertex
    random = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    vertices = torch.eye(5) - 0.2
    expected = functional.cosine_similarity(
        (random - random.mean(1, keepdim=True))[:, None], vertices[None], dim=2
    )
    torch.testing.assert_close(alignment.cosines(random, "linear"), expected)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.floats(0.01, 1000), st.floats(-50, 50))
def test_no_scaling_of_logits_buys_alignment(seed: int, scale: float, shift: float) -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(
        alignment.cosines(logits * scale + shift, "linear"),
        alignment.cosines(logits, "linear"),
        atol=1e-6,
        rtol=1e-6,
    )


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_scores_that_are_not_finite_are_the_worst(broken: float) -> None:
    scores = torch.tensor([[broken, 0.0], [0.5, 0.1]])
    labels = torch.tensor([0, 1])
    assert float(alignment.alignment(scores, labels, "etf")) == -1
    assert 0 <= float(alignment.root_loss(scores, labels, 16.0)) <= 1000


def test_gate_by_hand() -> None:
    # 1 - 0/1.5, 1 - .3/1.5, 1 - .75/1.5, 1 - 1.5/1.5, beyond; 2 of 5 = 40 % may be zero
    torch.testing.assert_close(
        _trust.trust_from_suspicion(wide(-3, 0.3, 0.75, 1.5, 9)), wide(1, 0.8, 0.5, 0, 0)
    )


def test_gate_spares_all_but_the_most_suspicious_40_percent() -> None:
    # five would be zero, floor(.4 * 5) = 2 stay so: 9 and 8; the others get .1
    torch.testing.assert_close(
        _trust.trust_from_suspicion(wide(2, 9, 2, 8, 3)), wide(0.1, 0, 0.1, 0, 0.1)
    )
    # a tie: the first clients
    torch.testing.assert_close(
        _trust.trust_from_suspicion(wide(2, 2, 2, 2, 2)), wide(0, 0, 0.1, 0.1, 0.1)
    )
    assert _trust.trust_from_suspicion(wide(50)).tolist() == [0.1]
    assert _trust.trust_from_suspicion(wide(50, 0)).tolist() == [0.1, 1]


@settings(max_examples=40)
@given(values)
def test_gate_laws(numbers: list[float]) -> None:
    suspicion = wide(*numbers)
    trust = _trust.trust_from_suspicion(suspicion)
    assert ((trust >= 0) & (trust <= 1)).all()
    assert (trust == 0).sum() <= 0.4 * len(numbers)
    assert (trust[suspicion <= 0] == 1).all()


def test_suspicion_is_remembered_by_client() -> None:
    # client 4 is new: z itself; 7: .5 * 3 + .5 * 1 = 2; client 9 is absent
    torch.testing.assert_close(
        _trust.update_suspicion(wide(0.4, 1), (4, 7), {7: 3.0, 9: 5.0}), wide(0.4, 2)
    )


def test_judge_by_hand() -> None:
    # one class-0 and one class-1 image, K = 2, scores (s, -s) for the true class: alignment s, loss
    # log(1 + e^(-2s)) at scale 1
    s = wide(0.9, 0.8, 0.7, -0.5)
    scores = torch.stack([torch.stack([torch.stack([x, -x]), torch.stack([-x, x])]) for x in s])
    verdict = _trust.gate_trust(
        scores, torch.tensor([0, 1]), "etf", 1.0, clients=(0, 1, 2, 3), past={3: 1.0}
    )
    # median of s .75, distances .15 .05 .05 1.25, MAD .1: rz(-s) = (-.15, -.05, .05, 1.25) / .14826
    by_alignment = wide(-0.15, -0.05, 0.05, 1.25) / 0.14826
    loss = (-2 * s).exp().log1p()
    middle = (loss[1] + loss[2]) / 2
    away = (loss - middle).abs().sort().values
    z = (by_alignment + (loss - middle) / (1.4826 * (away[1] + away[2]) / 2)) / 2
    z[3] = (1 + z[3]) / 2
    torch.testing.assert_close(verdict.suspicion_N, z)
    torch.testing.assert_close(verdict.alignment_N, s)
    torch.testing.assert_close(verdict.loss_N, loss)
    assert verdict.trust_N[3] == 0
    assert verdict.trust_N[:2].tolist() == [1, 1]


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_equal_clients_are_all_trusted(n: int) -> None:
    scores = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(n)).expand(n, 6, 3)
    verdict = _trust.gate_trust(
        scores, torch.arange(6) % 3, "etf", 16.0, clients=tuple(range(n)), past={}
    )
    assert verdict.trust_N.tolist() == [1] * n


def test_of_two_clients_the_better_is_trusted_and_the_other_halved() -> None:
    # two values lie at -+.5 d from their median, MAD .5 d: z = 1/1.4826 for any d (above the
    # floor)
    scores = torch.tensor([[[1.0, -1], [-1, 1]], [[-1, 1], [1, -1]]])
    verdict = _trust.gate_trust(scores, torch.tensor([0, 1]), "etf", 16.0, clients=(0, 1), past={})
    torch.testing.assert_close(verdict.trust_N, wide(1, 1 - (1 / 1.4826) / 1.5))


def test_long_updates_are_brought_to_the_median_length() -> None:
    # lengths 5, 1, 10: the median is 5
    norms = clipping.norms(Updates.of(torch.tensor([[3.0, 4], [0, 1], [-6, 8]])))
    assert norms.tolist() == [5, 1, 10]
    assert clipping.to_median(norms).tolist() == [1, 1, 0.5]
    assert clipping.to_median(wide(0, 0, 0)).tolist() == [1, 1, 1]
    assert clipping.to_median(wide(0, 0, 7)).tolist() == [1, 1, 0]


def test_huge_finite_updates_have_a_finite_length() -> None:
    assert clipping.norms(Updates.of(torch.full((2, 3), 3e38))).isfinite().all()


def test_claimed_images_are_clipped_to_the_quantiles() -> None:
    # of 0..10 the 10 % and 90 % quantiles are 1 and 9
    assert clipping.clipped_counts(torch.arange(11.0)).tolist() == [1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert clipping.clipped_counts(wide(7)).tolist() == [7]


def test_losses_that_grew_by_more_than_chance() -> None:
    # differences 1, 0, 0, 0: mean .25, standard deviation .5, standard error .25: not above it;
    # 1, 1, 0, 0: mean .5, standard deviation .577, standard error .289
    before = wide(1, 2, 3, 4)
    assert not alignment.is_worse(before + wide(1, 0, 0, 0), before)
    assert alignment.is_worse(before + wide(1, 1, 0, 0), before)
    assert not alignment.is_worse(before, before)
    assert not alignment.is_worse(before - 1, before)
    assert alignment.is_worse(before + 0.1, before)
    assert alignment.is_worse(wide(1.1), wide(1))  # one image has no spread
