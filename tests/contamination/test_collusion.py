"""Attacks of clients that work together: values worked by hand, and the same from another
library."""

from __future__ import annotations

from typing import Any

import byzfl
import pytest
import torch
from fedrobust.strategies.krum import krum
from fedrobust.strategies.median import median
from fedrobust.strategies.trimmed_mean import trimmed_mean
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fedrobust.aggregation.updates import Updates
from fedrobust.contamination.base import Contamination
from fedrobust.contamination.updates.alie import alie, largest_z, optimal_alie
from fedrobust.contamination.updates.collusion import doubling_search, largest_accepted
from fedrobust.contamination.updates.fang import fang
from fedrobust.contamination.updates.ipm import ipm, optimal_ipm
from fedrobust.contamination.updates.mimic import mimic, outstanding
from fedrobust.contamination.updates.min_max import min_max
from fedrobust.contamination.updates.min_sum import min_sum
from fedrobust.errors import ConfigError
from tests.helpers.attacks import attack_matrix, normal, round_of

# Three honest clients with mean (2, 2) and sample standard deviations (1, 2), two poisoned ones
# with mean (1, 2).
CROWD = torch.tensor([[1.0, 0], [3, 2], [2, 4], [0, 0], [2, 4]])
# Three honest clients around (1, 1) with squared distances 4, 10 and 10, one poisoned.
TRIANGLE = torch.tensor([[0.0, 0], [2, 0], [1, 3], [9, 9]])


def forged(
    contamination: Contamination,
    matrix: torch.Tensor = CROWD,
    poisoned: tuple[int, ...] = (3, 4),
    **more: Any,
) -> list[Any]:
    """The poisoned clients' crafted rows; the others' rows must be unchanged."""
    after = attack_matrix(contamination, matrix, poisoned, **more)
    honest = [n for n in range(len(matrix)) if n not in poisoned]
    assert torch.equal(after[honest], matrix[honest])
    rows: list[Any] = after[list(poisoned)].tolist()
    return rows


def test_ipm_golden() -> None:
    assert forged(ipm(factor=2.0)) == [[-4, -4]] * 2
    assert forged(ipm(factor=2.0, knowledge="own")) == [[-2, -4]] * 2
    assert forged(ipm(factor=0.0)) == [[0, 0]] * 2


def test_alie_golden() -> None:
    assert forged(alie(z=1.5)) == [[3.5, 5]] * 2  # (2 + 1.5 * 1, 2 + 1.5 * 2)
    # of (0, 0) and (2, 4): mean (1, 2), deviations sqrt(2) and sqrt(8)
    assert forged(alie(z=1.0, knowledge="own")) == [pytest.approx([1 + 2**0.5, 2 + 8**0.5])] * 2
    assert forged(alie(z=0.0)) == [[2, 2]] * 2
    # one update has no spread
    assert forged(alie(z=3.0, knowledge="own"), poisoned=(1,)) == [[3, 2]]


@pytest.mark.parametrize(
    ("total", "attackers", "share"),
    [
        (10, 3, 4 / 7),  # s = 6 - 3 = 3 supporters of 7 honest clients
        (50, 12, 24 / 38),  # s = 26 - 12 = 14 of 38
        (51, 24, 25 / 27),  # s = 26 - 24 = 2 of 27, z = 1.45: the paper's experiments
        (10, 6, 3.5 / 4),  # a majority needs no support: half a client of 4
        # too few attackers for a majority: the most supporters who are fewer than half
        (10, 1, 5 / 9),  # s = 6 - 1 = 5 of 9 would give the quantile of 4/9, -0.14; 4 of 9
        (10, 2, 5 / 8),  # s = 6 - 2 = 4 of 8 would give 0; 3 of 8
        (11, 1, 6 / 10),  # s = 6 - 1 = 5 of 10 would give 0; 4 of 10
        (3, 1, 1.5 / 2),  # s = 2 - 1 = 1 of 2 would give 0; half a client of 2
        (2, 1, 1.5 / 2),  # one honest client counts as two
        (4, 4, 1.5 / 2),
    ],
)
def test_the_largest_z(total: int, attackers: int, share: float) -> None:
    # the normal distribution function of z is the share
    wanted = torch.distributions.Normal(0, 1).icdf(torch.tensor(share, dtype=torch.float64))
    assert largest_z(total, attackers) == pytest.approx(float(wanted), abs=1e-6)


