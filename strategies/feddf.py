"""FedDF: the averaged model learns from the ensemble of the clients' models on the server's proxy
images."""

from __future__ import annotations

from dataclasses import replace

import torch
from fedrobust.strategies.distillation import members as scoring
from fedrobust.strategies.distillation import student, teachers
from fedrobust.strategies.distillation.members import Members, ScratchModel
from fedrobust.strategies.distillation.student import Schedule

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.updates import normalize
from fedrobust.errors import ConfigError
from fedrobust.utils.validation import Positive, PositiveCount, check_settings


@check_settings("strategy")
def feddf(
    temperature: Positive = 1.0,
    epochs: PositiveCount = 2,
    batch_size: PositiveCount = 64,
    learning_rate: Positive = 5e-5,
) -> Strategy:
    """The mean of the updates by numbers of images, then distilled towards softmax of the clients'
    mean scores: KL(softmax(1/N sum_n f_n(x)) || softmax(f(x))) on the proxy images, without labels.

    No robustness of its own: every client is one voice among the teachers. The paper takes 10,000
    steps at temperature 1 and 1e-3; the defaults are those of `etf_dml`, to be compared with.
    Clients whose scores are not finite are left out. The rule raises ConfigError without proxy
    images.

    Args:
        temperature: of the teachers' and the student's softmax.
        epochs: passes over the proxy images.
        batch_size: proxy images in a step.
        learning_rate: of Adam.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Lin, Kong, Stich, Jaggi, NeurIPS 2020, algorithm 1.

    Needs:
        proxy images
    """
    schedule = Schedule(epochs, batch_size, learning_rate, 0.0, temperature)
    return Strategy("feddf", lambda round: _rule(round, schedule), frozenset({"proxy"}))


def _rule(round: Round, schedule: Schedule) -> Aggregate:
    data, updates = round.server_data, round.updates
    if data.proxy is None or not len(data.proxy):
        raise ConfigError(
            "server.proxy_images=0: strategy=feddf distils on proxy images; set "
            "server.proxy_images=128"
        )
    if updates.layout is None:
        raise ValueError("feddf needs updates with a layout")
    scratch = ScratchModel(data.model, updates.layout, None, data.proxy, recalibrate=False)
    members = Members(round.reference, updates, torch.ones(len(updates)))
    member_scores = scoring.score_members(scratch, members, need_root=False, need_proxy=True)
    weights_N = normalize(updates.num_examples_N * member_scores.usable)
    aggregate = make_aggregate(round, updates.combine(weights_N), weights_N)
    voices_N = normalize(member_scores.usable)
    shares_NK = voices_N[:, None].expand(-1, data.model.num_classes)
    teacher_PK = teachers.ensemble(
        member_scores.proxy_NPK, shares_NK, data.model.scale, schedule.temperature
    )
    loss = teachers.kl_loss(teacher_PK, data.model.scale, schedule.temperature)
    distilled = student.distil(
        scratch,
        aggregate.state,
        (loss, torch.arange(len(teacher_PK))),
        schedule,
        round.generator,
        losses_R=None,
    )
    return replace(aggregate, state=distilled.state, extras={"distillation_loss": distilled.loss})
