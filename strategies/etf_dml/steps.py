"""The last steps of a round of `etf_dml`: distil, and aggregate what the clients' models have
become."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from fedrobust.strategies.distillation import student
from fedrobust.strategies.distillation.members import Members, MemberScores, ScratchModel
from fedrobust.strategies.distillation.student import DistillationSettings, Schedule
from fedrobust.strategies.distillation.teachers import DistillationLoss
from fedrobust.strategies.etf_dml import cohorts as _cohorts
from fedrobust.strategies.etf_dml.cohorts import CohortSettings
from fedrobust.strategies.etf_dml.stacking import stack_classes
from fedrobust.strategies.etf_dml.trust import TrustScores, TrustSettings, score_factors
from torch import Tensor

from fedrobust.aggregation.round import Aggregate, Round, Strategy, make_aggregate
from fedrobust.aggregation.storage import fetch, fill
from fedrobust.aggregation.updates import Updates, normalize
from fedrobust.errors import RunError
from fedrobust.learning.alignment import root_losses
from fedrobust.learning.inference import predict_scores
from fedrobust.utils.counting import format_count

CLASS_STRENGTH = 0.1  # of the pull of a teacher's shares in a class towards those of trust

# rows of clients -> their (D,) updates, one after the other
StudentUpdates = Callable[[Sequence[int]], Iterator[Tensor]]


@dataclass(frozen=True, slots=True)
class EtfDmlSettings:
    """The settings of `etf_dml`, which explains them."""

    clip: bool
    recalibrate: bool
    trust: TrustSettings
    distillation: DistillationSettings
    schedule: Schedule
    cohorts: CohortSettings
    aggregation: Strategy | None

    @property
    def teacher(self) -> str:
        """How scores become a teacher: what is set, or else what the root set allows."""
        return self.distillation.teacher or ("per_class" if self.trust.wanted else "trust")


@dataclass(frozen=True, slots=True)
class RoundState:
    """State of a round before the last two steps. cohort_N: the cohort in which each client learns
    and votes."""

    round: Round
    settings: EtfDmlSettings
    scratch: ScratchModel
    members: Members
    member_scores: MemberScores
    trust: TrustScores | None
    weights_N: Tensor
    cohort_N: Tensor

    @property
    def kept_rows(self) -> list[int]:
        """The rows of the clients that still have a weight."""
        rows: list[int] = self.weights_N.nonzero().reshape(-1).tolist()
        return rows


def distil_and_aggregate(state_of_round: RoundState) -> tuple[Aggregate, dict[str, Any]]:
    """The round's result and what is recorded of the distillation: nothing where no member could
    learn."""
    if (
        not state_of_round.settings.distillation.wanted
        or state_of_round.scratch.proxy is None
        or len(state_of_round.kept_rows) < 2
    ):
        return _aggregate(state_of_round, None), {}
    if state_of_round.settings.distillation.distillation == "mutual":
        return _mutual(state_of_round)
    return _ensemble(state_of_round, _aggregate(state_of_round, None))


def _mutual(state_of_round: RoundState) -> tuple[Aggregate, dict[str, Any]]:
    """Every kept client learns from the others of its cohort, one after the other, while the result
    is put together."""
    losses: list[float] = []
    fell_back = [0.0] * len(state_of_round.weights_N)
    settings, scratch = state_of_round.settings, state_of_round.scratch
    proxy_NPK, shares = _teaching(state_of_round)
    permanent_PK = None if settings.cohorts.cohort_size is None else _global_scores(state_of_round)

    def student_updates(group: Sequence[int]) -> Iterator[Tensor]:
        if len(group) == 1:
            yield state_of_round.members.row(group[0])
            return
        rows = torch.tensor(group)
        mutual = student.mutual_losses(
            scratch,
            proxy_NPK[rows],
            shares.of(rows),
            settings.distillation,
            settings.schedule.temperature,
            permanent_PK=permanent_PK,
        )
        for n, distillation_loss in zip(group, mutual, strict=True):
            distilled = _learn(state_of_round, n, distillation_loss)
            losses.append(distilled.loss)
            fell_back[n] = float(distilled.fell_back)
            yield distilled.state.parameters - state_of_round.round.reference.parameters

    aggregate = _aggregate(state_of_round, student_updates)
    if not losses:
        return aggregate, {}
    return aggregate, {
        "distillation_loss": sum(losses) / len(losses),
        "fallbacks": sum(fell_back),
        "fell_back": fell_back,
    }


def _teaching(state_of_round: RoundState) -> tuple[Tensor, student.Shares]:
    """What teachers are made of: scores (N, P, K) of the proxy images, and the members' shares."""
    scores, weights_N = state_of_round.member_scores, state_of_round.weights_N
    scratch = state_of_round.scratch
    model = scratch.model
    trusted_NK = normalize(weights_N)[:, None].expand(-1, model.num_classes)
    if state_of_round.settings.teacher != "per_class":
        return scores.proxy_NPK, student.Shares(trusted_NK, trusted_NK)
    factors_N = score_factors(scores.root_NRK, scores.usable)[:, None, None]
    shares_NK = stack_classes(
        scores.root_NRK * factors_N,
        scratch.root_samples.labels,
        model.scale,
        weights_N,
        CLASS_STRENGTH,
    )
    scaled_NPK = scores.proxy_NPK * factors_N.to(scores.proxy_NPK)
    return scaled_NPK, student.Shares(shares_NK, trusted_NK)