def test_the_largest_z_is_always_an_attack_and_the_papers_where_that_is_one() -> None:
    without = 0
    for total in range(2, 31):
        for attackers in range(1, total + 1):
            honest, supporters = total - attackers, total // 2 + 1 - attackers
            found = largest_z(total, attackers)
            assert found > 0
            if honest >= 2 and 1 <= supporters < honest / 2:
                assert float(norm.cdf(found)) == pytest.approx((honest - supporters) / honest)
            without += supporters >= max(1, honest / 2)
    # f = 1 of 2 to 30 clients, f = 2 of 4, 6, ... 30
    assert without == 29 + 14


def test_a_single_alie_attacker_moves_away_from_the_mean() -> None:
    # N = 3, f = 1: z = quantile of 3/4 = .6745; (0, 0) and (2, 4) have the mean (1, 2) and the
    # deviations sqrt 2 and sqrt 8
    matrix = torch.tensor([[0.0, 0], [2, 4], [9, 9]])
    moved = [1 + 0.6745 * 2**0.5, 2 + 0.6745 * 8**0.5]
    assert forged(alie(), matrix, (2,)) == [pytest.approx(moved, abs=1e-4)]


def test_alie_without_z_takes_the_largest() -> None:
    # N = 5, f = 2: s = 3 - 2 = 1 of 3, z = quantile of 2/3 = .4307
    assert forged(alie()) == [pytest.approx([2.4307, 2.8615], abs=1e-4)] * 2


@pytest.mark.parametrize(
    ("perturbation", "expected"),
    [
        # (1 - t, 1 - t) is sqrt(10) away from (1, 3) where 2 t^2 + 4 t + 4 = 10: t = 1
        ("unit", [0, 0]),
        ("sign", [0, 0]),  # the same line
        # (1 - g, 1 - sqrt(3) g): 4 g^2 + 4 sqrt(3) g + 4 = 10, g = (6 - 2 sqrt(3)) / 4 = .63397
        ("std", [1 - 0.63397, 1 - 3**0.5 * 0.63397]),
    ],
)
def test_min_max_golden(perturbation: str, expected: list[float]) -> None:
    assert forged(min_max(perturbation=perturbation), TRIANGLE, (3,)) == [
        pytest.approx(expected, abs=1e-4)
    ]


@pytest.mark.parametrize(
    ("perturbation", "expected"),
    [
        # the largest sum of squared distances is 10 + 10 = 20; from the mean it is 2 + 2 + 4 = 8,
        # and 3 g^2 |p|^2 more at g
        ("unit", [1 - 2**0.5] * 2),  # |p| = 1: g = 2
        ("sign", [1 - 2**0.5] * 2),  # |p| = sqrt(2): g = sqrt(2)
        ("std", [0, 1 - 3**0.5]),  # p = (-1, -sqrt(3)), |p| = 2: g = 1
    ],
)
def test_min_sum_golden(perturbation: str, expected: list[float]) -> None:
    assert forged(min_sum(perturbation=perturbation), TRIANGLE, (3,)) == [
        pytest.approx(expected, abs=1e-4)
    ]


def test_a_given_gamma() -> None:
    for attack in (min_max, min_sum):
        assert forged(attack(gamma=0.5, perturbation="sign"), TRIANGLE, (3,)) == [[0.5, 0.5]]
        assert forged(attack(gamma=0.0), TRIANGLE, (3,)) == [[1, 1]]


