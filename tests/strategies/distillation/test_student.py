"""Students and their losses on small members: less divergence, closer to the peers, near the start
where wanted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fedrobust.strategies.distillation import members as scoring
from fedrobust.strategies.distillation import student as distillation
from fedrobust.strategies.distillation import teachers
from torch import Tensor

from fedrobust.aggregation.round import Round
from fedrobust.learning.losses import mutual_kl
from tests.helpers import clusters


@pytest.fixture(scope="module")
def case() -> Round:
    """Five hospitals, the first with shifted labels."""
    return clusters.one_round()


def bench_of(case: Round) -> scoring.ScratchModel:
    assert case.updates.layout is not None
    return scoring.ScratchModel(
        case.server_data.model,
        case.updates.layout,
        case.server_data.root,
        case.server_data.proxy,
        True,
    )


def test_a_lesson_lowers_its_loss_and_pulls_the_member_towards_its_peers(case: Round) -> None:
    bench, members = bench_of(case), scoring.Members(case.reference, case.updates, torch.ones(5))
    member_scores = scoring.score_members(bench, members, need_root=True, need_proxy=True)
    teacher = teachers.peer_probabilities(member_scores.proxy_NPK, 16.0, 2.0, "median")[0]
    lesson = distillation.mutual_losses(
        bench,
        member_scores.proxy_NPK,
        distillation.Shares(equal := torch.full((5, 4), 0.2), equal),
        distillation.DistillationSettings(teacher="median"),
        2.0,
    )[0]
    start = replace(members.state(0), buffers=member_scores.buffers_NB[0])

    def divergence(proximal: float) -> tuple[float, float]:
        schedule = distillation.Schedule(5, 16, 3e-3, proximal, 2.0)
        student = distillation.distil(
            bench, start, lesson, schedule, torch.Generator().manual_seed(0), losses_R=None
        ).state
        after = clusters.scores_of(case, student, bench.proxy_samples.images)
        return float(mutual_kl(after, teacher, 16.0)), float(
            (student.parameters - start.parameters).norm()
        )

    before = float(mutual_kl(member_scores.proxy_NPK[0], teacher, 16.0))
    (free, far), (held, near) = divergence(0.0), divergence(100.0)
    assert free < held < before
    assert free < 0.5 * before
    assert near < far


def test_the_ground_truth_reading_closes_the_gap_at_the_labelled_anchor(case: Round) -> None:
    bench, members = bench_of(case), scoring.Members(case.reference, case.updates, torch.ones(5))
    member_scores = scoring.score_members(bench, members, need_root=False, need_proxy=True)
    lesson = distillation.mutual_losses(
        bench,
        member_scores.proxy_NPK,
        distillation.Shares(equal := torch.full((5, 4), 0.2), equal),
        distillation.DistillationSettings(distillation_loss="true_class", teacher="median"),
        2.0,
    )[0]
    start = replace(members.state(0), buffers=member_scores.buffers_NB[0])
    schedule = distillation.Schedule(5, 16, 3e-3, 0.0, 2.0)
    student = distillation.distil(
        bench, start, lesson, schedule, torch.Generator().manual_seed(0), losses_R=None
    ).state
    labels = bench.proxy_samples.labels[:, None]
    wanted = member_scores.proxy_NPK[1:].quantile(0.5, dim=0).gather(1, labels)

    def gap(scores: Tensor) -> float:
        return float((scores.gather(1, labels) - wanted).square().mean())

    assert gap(clusters.scores_of(case, student, bench.proxy_samples.images)) < 0.5 * gap(
        member_scores.proxy_NPK[0]
    )


@pytest.mark.parametrize(("before", "sent_back"), [(None, False), (1000.0, False), (0.0, True)])
def test_a_student_that_lost_on_the_root_set_returns(
    case: Round, before: float | None, sent_back: bool
) -> None:
    """No loss is above 1000, and none of these is 0."""
    bench, members = bench_of(case), scoring.Members(case.reference, case.updates, torch.ones(5))
    member_scores = scoring.score_members(bench, members, need_root=True, need_proxy=True)
    start, images = members.state(0), len(bench.proxy_samples)

    def loss(scores_BK: Tensor, rows_B: Tensor) -> Tensor:
        return (scores_BK - member_scores.proxy_NPK[1][rows_B]).square().mean()

    losses = None if before is None else torch.full((len(bench.root_samples),), before).double()
    result = distillation.distil(
        bench,
        start,
        (loss, torch.arange(images)),
        distillation.Schedule(3, images, 1e-3, 0.0, 2.0),
        torch.Generator().manual_seed(0),
        losses_R=losses,
    )
    assert result.fell_back == sent_back
    assert torch.equal(result.state.parameters, start.parameters) == sent_back
    assert result.loss > 0
