"""Shamir's secret sharing (CACM 1979): any `threshold` shares give the secret, fewer say nothing at
all about it.

A secret of 32 bytes is the value at 0 of a random polynomial of degree threshold - 1 over the
integers modulo PRIME; the share of x is its value there. Not in constant time: a share is computed
once from fresh randomness, so its timing cannot be measured repeatedly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fedrobust.privacy.secure import Random

PRIME = 2**256 + 297  # the smallest prime that no secret reaches
SECRET_BYTES = 32
SHARE_BYTES = 33
DRAWN_BYTES = 48  # of a coefficient: modulo PRIME its distribution is uniform up to 2^-127


def split(
    secret: bytes, threshold: int, places: Collection[int], random: Random
) -> dict[int, bytes]:
    """{x: share}, `threshold` >= 1 of which are needed. secret: 32 bytes; places: different whole
    numbers from 1 on."""
    rest = [int.from_bytes(random(DRAWN_BYTES)) % PRIME for _ in range(threshold - 1)]
    return {x: _value([int.from_bytes(secret), *rest], x).to_bytes(SHARE_BYTES) for x in places}


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret behind {x: share}, of which there must be exactly as many as the threshold, or
    more.

    Raises ValueError where the shares belong to no secret, as wrong ones mostly do not show.
    """
    values = {x: int.from_bytes(share) for x, share in shares.items()}
    if not values or any(not 1 <= x < PRIME or y >= PRIME for x, y in values.items()):
        raise ValueError("no shares of a secret")
    secret = sum(y * _at_zero(x, values) for x, y in values.items()) % PRIME
    if secret >= 2 ** (8 * SECRET_BYTES):
        raise ValueError("shares that belong to no secret")
    return secret.to_bytes(SECRET_BYTES)


def _value(coefficients: list[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value


def _at_zero(x: int, places: Collection[int]) -> int:
    """Lagrange's polynomial of x, at 0: the product of other / (other - x)."""
    above = below = 1
    for other in places:
        if other != x:
            above, below = above * other % PRIME, below * (other - x) % PRIME
    return above * pow(below, -1, PRIME) % PRIME