def test_a_single_known_update_or_equal_ones_leave_no_room() -> None:
    for attack in (min_max, min_sum):
        assert forged(attack(knowledge="own"), TRIANGLE, (3,)) == [[9, 9]]
        assert forged(attack(), torch.tensor([[1.0, 2], [1, 2], [5, 5]]), (2,)) == [[1, 2]]
        assert forged(attack(perturbation="unit"), torch.zeros(4, 3), (0,)) == [[0, 0, 0]]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-4, 1.0, 100.0]),
    perturbation=st.sampled_from(["std", "sign", "unit"]),
)
def test_min_max_and_min_sum_go_just_as_far_as_they_may(
    seed: int, scale: float, perturbation: str
) -> None:
    matrix = scale * (normal(seed, 7, 12) + normal(seed + 1, 12))
    honest = matrix[:5].double()
    squares = torch.cdist(honest, honest) ** 2
    for attack, measure, limit in (
        (min_max, torch.Tensor.max, squares.max()),
        (min_sum, torch.Tensor.sum, squares.sum(1).max()),
    ):
        row = attack_matrix(attack(perturbation=perturbation), matrix, (5, 6))[6].double()
        away = row - honest.mean(0)
        reached, beyond = (
            measure(((honest.mean(0) + f * away - honest) ** 2).sum(1)) for f in (1.0, 1.001)
        )
        assert float(reached) <= float(limit) * (1 + 1e-5)
        assert float(beyond) > float(limit) * (1 - 1e-5)


@pytest.mark.parametrize("attack", [alie(noise=0.5), min_max(noise=0.5), min_sum(noise=0.5)])
def test_noise_of_each_attacker_s_own_makes_them_differ_as_honest_clients_do(
    attack: Contamination,
) -> None:
    honest = normal(3, 6, 4000)
    matrix = torch.cat([honest, torch.zeros(3, 4000)])
    sent = attack_matrix(attack, matrix, (6, 7, 8))[6:].double()
    apart = torch.cdist(sent, sent)[0, 1:].square() / 4000
    # noise of deviation 0.5 sigma on both sides: 2 * 0.25 of sigma squared, which is 1
    assert apart.tolist() == pytest.approx([0.5, 0.5], rel=0.15)
    largest = torch.cdist(honest.double(), honest.double()).max()
    assert torch.cdist(sent, honest.double()).max() <= 1.03 * largest


def test_noise_golden() -> None:
    # without room for gamma the noise alone is sent: mean 2 and deviation 1, quantile of the draw
    crowd = torch.tensor([[1.0], [3.0], [2.0], [0.0]])
    drawn = torch.rand(1, 1, generator=torch.Generator().manual_seed(0))
    expected = 2 + 2.0 * norm.ppf(float(drawn))
    assert forged(min_max(gamma=0.0, noise=2.0), crowd, (3,))[0] == pytest.approx([expected])


@settings(max_examples=40)
@given(bound=st.floats(0, 20), start=st.floats(0.5, 10))
def test_the_halving_search_finds_the_largest(bound: float, start: float) -> None:
    found = largest_accepted(lambda factor: factor <= bound, start)
    assert found <= bound
    assert found >= min(bound, 2 * start) - 2e-5 * start


def test_the_climb_doubles_and_then_shrinks() -> None:
    tried: list[float] = []

    def score(x: float) -> float:
        tried.append(x)
        return -abs(x - 24)

    # 0, 10, 10 + 20 = 30 (better), 30 + 40 = 70 (worse); then 40 * .8 = 32 from 30, and so on
    # downwards
    assert doubling_search(score, 5) == 30
    assert tried == [0, 10, 30, 70, 62]


def test_fang_on_krum_golden() -> None:
    # honest updates with s = (1, 1); nearest squared distances 8, 5, 5; the first step is sqrt(5 /
    # (1 * 2)) + sqrt(20 / 2) = 4.7434. Scores take one neighbour. At an eighth of it, .59293, the
    # first client is 1.59293^2 + .59293^2 = 2.889 < 5 away; at a fourth 6.18.
    assert forged(fang(rule="krum"), CROWD[:4], (3,)) == [pytest.approx([-0.59293] * 2, abs=1e-4)]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), attackers=st.integers(2, 4))
def test_krum_takes_what_fang_sends(seed: int, attackers: int) -> None:
    honest = normal(seed, 12 - attackers, 30) + 0.3 * normal(seed + 1, 30)
    matrix = torch.cat([honest, honest[:attackers]])
    poisoned = tuple(range(12 - attackers, 12))
    after = attack_matrix(fang(rule="krum"), matrix, poisoned)
    chosen = krum(f=attackers).rule(round_of(Updates.of(after))).weights_N
    assert float(chosen[list(poisoned)].sum()) == 1
    assert float(after[-1] @ honest.mean(0)) < 0


