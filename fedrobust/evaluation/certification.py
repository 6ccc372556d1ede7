"""FLCert: certified answers of an ensemble whose members were trained by groups of clients.

Axes: N images, K classes, G groups.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Generator, Tensor

ABSTAINS = -1  # radius of an answer that is not certified, even without a malicious client


def disjoint_groups(clients: int, groups: int, generator: Generator) -> list[tuple[int, ...]]:
    """Every client in one of so many groups, whose sizes differ by at most one (FLCert-D).

    Args:
        clients: number of clients.
        groups: number of groups, at most `clients`.
        generator: source of the order of clients, of which clients have no influence.
    """
    order = torch.randperm(clients, generator=generator).tolist()
    return [tuple(sorted(order[group::groups])) for group in range(groups)]


def sampled_groups(
    clients: int, groups: int, size: int, generator: Generator
) -> list[tuple[int, ...]]:
    """So many groups, each of `size` clients drawn without replacement (FLCert-P). Equal groups may
    occur, as they must where groups are independent."""
    return [
        tuple(sorted(torch.randperm(clients, generator=generator)[:size].tolist()))
        for _ in range(groups)
    ]


def count_votes(predicted_GN: Tensor, num_classes: int) -> Tensor:
    """(N, K) int64: for how many groups' models each class is the answer."""
    return torch.nn.functional.one_hot(predicted_GN.long(), num_classes).sum(dim=0)


def majority(votes_NK: Tensor) -> Tensor:
    """(N,) the class with most votes, of equals the lowest."""
    return votes_NK.argmax(dim=1)


def disjoint_radius(votes_NK: Tensor) -> Tensor:
    """(N,) the largest number of malicious clients that cannot change the majority's answer, with
    disjoint groups: each spoils one vote at most.

    m* = min over other classes z of floor((v_y - v_z - [z < y]) / 2), where the lowest class of
    equals is the answer.

    Reference:
        Cao, Zhang, Jia, Gong, FLCert, IEEE TIFS 17, 2022, theorem for FLCert-D.
    """
    answers_N = majority(votes_NK)
    classes = torch.arange(votes_NK.shape[1])
    own = votes_NK.gather(1, answers_N[:, None])
    room = torch.div(
        own - votes_NK - (classes < answers_N[:, None]).long(), 2, rounding_mode="floor"
    )
    room = room.masked_fill(classes == answers_N[:, None], torch.iinfo(torch.int64).max)
    return room.amin(dim=1).clamp(max=int(votes_NK[0].sum()) if len(votes_NK) else 0)


def subset_radius(own: int, other: int, clients: int, size: int) -> int:
    """The largest number m of malicious clients that cannot change the majority over all groups of
    `size` clients.

    A group is touched by m clients in C - C(clients - m, size) of the C = C(clients, size) cases;
    all of these may leave the answer for the other class, so that m holds where own - other > 2 (C
    - C(clients - m, size)).

    Args:
        own: groups, of all C, that give the answer, at least.
        other: groups that give any one other class, at most.
        clients: number of clients.
        size: of a group.

    Returns:
        m; `ABSTAINS` where not even 0 is certain.

    Reference:
        Cao, Jia, Gong, AAAI 2021, "Provably secure federated learning against malicious clients";
        FLCert, theorem for FLCert-P.
    """
    whole = math.comb(clients, size)
    found = ABSTAINS
    for m in range(clients + 1):
        if own - other <= 2 * (whole - math.comb(clients - m, size)):
            break
        found = m
    return found


def sampled_radius(votes_NK: Tensor, clients: int, size: int, alpha: float) -> Tensor:
    """(N,) radii of the majority over all groups of `size` clients, of which some were sampled:
    all N hold together with probability 1 - alpha.

    The share of groups that give the answer is at least its lower Clopper-Pearson bound at level
    alpha / N (Bonferroni), and that of any other class at most what is left.

    Args:
        votes_NK: of the sampled groups.
        clients: number of clients.
        size: of a group.
        alpha: chance that any of the N radii is too large, in (0, 1).

    Returns:
        int64; `ABSTAINS` where the majority's answer is not certain.
    """
    groups = int(votes_NK[0].sum()) if len(votes_NK) else 0
    whole = math.comb(clients, size)
    level = alpha / max(len(votes_NK), 1)

    @lru_cache
    def radius(own: int) -> int:
        least = math.floor(Fraction(lower_bound(own, groups, level)) * whole)
        return subset_radius(least, whole - least, clients, size)

    return torch.tensor([radius(own) for own in votes_NK.amax(dim=1).tolist()], dtype=torch.int64)


def lower_bound(hits: int, total: int, level: float) -> float:
    """The one-sided Clopper-Pearson bound: the share below which so many hits or more have a
    probability under `level`; the bisection ends below it.

    Args:
        hits: 0 to `total`.
        total: independent trials, at least 1.
        level: in (0, 1).

    Reference:
        Clopper and Pearson, Biometrika 26:404, 1934.
    """
    if hits == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _tail(hits, total, middle) < level else (low, middle)
    return low


def _tail(hits: int, total: int, share: float) -> float:
    """Probability of so many hits or more."""
    if share in (0.0, 1.0):
        return float(share == 1.0 or hits == 0)
    return math.fsum(
        math.exp(
            math.lgamma(total + 1)
            - math.lgamma(k + 1)
            - math.lgamma(total - k + 1)
            + k * math.log(share)
            + (total - k) * math.log1p(-share)
        )
        for k in range(hits, total + 1)
    )


def certified_accuracy(correct_N: Tensor, radius_N: Tensor, most: int) -> list[float]:
    """Share of the images, in percent, whose answer is right and stays, against m = 0, 1, ...,
    `most` malicious clients; it never rises.

    Args:
        correct_N: whether the majority's answer is right.
        radius_N: of `disjoint_radius` or `sampled_radius`.
        most: largest m.
    """
    if len(correct_N) == 0:
        return []
    return [100 * float((correct_N & (radius_N >= m)).double().mean()) for m in range(most + 1)]
