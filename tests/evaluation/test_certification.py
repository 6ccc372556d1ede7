"""FLCert's certificates: by hand, against every attack on tiny federations, and the bound of the
sampled variant against scipy."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrobust.evaluation.certification import (
    ABSTAINS,
    certified_accuracy,
    count_votes,
    disjoint_groups,
    disjoint_radius,
    lower_bound,
    majority,
    sampled_groups,
    sampled_radius,
    subset_radius,
)
from fedrobust.utils.seeding import generator

CLASSES = 3


def answers_under_attack(
    votes: list[int], groups: list[tuple[int, ...]], malicious: tuple[int, ...]
) -> set[int]:
    """All answers that the ensemble can give when these clients are malicious: each group that one
    of them is in may vote for any class."""
    open_ = [place for place, group in enumerate(groups) if {*malicious} & {*group}]
    found = set()
    for choice in itertools.product(range(CLASSES), repeat=len(open_)):
        changed = list(votes)
        for place, vote in zip(open_, choice, strict=True):
            changed[place] = vote
        found.add(int(majority(count_votes(torch.tensor(changed)[:, None], CLASSES))))
    return found


@pytest.mark.parametrize("votes", list(itertools.product(range(CLASSES), repeat=5)))
def test_no_attack_within_the_radius_flips_a_certified_answer(votes: tuple[int, ...]) -> None:
    # seven clients in five disjoint groups: every choice of m clients, every vote of their groups
    groups = [(0, 5), (1, 6), (2,), (3,), (4,)]
    answer = int(majority(count_votes(torch.tensor(votes)[:, None], CLASSES)))
    radius = int(disjoint_radius(count_votes(torch.tensor(votes)[:, None], CLASSES)))
    for malicious in itertools.combinations(range(7), radius):
        assert answers_under_attack([*votes], groups, malicious) == {answer}
    beyond = itertools.combinations(range(7), radius + 1)  # the radius is the largest
    assert any(len(answers_under_attack([*votes], groups, one)) > 1 for one in beyond)


@pytest.mark.parametrize("seed", range(6))
def test_no_attack_flips_a_certified_answer_of_all_subsets(seed: int) -> None:
    # five clients, all ten groups of two: the exact shares are known
    groups = list(itertools.combinations(range(5), 2))
    votes = torch.randint(10, (10,), generator=generator(seed, "votes"))
    votes = torch.where(votes < 2, votes + 1, 0).tolist()
    counts = count_votes(torch.tensor(votes)[:, None], CLASSES)
    answer = int(majority(counts))
    own, other = counts[0].sort(descending=True).values[:2].tolist()
    radius = subset_radius(own, other, 5, 2)
    for malicious in itertools.combinations(range(5), max(radius, 0)):
        assert radius == ABSTAINS or answers_under_attack(votes, groups, malicious) == {answer}


def test_golden_radii_of_disjoint_groups() -> None:
    # 5 votes for class 0, 2 for class 1: floor(3 / 2) = 1. For class 1 against class 0:
    # floor((5 - 2 - 1) / 2) = 1 since ties go to the lower class. 4 against 4 of a higher one: 0
    votes = torch.tensor([[5, 2, 0], [2, 5, 0], [4, 4, 0], [0, 0, 7], [7, 0, 0]])
    assert disjoint_radius(votes).tolist() == [1, 1, 0, 3, 3]
    assert disjoint_radius(torch.zeros(0, 3, dtype=torch.int64)).tolist() == []


def test_golden_radii_of_sampled_groups() -> None:
    # 20 clients, groups of 2 of 190, 60 sampled and all agree, one image: the bound is
    # alpha^(1/60) = 0.001^(1/60) = 0.8913; floor(0.8913 * 190) = 169 own, 21 other; 2 (190 -
    # C(18, 2)) = 2 * 37 = 74 < 148, 3: 2 * 54 = 108 < 148, 4: 2 * 70 = 140 < 148, 5: 170
    votes = torch.tensor([[60, 0, 0]])
    assert sampled_radius(votes, 20, 2, 0.001).tolist() == [4]
    assert sampled_radius(torch.tensor([[20, 20, 20]]), 20, 2, 0.001).tolist() == [ABSTAINS]


@given(st.integers(0, 40), st.integers(1, 40), st.floats(1e-6, 0.5))
@settings(max_examples=30, deadline=None)
def test_the_bound_is_that_of_scipy(hits: int, total: int, level: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    hits = min(hits, total)
    wanted = stats.beta.ppf(level, hits, total - hits + 1) if hits else 0.0
    assert lower_bound(hits, total, level) == pytest.approx(float(wanted), abs=1e-9)


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=5),
    st.integers(0, 2**31),
)
@settings(max_examples=30, deadline=None)
def test_certified_accuracy_never_rises_and_more_votes_never_shrink_a_radius(
    rows: list[list[int]], seed: int
) -> None:
    total = 1 + max(sum(row) for row in rows)
    votes = torch.tensor([[row[0] + total - sum(row), *row[1:]] for row in rows])
    radius = disjoint_radius(votes)
    correct = torch.rand(len(rows), generator=generator(seed, "right")) < 0.7
    curve = certified_accuracy(correct, radius, 5)
    assert curve == sorted(curve, reverse=True)
    assert curve[0] == pytest.approx(100 * float(correct.double().mean()))
    more = votes.clone()
    more.scatter_add_(1, majority(votes)[:, None], torch.full((len(rows), 1), 2))
    assert bool((disjoint_radius(more) >= radius).all())


def test_groups() -> None:
    g = generator(0, "groups")
    parts = disjoint_groups(10, 4, g)
    assert sorted(one for part in parts for one in part) == list(range(10))
    assert sorted(map(len, parts)) == [2, 2, 3, 3]
    drawn = sampled_groups(6, 200, 2, g)
    assert {*drawn} == {*itertools.combinations(range(6), 2)}
    shares: Tensor = torch.tensor([drawn.count(one) for one in {*drawn}]) / 200
    assert float((shares - 1 / 15).abs().max()) < 4 * math.sqrt(1 / 15 / 200)