def test_fang_on_the_trimmed_mean_golden() -> None:
    # means 2, 2, -2, -2; models: smallest 1 + 1 = 2 and -1 + 0 = -1, largest .5 - 1 = -.5 and 5 - 1
    # = 4, so they are drawn from [1, 2], [-2, -1], [-.5, -.25] and [4, 8]; as updates:
    honest = torch.tensor([[1.0, 0, -1, -1], [3, 2, -3, -3], [2, 4, -2, -2]])
    reference = torch.tensor([1.0, -1, 0.5, 5])
    low, high = torch.tensor([0.0, -1, -1, -1]), torch.tensor([1.0, 0, -0.75, 3])
    matrix = torch.cat([honest, torch.zeros(40, 4)])
    rows = attack_matrix(fang(), matrix, range(3, 43), reference_D=reference)[3:]
    assert (rows >= low).all()
    assert (rows <= high).all()
    assert (rows.amin(0) < low + 0.1 * (high - low)).all()
    assert (rows.amax(0) > high - 0.1 * (high - low)).all()
    # own: 3 to 4 deviations from the mean, against its sign; of 3, 5: mean 4, deviation sqrt(2); of
    # -3, -5 likewise
    own = torch.tensor([[0.0, 0], [3, -3], [5, -5]])
    some = attack_matrix(fang(knowledge="own"), own, (1, 2))[1:]
    assert ((4 - some[:, 0]) / 2**0.5 - 3.5).abs().max() <= 0.5
    assert ((some[:, 1] + 4) / 2**0.5 - 3.5).abs().max() <= 0.5


def test_mimic_copies_the_one_that_stands_out_and_stays_with_it() -> None:
    matrix = torch.tensor([[0.0, 0], [1, 0], [9, 0], [5, 5], [7, 7]])
    assert forged(mimic(), matrix) == [[9, 0]] * 2
    assert forged(mimic(target=1), matrix) == [[1, 0]] * 2
    assert forged(mimic(), matrix, memory={"target": 0}) == [[0, 0]] * 2
    assert forged(mimic(), matrix, memory={"target": 17}) == [[9, 0]] * 2  # it did not reply


def test_a_poisoned_target_of_mimic_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"contamination\.target=3: is poisoned itself"):
        forged(mimic(target=3))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), n=st.integers(2, 8))
def test_who_stands_out_by_inner_products_is_who_stands_out_in_full(seed: int, n: int) -> None:
    matrix = normal(seed, n, 20).double()
    z = torch.linalg.svd(matrix - matrix.mean(0)).Vh[0]
    scores = (matrix @ z).abs()
    assert float(scores[outstanding(matrix @ matrix.T)]) == pytest.approx(float(scores.max()))


RULES = {
    "mean": (None, byzfl.Average()),
    "trimmed_mean": (trimmed_mean(f=3).rule, byzfl.TrMean(f=3)),
    "median": (median().rule, byzfl.Median()),
}
BYZFL = {
    "ipm": (ipm(factor=1.7), byzfl.InnerProductManipulation(tau=1.7)),
    "sign_flip": (ipm(factor=1.0), byzfl.SignFlipping()),
    "alie": (alie(z=1.3), byzfl.ALittleIsEnough(tau=1.3)),
    "mimic": (mimic(target=4), byzfl.Mimic(epsilon=4)),
}


@pytest.mark.parametrize("name", BYZFL)
def test_as_byzfl(name: str) -> None:
    ours, theirs = BYZFL[name]
    matrix = normal(3, 10, 40)
    rows = attack_matrix(ours, matrix, (7, 8, 9))[7:]
    torch.testing.assert_close(rows, theirs(matrix[:7]).float().expand(3, -1))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_tuned_as_byzfl(rule: str, seed: int) -> None:
    matrix = normal(seed, 10, 40) + normal(seed + 50, 40)
    live, aggregator = RULES[rule]
    for ours, theirs in (
        (optimal_ipm(), byzfl.attacks.Optimal_InnerProductManipulation(aggregator, [], 3)),
        (optimal_alie(), byzfl.attacks.Optimal_ALittleIsEnough(aggregator, [], 3)),
    ):
        rows = attack_matrix(ours, matrix, (7, 8, 9), rule=live)[7:]
        torch.testing.assert_close(
            rows, theirs(matrix[:7]).float().expand(3, -1), rtol=1e-4, atol=1e-4
        )