def _global_scores(state_of_round: RoundState) -> Tensor:
    state_of_round.scratch.load_and_recalibrate(state_of_round.round.reference)
    scratch = state_of_round.scratch
    return predict_scores(scratch.model, scratch.proxy_samples.images)


def _learn(
    state_of_round: RoundState, n: int, distillation_loss: tuple[DistillationLoss, Tensor]
) -> student.DistilledModel:
    """A client that fell back has what it sent."""
    start = replace(
        state_of_round.members.state(n), buffers=state_of_round.member_scores.buffers_NB[n]
    )
    scratch = state_of_round.scratch
    before_R = (
        root_losses(
            state_of_round.member_scores.root_NRK[n],
            scratch.root_samples.labels,
            scratch.model.scale,
        )
        if state_of_round.settings.trust.reverts
        else None
    )
    return student.distil(
        scratch,
        start,
        distillation_loss,
        state_of_round.settings.schedule,
        state_of_round.round.generator,
        losses_R=before_R,
    )


def _ensemble(state_of_round: RoundState, aggregate: Aggregate) -> tuple[Aggregate, dict[str, Any]]:
    """The aggregated model after it learnt from the ensemble; its statistics are re-estimated
    whether it fell back or not."""
    settings, scratch = state_of_round.settings, state_of_round.scratch
    start = scratch.load_and_recalibrate(aggregate.state)
    before_R = scratch.root_losses() if settings.trust.reverts else None
    distillation_loss = student.ensemble_loss(
        scratch, *_teaching(state_of_round), settings.schedule.temperature
    )
    distilled = student.distil(
        scratch,
        start,
        distillation_loss,
        settings.schedule,
        state_of_round.round.generator,
        losses_R=before_R,
    )
    record = {"distillation_loss": distilled.loss, "fallbacks": float(distilled.fell_back)}
    recalibrated = settings.recalibrate and scratch.proxy is not None
    return replace(aggregate, state=distilled.state, recalibrated=recalibrated), record


def _aggregate(state_of_round: RoundState, student_updates: StudentUpdates | None) -> Aggregate:
    """The last step on the students' new updates (None: the clients' clipped ones)."""
    updates, cohorts = state_of_round.round.updates, state_of_round.settings.cohorts
    if state_of_round.settings.aggregation is not None:
        return _by_rule(
            state_of_round,
            state_of_round.settings.aggregation,
            student_updates or state_of_round.members.rows,
        )
    if student_updates is None and cohorts.cohort_size is None:
        return make_aggregate(
            state_of_round.round,
            updates.combine(state_of_round.weights_N * state_of_round.members.factors_N),
            state_of_round.weights_N,
        )
    trim, groups = (
        0.0 if cohorts.cohort_size is None else cohorts.cohort_trim,
        _cohorts.cohort_rows(state_of_round.cohort_N, state_of_round.weights_N),
    )
    return make_aggregate(
        state_of_round.round,
        *_cohorts.vote(
            updates,
            groups,
            state_of_round.weights_N,
            student_updates or state_of_round.members.rows,
            trim,
        ),
    )


def _by_rule(
    state_of_round: RoundState, inner: Strategy, student_updates: StudentUpdates
) -> Aggregate:
    """Another rule sees the kept clients alone, their trusted shares in place of their numbers of
    images."""
    updates, kept = state_of_round.round.updates, state_of_round.kept_rows
    if len(kept) < inner.min_clients:
        raise RunError(
            f"strategy.aggregation={inner.name}: needs "
            f"{format_count(inner.min_clients, 'client')}, "
            f"{len(kept)} are usable and trusted"
        )
    rows_MD = updates.allocate(len(kept))
    for m, update_D in enumerate(student_updates(kept)):
        fill(rows_MD[m], partial(fetch, update_D))
    clients, weights_M = tuple(updates.clients[n] for n in kept), state_of_round.weights_N[kept]
    buffers_MB = updates.buffers_NB[kept]
    # for every kind of `updates`
    chosen = Updates(
        rows_MD,
        buffers_MB,
        weights_M,
        clients,
        updates.layout,
        updates.budget_bytes,
        updates.folder,
    )
    memory: Mapping[str, Any] = state_of_round.round.memory.get("aggregation", {})
    result = inner.rule(replace(state_of_round.round, updates=chosen, memory=memory))
    weights_N = torch.zeros_like(state_of_round.weights_N)
    weights_N[kept] = result.weights_N.to(weights_N)
    return replace(result, weights_N=weights_N, extras={})
