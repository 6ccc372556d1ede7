"""The statistics against arithmetic that can be done by hand, and against what they must never
break."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.evaluation.drops import (
    PairedPredictions,
    bootstrap_difference,
    combined_draws,
    resampled_metrics,
)
from fedrobust.evaluation.statistics import (
    DropTable,
    Estimate,
    Replicates,
    estimate,
    holm,
    letter_groups,
    mean_over_seeds,
    sample_seeds,
    wilson_interval,
)
from fedrobust.utils.seeding import generator

NAN = math.nan


def measured(values: list, draws: list | None = None) -> Replicates:
    """Without draws: two replicates that are as measured."""
    values_S = torch.tensor(values, dtype=torch.float64)
    return Replicates(
        values_S,
        values_S[..., None].expand(*values_S.shape, 2)
        if draws is None
        else torch.tensor(draws, dtype=torch.float64),
    )


def test_golden_mean_over_two_seeds() -> None:
    # Seeds 10 and 20. Replicate 1 picks (2, 0): their mean is 10; replicate 2 picks (1, 1): 15;
    # replicate 3 picks (0, 2): 20. The plain mean is 15, so the picks give -5, 0, +5; two seeds
    # stretch that by sqrt(2 / 1): 15 - 7.071, 15, 15 + 7.071.
    counts = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], dtype=torch.float64)
    value, draws = mean_over_seeds(measured([10, 20], [[10, 10, 10], [20, 20, 20]]), counts)
    assert float(value) == 15
    assert draws.tolist() == pytest.approx([15 - 5 * math.sqrt(2), 15, 15 + 5 * math.sqrt(2)])
    # Other images in replicate 1: seed 0 has 12, seed 1 has 18. Plain 15, picked 12: 15 + 1.4142
    # (12 - 15) = 10.757.
    _, draws = mean_over_seeds(measured([10, 20], [[12, 10, 10], [18, 20, 20]]), counts)
    assert float(draws[0]) == pytest.approx(15 - 3 * math.sqrt(2))


def test_one_seed_varies_by_its_images_only() -> None:
    value, draws = mean_over_seeds(
        measured([7], [[5, 6, 9]]), torch.ones(1, 3, dtype=torch.float64)
    )
    assert (float(value), draws.tolist()) == (7, [5, 6, 9])


def test_a_missing_seed_is_left_out() -> None:
    # Seeds 10, missing, 30: the mean is 20; picks (1, 2, 0) count seed 0 only: 20 + sqrt(2) (10 -
    # 20).
    counts = torch.tensor([[1.0], [2.0], [0.0]], dtype=torch.float64)
    value, draws = mean_over_seeds(measured([10, NAN, 30], [[10], [NAN], [30]]), counts)
    assert float(value) == 20
    assert draws.tolist() == pytest.approx([20 - 10 * math.sqrt(2)])
    # Picks (0, 3, 0) hold no run at all: that replicate says nothing.
    _, nothing = mean_over_seeds(
        measured([10, NAN, 30], [[10], [NAN], [30]]),
        torch.tensor([[0.0], [3.0], [0.0]], dtype=torch.float64),
    )
    assert nothing.isnan().all()


def test_the_stretched_picks_have_the_variance_of_a_mean() -> None:
    values = [3.0, 8.0, 16.0, 1.0]
    draws = torch.tensor(values, dtype=torch.float64)[:, None].expand(4, 40000)
    _, means = mean_over_seeds(
        Replicates(torch.tensor(values, dtype=torch.float64), draws),
        sample_seeds(4, 40000, generator(0, "variance")),
    )
    # s^2 / n with n - 1 below
    expected = torch.tensor(values, dtype=torch.float64).var(unbiased=True) / 4
    assert float(means.var()) == pytest.approx(float(expected), rel=0.03)


def test_golden_estimate() -> None:
    # 39 replicates 1 ... 39, of which none is at most 0: p = 2 (1 + 0) / (1 + 39) = .05.
    found = estimate(torch.tensor(20.0), torch.arange(1.0, 40.0))
    # positions .025 x 38 = .95 and .975 x 38 = 37.05 of the sorted replicates
    assert (found.value, found.low, found.high, found.p) == (
        20,
        pytest.approx(1.95),
        pytest.approx(38.05),
        pytest.approx(0.05),
    )
    # three replicates at most 0, two of them zeros, and 38 at least 0: p = 2 (1 + 3) / 40 = .2
    assert estimate(
        torch.tensor(1.0), torch.tensor([-5.0, 0, 0, *range(1, 37)])
    ).p == pytest.approx(0.2)
    assert estimate(torch.tensor(0.0), torch.zeros(39)) == Estimate(0.0, 0.0, 0.0, 1.0)
    assert estimate(torch.tensor(NAN), torch.zeros(39)) == Estimate(None)
    assert estimate(torch.tensor(2.0), torch.full((3,), NAN)) == Estimate(2.0)


def board(values_RAS: list) -> DropTable:
    found = measured(values_RAS)
    return DropTable(found, sample_seeds(found.values.shape[-1], 2, generator(0, "seeds")))


def test_golden_board() -> None:
    # Rule 0: attacks 10, 30 (mean of 20 and 40); rule 1: attacks 5, 5.
    both = board([[[10, 10], [20, 40]], [[5, 5], [5, 5]]])
    assert both.one(0, 1).value == 30
    assert both.mean(0).value == 20  # (10 + 30) / 2
    assert both.worst(0).value == 30
    assert both.difference(0, 1).value == 15  # 20 - 5
    assert both.difference(1, 0).value == -15


def test_golden_board_with_failed_runs() -> None:
    # Rule 0 lacks seed 1 of attack 1, rule 1 lacks attack 0 altogether.
    holes = board([[[10, 10], [20, NAN]], [[NAN, NAN], [5, 7]], [[1, 2], [3, 9]]])
    assert holes.one(0, 1).value == 20
    assert holes.mean(0).value == 15
    assert holes.mean(1) == holes.worst(1) == holes.one(1, 0) == Estimate(None)
    assert holes.difference(0, 1) == Estimate(None)
    # seed 1 of attack 1 is left out of both: ((10 - 1 + 10 - 2) / 2 + (20 - 3)) / 2 = (8.5 + 17) /
    # 2
    assert holes.difference(0, 2).value == pytest.approx(12.75)


def test_a_difference_on_one_seed_is_the_bootstrap_of_two_runs() -> None:
    g = generator(3, "pair")
    labels = torch.randint(4, (200,), generator=g)
    groups_N = torch.randint(90, (200,), generator=g)
    runs = [
        torch.where(torch.rand(200, generator=g) < right, labels, (labels + 1) % 4)
        for right in (0.9, 0.4, 0.85, 0.7)
    ]
    expected = bootstrap_difference(
        PairedPredictions(labels, runs[0], runs[1], 4, groups_N),
        PairedPredictions(labels, runs[2], runs[3], 4, groups_N),
        generator=generator(1),
        draws=300,
    )
    drops = []
    # one after the other, as the comparison does it
    for normal, attack in ((runs[0], runs[1]), (runs[2], runs[3])):
        draws = resampled_metrics(
            [(labels, normal), (labels, attack)], 4, groups_N, 300, generator(1)
        )
        drops.append(combined_draws(*draws))
    draws_RASB = torch.stack(drops)[:, None, None]
    found = DropTable(
        Replicates(torch.zeros(2, 1, 1, dtype=torch.float64), draws_RASB),
        torch.ones(1, 300, dtype=torch.float64),
    ).difference(0, 1)
    assert (found.low, found.high) == pytest.approx(expected)


def test_golden_holm() -> None:
    # sorted .01 x 4, .02 x 3, .03 x 2, .04 x 1 = .04, .06, .06, .04 -> never smaller than before:
    # .04, .06, .06, .06
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_golden_groups() -> None:
    assert letter_groups(3, []) == ["a", "a", "a"]
    assert letter_groups(3, [(0, 2)]) == ["a", "ab", "b"]  # 1 differs from neither
    assert letter_groups(3, [(0, 1), (0, 2), (1, 2)]) == ["a", "b", "c"]
    assert letter_groups(4, [(0, 2), (0, 3), (1, 3)]) == ["a", "ab", "bc", "c"]
    assert letter_groups(1, []) == ["a"]


@settings(max_examples=40)
@given(number=st.integers(1, 7), data=st.data())
def test_letters_are_shared_by_those_that_do_not_differ(number: int, data: st.DataObject) -> None:
    pairs = list(itertools.combinations(range(number), 2))
    different = data.draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    letters = letter_groups(number, different)
    for one, other in pairs:
        assert bool(set(letters[one]) & set(letters[other])) == ((one, other) not in different)
    assert all(letters)


@settings(max_examples=40)
@given(p=st.lists(st.floats(1e-6, 1), max_size=12))
def test_laws_of_holm(p: list[float]) -> None:
    adjusted = holm(p)
    for raw, one in zip(p, adjusted, strict=True):
        # never smaller than p, never larger than Bonferroni's
        assert raw <= one <= min(1.0, len(p) * raw) + 1e-12
    order = sorted(range(len(p)), key=lambda place: p[place])
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))


VALUES = st.lists(st.floats(-50, 100), min_size=12, max_size=12)


@settings(max_examples=40)
@given(values=VALUES, shift=st.floats(-20, 20), seed=st.integers(0, 99))
def test_laws_of_the_board(values: list[float], shift: float, seed: int) -> None:
    """2 rules x 2 attacks x 3 seeds."""
    values_RAS = torch.tensor(values, dtype=torch.float64).view(2, 2, 3)
    noise = torch.randn(2, 2, 3, 60, generator=generator(seed, "noise"), dtype=torch.float64)
    counts = sample_seeds(3, 60, generator(seed, "seeds"))
    both = DropTable(Replicates(values_RAS, values_RAS[..., None] + noise), counts)
    assert both.worst(0).value >= both.mean(0).value - 1e-9
    forth, back = both.difference(0, 1), both.difference(1, 0)
    assert forth.value == pytest.approx(-back.value, abs=1e-9)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), abs=1e-9)
    assert forth.p == pytest.approx(back.p)
    # nothing is missing
    assert forth.value == pytest.approx(both.mean(0).value - both.mean(1).value, abs=1e-9)
    moved = DropTable(Replicates(values_RAS + shift, values_RAS[..., None] + noise + shift), counts)
    assert moved.difference(0, 1).low == pytest.approx(forth.low, abs=1e-9)
    assert moved.mean(0).low == pytest.approx(both.mean(0).low + shift, abs=1e-9)
    swapped = DropTable(
        Replicates(values_RAS.flip(1), (values_RAS[..., None] + noise).flip(1)), counts
    )
    # the order of attacks does not matter
    assert swapped.mean(0).high == pytest.approx(both.mean(0).high, abs=1e-9)


def test_picked_seeds_are_as_many_as_there_are() -> None:
    counts = sample_seeds(3, 500, generator(0, "seeds"))
    assert counts.shape == (3, 500)
    assert (counts.sum(dim=0) == 3).all()
    assert (counts.mean(dim=1) - 1).abs().max() < 0.15
    assert torch.equal(counts, sample_seeds(3, 500, generator(0, "seeds")))


def test_equal_rules_do_not_differ() -> None:
    same = board([[[10, 20]], [[10, 20]]]).difference(0, 1)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("number", "spread", "least"), [(1, 0.0, 0.89), (3, 0.0, 0.89), (3, 1.0, 0.87), (10, 3.0, 0.89)]
)
def test_intervals_cover_the_true_value(number: int, spread: float, least: float) -> None:
    """Effects of images (one for all seeds) and of seeds, both normal around 0: docs/compare.md has
    the table."""
    hits, trials = 0, 150
    for trial in range(trials):
        g = generator(trial, "coverage", number)
        image = torch.randn((), generator=g, dtype=torch.float64)
        values_S = image + spread * torch.randn(number, generator=g, dtype=torch.float64)
        draws_SB = values_S[:, None] + torch.randn(400, generator=g, dtype=torch.float64)
        found = DropTable(
            Replicates(values_S[None, None], draws_SB[None, None]), sample_seeds(number, 400, g)
        ).one(0, 0)
        hits += found.low <= 0 <= found.high
    assert hits / trials >= least  # 95 % nominal; three standard deviations of 150 trials below .94


@settings(max_examples=40)
@given(total=st.integers(1, 500), data=st.data())
def test_wilson_s_interval_by_its_formula(total: int, data: st.DataObject) -> None:
    hits, z = data.draw(st.integers(0, total)), 1.959964
    share = hits / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low, high = ((middle + side * half) / (1 + z * z / total) for side in (-1, 1))
    assert wilson_interval(hits, total) == pytest.approx((100 * low, 100 * high), abs=1e-4)


def test_wilson_s_interval_of_nothing() -> None:
    assert wilson_interval(0, 0) is None


def test_no_interval_says_that_more_than_everything_is_lost() -> None:
    # two seeds of 90 and 100: the picks stretch to 95 +- 5 sqrt(2), above 100
    counts = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], dtype=torch.float64)
    draws = torch.tensor([[90.0] * 3, [100.0] * 3], dtype=torch.float64)
    both = Replicates(torch.tensor([90.0, 100.0], dtype=torch.float64), draws)
    one = Replicates(both.values[None, None], both.draws[None, None])
    table = DropTable(one, counts)
    for found in (table.one(0, 0), table.mean(0), table.worst(0)):
        assert found.high == 100.0
        assert found.low == pytest.approx(95 - 5 * math.sqrt(2) * 0.95)
    free = estimate(*mean_over_seeds(both, counts))
    assert free.high == pytest.approx(95 + 5 * math.sqrt(2) * 0.95)
    assert (free.low, free.p) == (found.low, found.p)
