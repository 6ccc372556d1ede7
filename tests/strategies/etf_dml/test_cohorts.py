"""Cohorts: who is drawn where, what a vote is worth, and that a lost cohort stays one vote."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fedrobust.strategies.distillation import members as scoring
from fedrobust.strategies.distillation import student as _distillation
from fedrobust.strategies.etf_dml import cohorts, etf_dml
from fedrobust.strategies.fedavg import fedavg
from fedrobust.strategies.median import median
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from fedrobust.aggregation.round import Aggregate, Round
from fedrobust.aggregation.updates import Updates, normalize
from fedrobust.errors import ConfigError
from tests.helpers import clusters

FIVE_PAIRS = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


@pytest.fixture(scope="module")
def case() -> Round:
    """Fifteen hospitals, the first three with shifted labels."""
    return clusters.one_round(clients=15, attackers=3)


def apply(case: Round, **changes: Any) -> Aggregate:
    return etf_dml(**{"cohort_size": 3, **changes}).rule(
        replace(case, generator=Generator().manual_seed(1))
    )


def drawn(monkeypatch: pytest.MonkeyPatch, cohort_N: Tensor) -> None:
    monkeypatch.setattr(cohorts, "draw_cohorts", lambda *_: cohort_N)


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(3, 9), st.integers(0, 2**32))
def test_every_client_is_in_one_of_nearly_equal_cohorts(n: int, size: int, seed: int) -> None:
    cohort_N = cohorts.draw_cohorts(n, size, Generator().manual_seed(seed))
    sizes = cohort_N.bincount()
    assert len(cohort_N) == n
    assert sizes.max() - sizes.min() <= 1
    assert sizes.min() >= min(size, n)
    assert sizes.min() < 2 * size  # as many as there can be
    assert torch.equal(cohort_N, cohorts.draw_cohorts(n, size, Generator().manual_seed(seed)))


def test_every_round_draws_anew() -> None:
    generator = Generator().manual_seed(0)
    assert not torch.equal(
        cohorts.draw_cohorts(40, 4, generator), cohorts.draw_cohorts(40, 4, generator)
    )


def test_votes_and_influence_by_hand() -> None:
    """Five pairs, weights 1 3 | 1 1 | 1 1 | 1 1 | 2 2.

    Column 0: votes (0 + 3 x 4)/4 = 3, (1 + 3)/2 = 2, 5, -100, 8; cut 8 and -100: (2 + 3 + 5)/3 =
    10/3, from cohorts 1, 0, 2. Column 1: votes (12 + 3 x 4)/4 = 6, 1, 4, 100, 3; cut 1 and 100: (3
    + 4 + 6)/3 = 13/3, from cohorts 4, 2, 0. Influence of the cohorts: (1/3 + 1/3)/2 = 1/3, (1/3 +
    0)/2 = 1/6, 1/3, 0, 1/6; inside, a client has its share of the weights.
    """
    columns = [[0, 4, 1, 3, 5, 5, -100, -100, 7, 9], [12, 4, 0, 2, 4, 4, 50, 150, 3, 3]]
    matrix = torch.tensor(columns, dtype=torch.float32).T
    weights = torch.tensor([1.0, 3, 1, 1, 1, 1, 1, 1, 2, 2], dtype=torch.float64)
    update, influence = cohorts.vote(
        Updates.of(matrix), FIVE_PAIRS, weights, lambda group: (matrix[n] for n in group), 0.2
    )
    torch.testing.assert_close(update, torch.tensor([10 / 3, 13 / 3]))
    expected = torch.tensor(
        [1 / 12, 1 / 4, 1 / 12, 1 / 12, 1 / 6, 1 / 6, 0, 0, 1 / 12, 1 / 12], dtype=torch.float64
    )
    torch.testing.assert_close(influence, expected)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.floats(-(2.0**100), 2.0**100, width=32))
def test_a_lost_cohort_is_one_vote(seed: int, evil: float) -> None:
    """For any updates of a whole cohort, every coordinate stays between the honest cohorts'
    votes."""
    matrix = torch.randn(10, 6, generator=Generator().manual_seed(seed))
    matrix[4:6] = evil
    update, influence = cohorts.vote(
        Updates.of(matrix),
        FIVE_PAIRS,
        torch.ones(10, dtype=torch.float64),
        lambda group: (matrix[n] for n in group),
        0.2,
    )
    honest = torch.stack([matrix[pair].mean(dim=0) for pair in ([0, 1], [2, 3], [6, 7], [8, 9])])
    assert (update >= honest.amin(dim=0) - 1e-6).all()
    assert (update <= honest.amax(dim=0) + 1e-6).all()
    assert float(influence.sum()) == pytest.approx(1)


@pytest.mark.parametrize("distillation", ["none", "ensemble", "mutual"])
def test_a_cohort_of_attackers_does_not_reach_the_result(
    case: Round, monkeypatch: pytest.MonkeyPatch, distillation: str
) -> None:
    """Without any trust: cohort 0 are three attackers with 1000 times their update; the rest stays
    where it is without them."""
    drawn(monkeypatch, torch.arange(15) // 3)
    scale = torch.ones(15, 1)
    scale[:3] = 1000
    attacked = replace(
        case, updates=replace(case.updates, matrix_ND=case.updates.matrix_ND * scale)
    )
    plain = {"clip": False, "trust": "none", "distillation": distillation}
    result = apply(attacked, **plain)
    reach = (result.state.parameters - case.reference.parameters).norm() / case.updates.matrix_ND[
        3:
    ].norm(dim=1).median()
    assert reach < 1.5
    assert (
        fedavg().rule(attacked).state.parameters - case.reference.parameters
    ).norm() > 100 * case.updates.matrix_ND[3:].norm(dim=1).median()
    assert result.weights_N[:3].sum() < 0.1
    assert float(result.weights_N.sum()) == pytest.approx(1)


def test_the_result_is_the_trimmed_mean_of_the_trusted_means(case: Round) -> None:
    result = apply(case, clip=False, distillation="none")
    cohort_N, trusted = (
        torch.tensor(result.extras["cohort"]),
        torch.tensor(result.extras["trust"], dtype=torch.float64),
    )
    assert sorted(cohort_N.bincount().tolist()) == [3] * 5
    counts = case.updates.num_examples_N.clamp(
        *case.updates.num_examples_N.quantile(torch.tensor([0.1, 0.9], dtype=torch.float64))
    )
    weights = counts * trusted
    votes = [
        normalize(weights[cohort_N == g]).float() @ case.updates.matrix_ND[cohort_N == g]
        for g in range(5)
        if weights[cohort_N == g].sum() > 0
    ]
    cut = int(0.2 * len(votes))
    kept = torch.stack(votes).sort(dim=0).values[cut : len(votes) - cut]
    torch.testing.assert_close(
        result.state.parameters, case.reference.parameters + kept.mean(dim=0)
    )
    assert (result.weights_N[trusted == 0] == 0).all()
    assert float(result.weights_N.sum()) == pytest.approx(1)


@pytest.mark.parametrize("distillation", ["none", "ensemble", "mutual"])
def test_the_order_of_clients_does_not_matter_within_the_same_draw(
    case: Round, monkeypatch: pytest.MonkeyPatch, distillation: str
) -> None:
    """One batch an epoch, so the shuffling of proxy images changes nothing either."""
    order, cohort_N = torch.randperm(15, generator=Generator().manual_seed(3)), torch.arange(15) % 5
    options = {"distillation": distillation, "batch_size": 64, "learning_rate": 1e-3}
    drawn(monkeypatch, cohort_N)
    one = apply(case, **options)
    drawn(monkeypatch, cohort_N[order])
    updates = case.updates
    moved = replace(
        updates,
        matrix_ND=updates.matrix_ND[order],
        buffers_NB=updates.buffers_NB[order],
        num_examples_N=updates.num_examples_N[order],
        clients=tuple(order.tolist()),
    )
    other = apply(replace(case, updates=moved), **options)
    torch.testing.assert_close(one.state.parameters, other.state.parameters, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one.weights_N[order], other.weights_N, rtol=0.05, atol=5e-3)


def test_a_round_is_deterministic_and_its_draw_follows_its_generator(case: Round) -> None:
    one, other = (apply(case, distillation="mutual") for _ in range(2))
    assert torch.equal(one.state.parameters, other.state.parameters)
    assert one.extras == other.extras
    again = etf_dml(distillation="none", cohort_size=3).rule(
        replace(case, generator=Generator().manual_seed(2))
    )
    assert again.extras["cohort"] != one.extras["cohort"]


def test_without_cohorts_no_randomness_is_spent_on_them(case: Round) -> None:
    generator = Generator().manual_seed(5)
    result = etf_dml(distillation="none").rule(replace(case, generator=generator))
    assert "cohort" not in result.extras
    assert torch.equal(generator.get_state(), Generator().manual_seed(5).get_state())


def test_learning_stays_inside_the_cohort_with_the_global_model_as_a_peer(
    case: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, Tensor | None]] = []
    lessons = _distillation.mutual_losses

    def listen(bench: Any, scores: Tensor, *rest: Any, permanent_PK: Tensor | None) -> Any:
        asked.append((len(scores), permanent_PK))
        return lessons(bench, scores, *rest, permanent_PK=permanent_PK)

    monkeypatch.setattr(_distillation, "mutual_losses", listen)
    apply(case, trust="none", distillation="mutual")
    expected = clusters.scores_of(case, case.reference, case.server_data.proxy.images)  # type: ignore[union-attr]
    assert [members for members, _ in asked] == [3] * 5
    for _, permanent in asked:
        torch.testing.assert_close(permanent, expected)
    asked.clear()
    apply(case, trust="none", distillation="mutual", cohort_size=None)
    assert asked == [(15, None)]


def test_who_is_alone_in_its_cohort_learns_from_nobody(
    case: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(monkeypatch, torch.arange(15))
    result = apply(case, distillation="mutual", learning_rate=1e-2)
    assert result.extras["distillation_skipped"] == 1
    assert torch.equal(result.state.parameters, apply(case, distillation="none").state.parameters)


def test_without_proxy_images_the_cohorts_vote_all_the_same(case: Round) -> None:
    blind = replace(case, server_data=replace(case.server_data, proxy=None))
    result = apply(blind, distillation="mutual")
    assert result.extras["distillation_skipped"] == 1
    assert torch.equal(
        result.state.parameters,
        apply(blind, distillation="none", recalibrate=False).state.parameters,
    )


@pytest.mark.parametrize(
    ("distillation", "clients"),
    [("mutual", 15), ("mutual", 30), ("ensemble", 15), ("ensemble", 30)],
)
def test_the_work_is_linear_in_the_clients(distillation: str, clients: int) -> None:
    """P = 64, R = 32; a visit: statistics and scores, root; a distillation: one epoch, statistics,
    root; the global model: statistics, scores; the ensemble's start: statistics, root."""
    case = clusters.one_round(clients=clients, attackers=0)
    seen: list[int] = []
    hook = case.server_data.model.register_forward_hook(
        lambda _model, inputs, _output: seen.append(len(inputs[0]))
    )
    result = apply(case, distillation=distillation, epochs=1)
    hook.remove()
    kept = sum(trust > 0 for trust in result.extras["trust"])
    once, lesson = 64 + 32, 64 + 64 + 32
    assert sum(seen) == clients * once + (
        kept * lesson + 2 * 64 if distillation == "mutual" else lesson + 64 + 32
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"distillation": "mutual"},
        {"distillation": "none"},
        {"cohort_size": None, "aggregation": median()},
    ],
)
def test_matrices_on_disk_change_nothing(case: Round, changes: dict[str, Any]) -> None:
    on_disk = replace(case.updates, budget_bytes=0).allocate(15)
    on_disk.copy_(case.updates.matrix_ND)
    mapped = replace(case, updates=replace(case.updates, matrix_ND=on_disk, budget_bytes=0))
    one, other = apply(case, **changes), apply(mapped, **changes)
    assert torch.equal(one.state.parameters, other.state.parameters)
    assert torch.equal(one.weights_N, other.weights_N)
    assert one.extras == other.extras


