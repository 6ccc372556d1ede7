"""Privacy cost of a sequence of Gaussian mechanisms: exact, in closed form up to one root.

k releases with noise multiplier z are together one Gaussian mechanism with mu = sqrt(k) / z (Dong,
Roth & Su, JRSS B 2022, corollary 3.3; also where a release depends on those before), for which
delta(epsilon) = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu) (Balle & Wang, ICML
2018, theorem 8). No amplification is counted: the server knows whose update it looks at.
"""

from __future__ import annotations

import math

TOLERANCE = 1e-9  # of epsilon, relative; reported values are on the safe side


def delta_of(epsilon: float, mu: float) -> float:
    """The smallest delta for which a Gaussian mechanism of parameter mu > 0 is (epsilon,
    delta)-DP."""
    from scipy.special import log_ndtr  # slow to import, and most runs promise nothing

    first = float(log_ndtr(mu / 2 - epsilon / mu))
    second = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    return 0.0 if second >= first else math.exp(first) * -math.expm1(second - first)


def epsilon(noise_multiplier: float, releases: int, delta: float) -> float:
    """The smallest epsilon >= 0 for which so many releases are together (epsilon, delta)-DP; delta
    in (0, 1)."""
    if releases == 0:
        return 0.0
    mu = math.sqrt(releases) / noise_multiplier
    if delta_of(0.0, mu) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(high, mu) > delta:
        low, high = high, 2 * high
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle, mu) > delta else (low, middle)
    return high
