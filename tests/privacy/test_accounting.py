"""Epsilon: golden values, the definition integrated numerically, known bounds, and another library
where it is installed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from fedrobust.privacy.accounting import delta_of, epsilon


def hockey_stick(eps: float, mu: float) -> float:
    """The definition: the integral of max(0, p - e^eps q) for p = N(mu, 1), q = N(0, 1)."""
    return float(
        quad(
            lambda x: max(0.0, norm.pdf(x, mu) - math.exp(eps) * norm.pdf(x)),
            mu / 2 + eps / mu,
            mu + 40,
            limit=200,
        )[0]
    )


@pytest.mark.parametrize(
    ("eps", "mu"), [(0.0, 1.0), (1.0, 1.0), (4.0, 1.0), (0.5, 0.3), (10.0, 3.0), (2.0, 0.7)]
)
def test_delta_is_the_hockey_stick_divergence(eps: float, mu: float) -> None:
    assert delta_of(eps, mu) == pytest.approx(hockey_stick(eps, mu), rel=1e-6)


def test_by_hand() -> None:
    # delta(0) = Phi(mu/2) - Phi(-mu/2) = 2 Phi(1/2) - 1 = 0.382925 for mu = 1
    assert delta_of(0.0, 1.0) == pytest.approx(0.3829249, abs=1e-7)
    # mu = 1, epsilon = 1: Phi(-1/2) - e Phi(-3/2) = 0.3085375 - 2.7182818 * 0.0668072 = 0.1269367
    assert delta_of(1.0, 1.0) == pytest.approx(0.1269367, abs=1e-6)
    assert epsilon(1.0, 1, 0.1269367) == pytest.approx(1.0, abs=1e-5)
    assert epsilon(1.0, 0, 1e-5) == 0.0
    # so much noise that delta alone covers it: 2 Phi(0.05) - 1 = 0.04
    assert epsilon(10.0, 1, 0.1) == 0.0


@settings(max_examples=40)
@given(st.floats(0.3, 50), st.integers(1, 500), st.floats(1e-12, 0.1))
def test_epsilon_solves_delta_and_stays_under_the_bound_of_zcdp(
    z: float, releases: int, delta: float
) -> None:
    eps, mu = epsilon(z, releases, delta), math.sqrt(releases) / z
    assert delta_of(eps, mu) <= delta
    assert eps == 0 or delta_of(eps * (1 - 1e-6), mu) >= delta * (1 - 1e-9)
    rho = releases / (2 * z**2)  # Bun & Steinke 2016, proposition 1.3
    assert eps <= rho + 2 * math.sqrt(rho * math.log(1 / delta))
    assert epsilon(z, releases + 1, delta) >= eps


@settings(max_examples=20)
@given(st.floats(0.5, 5), st.integers(1, 30), st.floats(1e-8, 1e-3))
def test_k_releases_are_one_with_less_noise(z: float, releases: int, delta: float) -> None:
    assert epsilon(z, releases, delta) == pytest.approx(
        epsilon(z / math.sqrt(releases), 1, delta), rel=1e-6
    )


@pytest.mark.parametrize(
    ("z", "releases", "delta"),
    [(1.0, 1, 1e-5), (1.0, 10, 1e-5), (5.0, 100, 1e-6), (0.7, 3, 1e-5), (20.0, 5, 1e-5)],
)
def test_dp_accounting_agrees(z: float, releases: int, delta: float) -> None:
    """Google's dp-accounting: its PLD accountant is tight up to its grid, its Renyi accountant lies
    above."""
    accounting = pytest.importorskip("dp_accounting")
    from dp_accounting import pld, rdp

    event = accounting.SelfComposedDpEvent(accounting.GaussianDpEvent(z), releases)
    ours = epsilon(z, releases, delta)
    tight = pld.PLDAccountant(value_discretization_interval=1e-4).compose(event).get_epsilon(delta)
    renyi = rdp.RdpAccountant().compose(event).get_epsilon(delta)
    assert ours == pytest.approx(tight, rel=2e-3, abs=2e-3)
    assert ours <= renyi + 1e-9