def test_the_permanent_peer_gives_half_of_every_teacher(case: Round) -> None:
    assert case.updates.layout is not None
    bench = scoring.ScratchModel(
        case.server_data.model, case.updates.layout, None, case.server_data.proxy, True
    )
    scores, permanent = (
        torch.randn(4, 64, 4, generator=Generator().manual_seed(0)),
        torch.randn(64, 4, generator=Generator().manual_seed(1)),
    )
    for reading, scale in (("kl", 16.0 / 2), ("true_class", None)):
        for member, (lesson, rows) in enumerate(
            _distillation.mutual_losses(
                bench,
                scores,
                _distillation.Shares(equal := torch.full((4, 4), 0.25), equal),
                _distillation.DistillationSettings("mutual", reading, "mean", 0.0),
                2.0,
                permanent_PK=permanent,
            )
        ):
            others = torch.cat([scores[:member], scores[member + 1 :]])
            if scale:
                teacher = (
                    (scale * others).softmax(-1).mean(0) + (scale * permanent).softmax(-1)
                ) / 2
                student = teacher.log() / scale
            else:
                student = (others.mean(0) + permanent) / 2
            # the teacher itself has nothing to learn
            assert float(lesson(student[rows], rows)) == pytest.approx(0, abs=1e-5)


def test_so_many_clients_that_a_vote_can_be_cut() -> None:
    assert etf_dml(cohort_size=3).min_clients == 15
    assert etf_dml(cohort_size=8, cohort_trim=0.1).min_clients == 80
    # floor(.3 x 3) = 0, floor(.3 x 4) = 1
    assert etf_dml(cohort_size=4, cohort_trim=0.3).min_clients == 16
    assert etf_dml(cohort_size=5, cohort_trim=0.0).min_clients == 5
    assert etf_dml(cohort_trim=0.1).min_clients == 1


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"cohort_size": 2}, "strategy.cohort_size=2: must be at least 3"),
        ({"cohort_size": 4.0}, r"strategy.cohort_size=4\.0"),
        ({"cohort_size": True}, "strategy.cohort_size=True"),
        ({"cohort_trim": 0.5}, r"strategy.cohort_trim=0\.5"),
        ({"cohort_trim": -0.1}, r"strategy.cohort_trim=-0\.1"),
        (
            {"cohort_size": 4, "aggregation": median()},
            "strategy.aggregation=median: excludes strategy.cohort_size=4",
        ),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        etf_dml(**wrong)


def test_fifteen_hospitals_five_of_them_poisoned() -> None:
    plain, _ = clusters.federate(fedavg(), rounds=3, clients=15, attackers=5)
    guarded, results = clusters.federate(
        etf_dml(distillation="mutual", cohort_size=3), rounds=3, clients=15, attackers=5
    )
    assert guarded > plain + 0.05
    assert all(result.weights_N[:5].sum() < 0.15 for result in results)
