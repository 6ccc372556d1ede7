"""Shamir's scheme: by hand, any `threshold` shares and no fewer, and what is no share."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.privacy.secure.secret_sharing import (
    DRAWN_BYTES,
    PRIME,
    SECRET_BYTES,
    SHARE_BYTES,
    combine,
    split,
)

SECRETS = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)


def drawing(*numbers: int):
    """A source of randomness that gives these numbers."""
    left = list(numbers)
    return lambda size: left.pop(0).to_bytes(size)


def is_prime(n: int, witnesses: int = 40) -> bool:
    """Miller and Rabin: wrong with probability 4^-40."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in random.Random(0).sample(range(2, 10**6), witnesses):
        x = pow(base, odd, n)
        if x not in (1, n - 1) and all((x := x * x % n) != n - 1 for _ in range(twos - 1)):
            return False
    return True


def test_the_field() -> None:
    assert is_prime(PRIME)
    # the smallest prime that no secret reaches
    assert not any(is_prime(2**256 + more) for more in range(297))
    assert PRIME < 2 ** (8 * SHARE_BYTES)
    assert 2 ** (8 * DRAWN_BYTES) > PRIME * 2**127


def test_by_hand() -> None:
    # 7 + 5 x + 3 x^2 at 1, 2, 3: 15, 29, 49
    shares = split((7).to_bytes(32), 3, [1, 2, 3], drawing(5, 3))
    assert [int.from_bytes(shares[x]) for x in (1, 2, 3)] == [15, 29, 49]
    # at 0: 15 * (2*3)/((2-1)(3-1)) - 29 * (1*3)/((2-1)(3-2)) + 49 * (1*2)/((3-1)(3-2)) = 45 - 87 +
    # 49 = 7
    assert int.from_bytes(combine(shares)) == 7


@settings(max_examples=40)
@given(SECRETS, st.integers(1, 12), st.integers(0, 12), st.randoms(use_true_random=False))
def test_any_threshold_of_the_shares_give_the_secret(
    secret: bytes, threshold: int, more: int, r: random.Random
) -> None:
    places = r.sample(range(1, 2000), threshold + more)
    shares = split(secret, threshold, places, os.urandom)
    assert {len(share) for share in shares.values()} == {SHARE_BYTES}
    chosen = r.sample(places, r.randint(threshold, len(places)))
    assert combine({x: shares[x] for x in chosen}) == secret


@settings(max_examples=20)
@given(SECRETS, SECRETS, st.integers(2, 8))
def test_fewer_shares_fit_every_secret(secret: bytes, other: bytes, threshold: int) -> None:
    """Through threshold - 1 shares and any other value at 0 goes a polynomial of the right degree:
    they say nothing."""
    shares = split(secret, threshold, range(1, threshold + 1), os.urandom)
    known = {x: int.from_bytes(shares[x]) for x in range(1, threshold)}
    points = {0: int.from_bytes(other), **known}

    def at(x: int) -> int:  # Lagrange through the known shares and the other secret
        total = 0
        for one, value in points.items():
            above = below = 1
            for two in points:
                if two != one:
                    above, below = above * (x - two) % PRIME, below * (one - two) % PRIME
            total += value * above * pow(below, -1, PRIME)
        return total % PRIME

    fitting = {**{x: shares[x] for x in known}, threshold: at(threshold).to_bytes(SHARE_BYTES)}
    assert combine(fitting) == other


@pytest.mark.parametrize(
    "shares", [{}, {0: bytes(33)}, {1: b"\xff" * 33}, {1: PRIME.to_bytes(33)}, {PRIME: bytes(33)}]
)
def test_what_is_no_share_is_refused(shares: dict[int, bytes]) -> None:
    with pytest.raises(ValueError, match="no shares of a secret"):
        combine(shares)


def test_shares_of_no_secret_are_refused() -> None:
    with pytest.raises(ValueError, match="belong to no secret"):
        combine({1: (PRIME - 1).to_bytes(33)})
