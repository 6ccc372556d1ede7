"""The flagship rule as a whole, on a small federation: every switch, every fallback, and what it is
for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fedrobust.strategies.etf_dml import etf_dml
from fedrobust.strategies.fedavg import fedavg
from fedrobust.strategies.krum import krum
from fedrobust.strategies.median import median

from fedrobust.aggregation import norms
from fedrobust.aggregation.round import Aggregate, Round, Strategy
from fedrobust.aggregation.updates import Updates
from fedrobust.errors import ConfigError, RunError
from fedrobust.learning import batchnorm
from fedrobust.state import State
from tests.helpers import clusters


@pytest.fixture(scope="module")
def case() -> Round:
    """Five hospitals, the first with shifted labels."""
    return clusters.one_round()


def apply(case: Round, **settings: Any) -> Aggregate:
    return etf_dml(**settings).rule(replace(case, generator=torch.Generator().manual_seed(1)))


def same(one: State, other: State) -> bool:
    return torch.equal(one.parameters, other.parameters)


def without(case: Round, **data: Any) -> Round:
    return replace(case, server_data=replace(case.server_data, **data))


def test_with_all_switches_off_it_is_fedavg_on_clipped_counts(case: Round) -> None:
    result = apply(case, clip=False, trust="none", distillation="none")
    clipped = replace(
        case.updates, num_examples_N=norms.clipped_counts(case.updates.num_examples_N)
    )
    expected = fedavg().rule(replace(case, updates=clipped))
    assert same(result.state, expected.state)
    assert torch.equal(result.state.buffers, expected.state.buffers)
    assert torch.equal(result.weights_N, expected.weights_N)


@pytest.mark.parametrize("trust", ["stacking", "gate"])
@pytest.mark.parametrize("head", ["etf", "linear"])
def test_the_poisoned_client_loses_its_influence(head: str, trust: str) -> None:
    for distillation in ("none", "ensemble", "mutual"):
        result = apply(clusters.one_round(head), distillation=distillation, trust=trust)
        assert result.extras["trust"][0] == 0
        assert result.weights_N[0] == 0
        assert result.weights_N[1:].min() > 0.05


@pytest.mark.parametrize("distillation", ["none", "ensemble", "mutual"])
def test_a_round_is_pure_and_deterministic(case: Round, distillation: str) -> None:
    before = [
        case.updates.matrix_ND.clone(),
        case.updates.buffers_NB.clone(),
        case.reference.parameters.clone(),
    ]
    one, other = (apply(case, distillation=distillation, learning_rate=1e-3) for _ in range(2))
    assert same(one.state, other.state)
    assert torch.equal(one.state.buffers, other.state.buffers)
    assert one.extras == other.extras
    assert one.memory == other.memory
    after = (case.updates.matrix_ND, case.updates.buffers_NB, case.reference.parameters)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in case.server_data.model.parameters())


def test_what_it_asks_for_follows_from_its_settings() -> None:
    def uses(**settings: Any) -> set[str]:
        return set(etf_dml(**settings).uses)

    assert uses() == {"root", "proxy"}
    assert uses(trust="none") == {"proxy"}
    assert uses(distillation="none", recalibrate=False) == {"root"}
    assert uses(trust="none", distillation="none") == set()
    # the gate may drop floor(.4 N), krum(1) needs 5: 6 - 2 = 4 are too few, 7 - 2 = 5 and 8 - 3 = 5
    # enough
    assert etf_dml().min_clients == 1
    assert etf_dml(aggregation=krum(1)).min_clients == 7
    assert etf_dml(aggregation=krum(1), trust="none").min_clients == 5


def test_without_a_root_set_trust_is_refused(case: Round) -> None:
    with pytest.raises(ConfigError, match=r"server\.root_per_class=8"):
        apply(without(case, root=None))
    result = apply(without(case, root=None), trust="none")
    assert "trust" not in result.extras
    assert result.extras["distillation_skipped"] == 0


def test_without_proxy_images_it_goes_on_and_says_so(case: Round) -> None:
    result = apply(without(case, proxy=None))
    assert result.extras["distillation_skipped"] == result.extras["recalibration_skipped"] == 1
    assert same(
        result.state, apply(without(case, proxy=None), distillation="none", recalibrate=False).state
    )


@pytest.mark.parametrize("distillation", ["ensemble", "mutual"])
def test_one_client_decides_alone_and_learns_from_nobody(case: Round, distillation: str) -> None:
    result = apply(replace(case, updates=rows(case.updates, [2])), distillation=distillation)
    assert result.weights_N.tolist() == [1]
    assert result.extras["distillation_skipped"] == 1
    torch.testing.assert_close(
        result.state.parameters, case.reference.parameters + case.updates.matrix_ND[2]
    )


@pytest.mark.parametrize("distillation", ["ensemble", "mutual"])
def test_two_clients(case: Round, distillation: str) -> None:
    both = replace(case, updates=rows(case.updates, [1, 2]))
    assert apply(both, distillation=distillation).weights_N.min() > 0.2
    result = apply(both, distillation=distillation, trust="gate")
    # of two, one is at most 1/1.4826 above the middle (see test_trust)
    assert max(result.extras["trust"]) == 1
    assert min(result.extras["trust"]) >= 1 - 1 / 1.4826 / 1.5 - 1e-9
    assert result.extras["distillation_skipped"] == 0
    assert result.state.parameters.isfinite().all()


def test_equal_clients_are_all_trusted(case: Round) -> None:
    result = apply(replace(case, updates=rows(case.updates, [2, 2, 2])), distillation="none")
    assert result.extras["trust"] == [1, 1, 1]
    torch.testing.assert_close(
        result.state.parameters, case.reference.parameters + case.updates.matrix_ND[2]
    )


def rows(updates: Updates, which: list[int]) -> Updates:
    chosen = torch.tensor(which)
    return Updates(
        updates.matrix_ND[chosen],
        updates.buffers_NB[chosen],
        torch.full((len(which),), 40.0),
        tuple(range(len(which))),
        updates.layout,
    )


@pytest.mark.parametrize("trust", ["stacking", "gate", "none"])
@pytest.mark.parametrize("distillation", ["ensemble", "mutual"])
def test_a_model_whose_scores_are_not_finite_has_no_influence(
    case: Round, trust: str, distillation: str
) -> None:
    matrix = case.updates.matrix_ND.clone()
    matrix[3] = 3e38
    result = apply(
        replace(case, updates=replace(case.updates, matrix_ND=matrix)),
        clip=False,
        trust=trust,
        distillation=distillation,
    )
    assert result.weights_N[3] == 0
    assert result.state.parameters.isfinite().all()
    assert result.state.buffers.isfinite().all()


def test_long_updates_are_shortened(case: Round) -> None:
    matrix = case.updates.matrix_ND * torch.tensor([1, 1, 100, 1, 1])[:, None]
    result = apply(
        replace(case, updates=replace(case.updates, matrix_ND=matrix)),
        trust="none",
        distillation="none",
    )
    lengths = matrix.norm(dim=1)
    assert result.extras["clipped_norm"][2] == pytest.approx(float(lengths.median()))
    assert result.extras["update_norm"] == pytest.approx(lengths.tolist())
    factors = (lengths.median() / lengths).clamp(max=1)
    expected = case.reference.parameters + result.weights_N.float() @ (matrix * factors[:, None])
    torch.testing.assert_close(result.state.parameters, expected)


def test_suspicion_is_kept_over_rounds_even_of_absent_clients(case: Round) -> None:
    fresh = apply(case, distillation="none")
    z = fresh.memory["suspicion"]
    memory = {"suspicion": {**z, 2: 4.0, 17: 5.0}}
    result = apply(replace(case, memory=memory), distillation="none")
    assert result.memory["suspicion"] == pytest.approx({**z, 2: (4.0 + z[2]) / 2, 17: 5.0})
    assert result.extras["suspicion"][2] == pytest.approx((4.0 + z[2]) / 2)
    assert result.extras["trust"][2] < fresh.extras["trust"][2]


def test_what_stacking_left_of_a_share_lowers_the_next_one_even_of_absent_clients(
    case: Round,
) -> None:
    fresh = apply(case, distillation="none")
    memory = {**fresh.memory, "part": {**fresh.memory["part"], 17: 0.5}}
    result = apply(replace(case, memory=memory), distillation="none")
    assert result.memory["part"][17] == 0.5
    doubted = apply(
        replace(case, memory={**memory, "part": {**memory["part"], 2: 0.01}}), distillation="none"
    )
    assert 0 < doubted.weights_N[2] < result.weights_N[2] / 2


def test_attackers_who_send_the_same_count_once(case: Round) -> None:
    crowd = replace(case, updates=rows(case.updates, [1, 2, 2, 2, 3, 4]))
    gate_N, weights_N = (
        apply(crowd, distillation="none", trust=trust).weights_N for trust in ("gate", "stacking")
    )
    torch.testing.assert_close(weights_N[1:4], weights_N[1].expand(3))
    assert weights_N[1:4].sum() < gate_N[1:4].sum() / 2


def test_mutual_learning_moves_only_when_there_is_something_to_learn(case: Round) -> None:
    untouched = apply(case, distillation="none")
    moved = apply(case, distillation="mutual", learning_rate=1e-3, revert_if_worse=False)
    assert not same(moved.state, untouched.state)
    assert moved.extras["distillation_loss"] > 0
    # no model is that sure
    silent = apply(case, distillation="mutual", learning_rate=1e-3, min_confidence=1.0)
    torch.testing.assert_close(silent.state.parameters, untouched.state.parameters)


def test_teachers_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.teacher=per_class: needs root images"):
        etf_dml(teacher="per_class", trust="none")
    with pytest.raises(ConfigError, match=r"strategy\.teacher=median: merges the peers"):
        etf_dml(teacher="median")


@pytest.mark.parametrize("distillation", ["ensemble", "mutual"])
def test_without_a_root_set_trust_makes_the_teacher(case: Round, distillation: str) -> None:
    settings = {"distillation": distillation, "trust": "none"}
    assert same(apply(case, **settings).state, apply(case, teacher="trust", **settings).state)
    by_class = apply(case, distillation=distillation).state
    assert not same(by_class, apply(case, distillation=distillation, teacher="trust").state)


@pytest.mark.parametrize("distillation", ["ensemble", "mutual"])
def test_students_that_got_worse_return_to_their_start(case: Round, distillation: str) -> None:
    untouched = apply(case, distillation="none")
    ruined = {"distillation": distillation, "learning_rate": 5.0}
    result = apply(case, **ruined)
    assert result.extras["fallbacks"] == (
        1 if distillation == "ensemble" else (result.weights_N > 0).sum()
    )
    torch.testing.assert_close(result.state.parameters, untouched.state.parameters)
    assert (
        apply(case, **ruined, revert_if_worse=False).state.parameters - untouched.state.parameters
    ).norm() > 1
    if distillation == "mutual":
        assert result.extras["fell_back"] == (result.weights_N > 0).to(torch.float32).tolist()


def test_a_student_that_diverged_returns_even_without_a_root_set(case: Round) -> None:
    result = apply(case, trust="none", learning_rate=1e30, epochs=2)
    assert result.extras["fallbacks"] == 1
    torch.testing.assert_close(
        result.state.parameters, apply(case, trust="none", distillation="none").state.parameters
    )


def test_another_rule_may_take_the_last_step_on_the_trusted_alone(case: Round) -> None:
    result = apply(case, distillation="none", clip=False, aggregation=median())
    trusted = [n for n in range(5) if result.extras["trust"][n] > 0]
    expected = case.reference.parameters + case.updates.matrix_ND[trusted].quantile(0.5, dim=0)
    torch.testing.assert_close(result.state.parameters, expected)
    assert [n for n in range(5) if result.weights_N[n] > 0] == trusted
    distilled = apply(case, distillation="mutual", learning_rate=1e-3, aggregation=median())
    assert distilled.state.parameters.isfinite().all()


def test_the_inner_rule_has_its_own_memory(case: Round) -> None:
    def count(round: Round) -> Aggregate:
        return replace(fedavg().rule(round), memory={"rounds": round.memory.get("rounds", 0) + 1})

    settings = {"distillation": "none", "aggregation": Strategy("count", count)}
    first = apply(case, **settings)
    assert apply(replace(case, memory=first.memory), **settings).memory["aggregation"] == {
        "rounds": 2
    }


def test_too_few_trusted_clients_for_the_last_step_end_the_run(case: Round) -> None:
    with pytest.raises(RunError, match="needs 5 clients, 4 are usable"):
        apply(case, distillation="none", aggregation=krum(1))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"trust": "yes"}, "strategy.trust=yes"),
        ({"distillation": "all"}, "strategy.distillation=all"),
        ({"distillation_loss": "A"}, "strategy.distillation_loss=A"),
        ({"teacher": "max"}, "strategy.teacher=max"),
        ({"temperature": 0}, "strategy.temperature=0"),
        ({"epochs": 1.5}, "strategy.epochs=1.5"),
        ({"learning_rate": "5e-5"}, "strategy.learning_rate=5e-5"),
        ({"min_confidence": 2}, "strategy.min_confidence=2"),
        ({"aggregation": "median"}, "strategy.aggregation=median"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        etf_dml(**settings)


@pytest.mark.parametrize(
    ("distillation", "images"),
    [
        # N = 5 members, P = 64, R = 32. Every image once through every member: statistics and
        # scores of P, scores of R
        ("none", 5 * (64 + 32)),
        # + aggregate: statistics P, root R, an epoch of P, statistics P, root R
        ("ensemble", 5 * (64 + 32) + 64 + 32 + 64 + 64 + 32),
        # + each of the 4 trusted: an epoch of P, statistics P, root R
        ("mutual", 5 * (64 + 32) + 4 * (64 + 64 + 32)),
    ],
)
def test_no_member_is_visited_twice(case: Round, distillation: str, images: int) -> None:
    seen = []
    hook = case.server_data.model.register_forward_hook(
        lambda _model, inputs, _output: seen.append(len(inputs[0]))
    )
    result = apply(case, distillation=distillation)
    hook.remove()
    assert (result.weights_N > 0).sum() == 4
    assert sum(seen) == images


def test_the_statistics_of_the_distilled_model_are_taken_once(case: Round) -> None:
    result = apply(case, revert_if_worse=False)
    again = batchnorm.load_and_recalibrate(
        case.server_data.model,
        case.updates.layout,
        result.state,
        case.server_data.proxy.images,
    )
    assert result.recalibrated
    assert torch.equal(result.state.buffers, again.buffers)
    assert apply(case, learning_rate=5.0).recalibrated  # sent back: those of its start
    assert not apply(case, distillation="none").recalibrated
    assert not apply(case, distillation="mutual").recalibrated
    assert not apply(case, recalibrate=False).recalibrated


@pytest.mark.parametrize("trust", ["stacking", "gate"])
@pytest.mark.parametrize("distillation", ["none", "ensemble", "mutual"])
def test_ten_hospitals_three_of_them_poisoned(distillation: str, trust: str) -> None:
    plain, _ = clusters.federate(fedavg(), rounds=3)
    guarded, results = clusters.federate(etf_dml(distillation=distillation, trust=trust), rounds=3)
    assert guarded > plain + 0.05
    assert all(result.weights_N[:3].sum() < 0.1 for result in results)
