"""More rules: smallest examples by hand, settings, and what outliers cannot do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fedrobust.strategies import mda as mda_module
from fedrobust.strategies.bulyan import bulyan, select_rows
from fedrobust.strategies.caf import caf
from fedrobust.strategies.centered_clipping import centered_clipping
from fedrobust.strategies.dnc import distinct, dnc
from fedrobust.strategies.geometric_median import geometric_median
from fedrobust.strategies.mda import mda, smallest
from fedrobust.strategies.meamed import meamed
from fedrobust.strategies.monna import monna
from fedrobust.strategies.norm_clipping import norm_clipping
from torch import Tensor, nn

from fedrobust.aggregation.round import Aggregate, Round, ServerData, Strategy
from fedrobust.aggregation.updates import Updates, squared_distances
from fedrobust.errors import ConfigError, RunError
from fedrobust.state import State

SMALL = torch.tensor([[0.0, 3.0], [1.0, 1.0], [5.0, 5.0]])
LINE = torch.tensor([[0.0], [1], [5]])
LENGTHS = torch.tensor([[3.0, 4], [6, 8], [0, 5]])  # 5, 10, 5


def apply(
    strategy: Strategy, matrix_ND: Tensor, counts: list[int] | None = None, memory: Any = None
) -> Aggregate:
    updates = Updates.of(matrix_ND, None if counts is None else torch.tensor(counts))
    reference = State(torch.zeros(matrix_ND.shape[1]), torch.zeros(0))
    generator = torch.Generator().manual_seed(0)
    return strategy.rule(
        Round(1, reference, updates, ServerData(nn.Identity()), generator, memory or {})
    )


@pytest.mark.parametrize(
    ("strategy", "matrix", "update", "weights"),
    [
        # column 0 1 5, median 1: nearest two 0 1; column 3 1 5, median 3: 1 and 5 are equally far,
        # the smaller stays: 1 3
        (meamed(1), SMALL, [0.5, 2], [0.5, 0.5, 0]),
        # squared distances 01: 1 + 4 = 5, 02: 25 + 4 = 29, 12: 16 + 16 = 32: the smallest set of
        # two is 0 1
        (mda(1), SMALL, [0.5, 2], [0.5, 0.5, 0]),
        # sums of distances sqrt 5 + sqrt 29 < sqrt 5 + sqrt 32 < sqrt 29 + sqrt 32: around client
        # 0, nearest is 1
        (monna(1), SMALL, [0.5, 2], [0.5, 0.5, 0]),
        # around client 2: 29 < 32, so client 0
        (monna(1, pivot=2), SMALL, [2.5, 4], [0.5, 0, 0.5]),
        # f = 0 chooses all three and keeps all of them
        (bulyan(0), SMALL, [2, 3], [1 / 3, 1 / 3, 1 / 3]),
        # bound 5, the median length: 1, 1/2, 1 of them: (3 + 3 + 0)/3, (4 + 4 + 5)/3; parts 1 : 1/2
        # : 1
        (norm_clipping(), LENGTHS, [2, 13 / 3], [0.4, 0.2, 0.4]),
        (norm_clipping(5), LENGTHS, [2, 13 / 3], [0.4, 0.2, 0.4]),
        (norm_clipping(100), LENGTHS, [3, 17 / 3], [1 / 3, 1 / 3, 1 / 3]),
        # one step from the origin is norm clipping
        (centered_clipping(5, 1), LENGTHS, [2, 13 / 3], [0.4, 0.2, 0.4]),
        (centered_clipping(None, 1), LENGTHS, [2, 13 / 3], [0.4, 0.2, 0.4]),
        # mean 2, squared deviations 4 1 9, their mean 14/3, c = 5/9 8/9 0 of sum 13/9 > 1; mean
        # 8/13, squared deviations (8/13)^2 (5/13)^2, their mean 5/13 64/169 + 8/13 25/169 =
        # 520/2197 < 14/3; c = 0, 8/9 39/64, 0 of sum < 1: the answer is 8/13
        (caf(1), LINE, [8 / 13], [5 / 13, 8 / 13, 0]),
        # mean 2, scores 4 1 9: the last one goes
        (dnc(1), LINE, [0.5], [0.5, 0.5, 0]),
        (dnc(1, iterations=3), LINE, [0.5], [0.5, 0.5, 0]),
        # int(0.5 x 1) = 0 go
        (dnc(1, factor=0.5), LINE, [2], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_by_hand(
    strategy: Strategy, matrix: Tensor, update: list[float], weights: list[float]
) -> None:
    result = apply(strategy, matrix)
    torch.testing.assert_close(result.state.parameters, torch.tensor(update, dtype=torch.float32))
    torch.testing.assert_close(result.weights_N, torch.tensor(weights, dtype=torch.float64))


def test_geometric_median_of_a_triangle_is_its_fermat_point() -> None:
    # (-1, 0), (1, 0), (0, 2): the sides are seen under 120 degrees from (0, tan 30) = (0, 1/sqrt
    # 3). Weights as 1/distance: sqrt 3/2, sqrt 3/2, 1/(2 - 1/sqrt 3)
    result = apply(geometric_median(), torch.tensor([[-1.0, 0], [1, 0], [0, 2]]))
    torch.testing.assert_close(
        result.state.parameters, torch.tensor([0, 1 / math.sqrt(3)]), atol=1e-6, rtol=0
    )
    parts = torch.tensor(
        [math.sqrt(3) / 2, math.sqrt(3) / 2, 1 / (2 - 1 / math.sqrt(3))], dtype=torch.float64
    )
    torch.testing.assert_close(result.weights_N, parts / parts.sum(), atol=1e-6, rtol=0)


def test_geometric_median_by_one_step_and_by_examples() -> None:
    # mean 2, distances 2 1 3, weights 1/2 1 1/3 of sum 11/6: (1 + 5/3)/(11/6) = 16/11
    assert apply(geometric_median(iterations=1), LINE).state.parameters.item() == pytest.approx(
        16 / 11
    )
    # 3 of 5 images are client 2's: the median is its update
    assert apply(
        geometric_median("examples"), LINE, [1, 1, 3]
    ).state.parameters.item() == pytest.approx(5, abs=1e-4)
    assert apply(geometric_median(), LINE, [1, 1, 3]).state.parameters.item() == pytest.approx(
        1, abs=1e-4
    )


def test_centered_clipping_goes_on_from_the_last_aggregate() -> None:
    # 0 4 10, tau = 2. From 0: (0 + 2 + 2)/3 = 4/3; from there (-4/3 + 2 + 2)/3 = 8/9 more: 20/9.
    # Next round, one step from 20/9: -2 + 16/9 + 2 = 16/9, a third of it: 20/9 + 16/27 = 76/27
    points = torch.tensor([[0.0], [4], [10]])
    first = apply(centered_clipping(2, 2), points)
    assert first.state.parameters.item() == pytest.approx(20 / 9)
    second = apply(centered_clipping(2, 1), points, memory=first.memory)
    assert second.state.parameters.item() == pytest.approx(76 / 27)
    # factors 2/(20/9) = 9/10, 1, 2/(70/9) = 9/35: the clients' parts are a third of them each
    parts = torch.tensor([9 / 10, 1, 9 / 35], dtype=torch.float64)
    torch.testing.assert_close(second.weights_N, parts / parts.sum())
    assert second.memory["centre"].tolist() == pytest.approx([76 / 27])


def test_bulyan_by_hand() -> None:
    # 0 1 3 6 10 15 100, f = 1. Seven left, 4 nearest: scores 146 111 71 86 171 ...: 3 is chosen.
    # Six, 3 nearest: 137 107 77 122: 6. Five, 2 nearest: 101 82 106 221: 1. Four (0 10 15 100), 1
    # nearest: 100 25 25: a tie of 10 and 15, whose next are 100 and 225: 10. Three (0 15 100): 225
    # 225, next 10000 and 7225: 15. Of 1 3 6 10 15 the three nearest to 6: 3 6 10
    points = torch.tensor([[0.0], [1], [3], [6], [10], [15], [100]])
    assert select_rows(squared_distances(Updates.of(points).gram()), 1).tolist() == [1, 2, 3, 4, 5]
    result = apply(bulyan(1), points)
    assert result.state.parameters.item() == pytest.approx(19 / 3)
    torch.testing.assert_close(
        result.weights_N, torch.tensor([0, 0, 1, 1, 1, 0, 0], dtype=torch.float64) / 3
    )


def test_meamed_shares_the_edge_of_the_kept_range() -> None:
    # sorted 0 0 1 2 9, median 1, three nearest: 1, then of 0 0 2 (all 1 away) the smaller two; at
    # the upper edge nothing is shared
    result = apply(meamed(2), torch.tensor([[2.0], [0], [9], [1], [0]]))
    assert result.state.parameters.item() == pytest.approx(1 / 3)
    torch.testing.assert_close(
        result.weights_N, torch.tensor([0, 1, 0, 1, 1], dtype=torch.float64) / 3
    )
    # sorted 0 0 0 1 1, median 0, three nearest are the zeros; four nearest one of the two 1 as well
    result = apply(meamed(1), torch.tensor([[0.0], [1], [0], [1], [0]]))
    torch.testing.assert_close(
        result.weights_N, torch.tensor([2, 1, 2, 1, 2], dtype=torch.float64) / 8
    )


def test_what_dnc_does_where_nobody_is_always_good(monkeypatch: pytest.MonkeyPatch) -> None:
    # column 0 condemns client 0, column 1 client 1; one column a trial
    matrix = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]])
    result = apply(dnc(1, iterations=2, coordinates=3), matrix)
    assert result.state.parameters.isfinite().all()
    monkeypatch.setattr(
        "fedrobust.strategies.dnc.distinct",
        lambda total, wanted, generator: torch.randperm(3, generator=generator)[:1],
    )
    with pytest.raises(RunError, match=r"strategy\.iterations=40"):
        apply(dnc(1, iterations=40, coordinates=1), matrix)


def test_random_coordinates_are_distinct_and_equally_likely() -> None:
    generator = torch.Generator().manual_seed(0)
    for total, wanted in ((10, 10), (10, 3), (1000, 7), (10**9, 1000)):
        drawn = distinct(total, wanted, generator)
        assert len(drawn) == wanted
        assert (drawn.diff() > 0).all()
        assert 0 <= int(drawn[0]) <= int(drawn[-1]) < total
    hits = torch.cat([distinct(40, 4, generator) for _ in range(2000)]).bincount(minlength=40)
    assert 140 < int(hits.min()) <= int(hits.max()) < 260  # 200 expected, standard deviation 13.4


def test_the_search_for_the_smallest_diameter_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(mda_module, "STEPS", 20)
    with pytest.raises(ConfigError, match=r"strategy\.f=10: the exact search"):
        apply(mda(10), matrix)


def test_of_sets_with_the_same_diameter_the_tightest_is_taken() -> None:
    # on a line 0 4 5 9, f = 1: without 0 and without 9 the diameter is 5 each. Sums of squares 1 +
    # 25 + 16 both: the first found stays; with 4.5 for 5: {0, 4, 4.5} has the diameter 4.5, {4,
    # 4.5, 9} has 5
    assert (
        len(smallest(squared_distances(Updates.of(torch.tensor([[0.0], [4], [5], [9]])).gram()), 1))
        == 3
    )
    assert smallest(
        squared_distances(Updates.of(torch.tensor([[0.0], [4], [4.5], [9]])).gram()), 1
    ) == [0, 1, 2]
    # 0 1 5 6 10 without 0 or without 10 spans 9 and 10: 0 1 5 6 spans 6
    assert smallest(
        squared_distances(Updates.of(torch.tensor([[0.0], [1], [5], [6], [10]])).gram()), 1
    ) == [0, 1, 2, 3]
    # 0 10, and in the middle 5 (2 away from the line): pairs 0-10 alone is too far; of {0, 5'} and
    # {5', 10} the tie goes to equal sums
    corner = torch.tensor([[0.0, 0], [10, 0], [4, 3], [5, 3]])
    # far above the level of 0-2-3 (5^2 + 3^2 = 34) and 1-2-3 (36 + 9 = 45): without client 1
    assert smallest(squared_distances(Updates.of(corner).gram()), 1) == [0, 2, 3]


ROBUST = [
    meamed(2),
    bulyan(2),
    geometric_median(),
    mda(2),
    monna(2),
    caf(2),
    norm_clipping(),
    centered_clipping(),
    dnc(2),
]


@pytest.mark.parametrize("size", [1e3, 1e15, 3e38])
@pytest.mark.parametrize("strategy", ROBUST, ids=lambda one: one.name)
def test_two_far_attackers_among_eleven_move_little(strategy: Strategy, size: float) -> None:
    """Honest updates within 2 of (1, ..., 1); 11 = 4f + 3. All these rules are bounded, for any
    updates that the attackers send."""
    matrix = 1 + 0.5 * torch.randn(11, 6, generator=torch.Generator().manual_seed(3)).clamp(-2, 2)
    honest = matrix[2:].mean(dim=0)
    radius = float((matrix[2:] - honest).norm(dim=1).max())
    matrix[:2] = size
    result = apply(strategy, matrix)
    assert float((result.state.parameters - honest).norm()) < 2 * radius
    if strategy.name in ("bulyan", "mda", "monna", "dnc", "caf"):
        assert result.weights_N[:2].sum() == 0


def test_limits_follow_the_papers() -> None:
    made = [
        meamed(2),
        bulyan(2),
        geometric_median(),
        mda(2),
        monna(2),
        caf(2),
        norm_clipping(),
        centered_clipping(),
        dnc(2),
        dnc(2, factor=3.0),
    ]
    assert [one.min_clients for one in made] == [5, 11, 1, 5, 5, 5, 1, 1, 5, 7]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: meamed(-1), "strategy.f=-1"),
        (lambda: bulyan(1.5), "strategy.f=1.5"),  # type: ignore[arg-type]
        (lambda: mda(-2), "strategy.f=-2"),
        (lambda: caf(-2), "strategy.f=-2"),
        (lambda: monna(-2), "strategy.f=-2"),
        (lambda: monna(1, pivot=-1), "strategy.pivot=-1"),
        (
            lambda: apply(monna(1, pivot=7), SMALL),
            "strategy.pivot=7: this client did not reply in round 1",
        ),
        (lambda: geometric_median("size"), "strategy.weighting=size"),
        (lambda: geometric_median(smoothing=0), "strategy.smoothing=0"),
        (lambda: geometric_median(iterations=0), "strategy.iterations=0"),
        (lambda: norm_clipping(0), "strategy.tau=0"),
        (lambda: norm_clipping(weighting="size"), "strategy.weighting=size"),
        (lambda: centered_clipping(-1.0), r"strategy.tau=-1\.0"),
        (lambda: centered_clipping(iterations=0), "strategy.iterations=0"),
        (lambda: dnc(-1), "strategy.f=-1"),
        (lambda: dnc(iterations=0), "strategy.iterations=0"),
        (lambda: dnc(coordinates=0), "strategy.coordinates=0"),
        (lambda: dnc(factor=0), "strategy.factor=0"),
    ],
)
def test_wrong_settings_are_named(make: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make()
