"""The last steps of a round of `etf_dml`: distil, and aggregate what the clients' models have become."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from fedrobust.strategies.distillation import members as scoring
from fedrobust.strategies.distillation import student
from fedrobust.strategies.distillation.members import Bench, Members, Visits
from fedrobust.strategies.distillation.teachers import Lesson
from fedrobust.strategies.etf_dml import cohorts as _cohorts
from fedrobust.strategies.etf_dml import trust as _trust
from torch import Tensor

from fedrobust.aggregation.round import Aggregate, Round, Strategy, finish
from fedrobust.aggregation.storage import fetch, fill
from fedrobust.aggregation.updates import Updates
from fedrobust.errors import RunError
from fedrobust.state import State

Pupils = Callable[[Sequence[int]], Iterator[Tensor]]  # rows of clients -> their (D,) updates, one after the other


@dataclass(frozen=True, slots=True)
class Settings:
    """The checked settings of `etf_dml`, which explains them."""

    clip: bool
    judge: str
    distillation: str
    schedule: student.Schedule
    peers: student.Peers
    recalibrate: bool
    fallback: bool
    cohorts: _cohorts.Cohorts | None
    aggregation: Strategy | None

    @property
    def trust(self) -> bool:
        return self.judge != "none"


@dataclass(frozen=True, slots=True)
class Case:
    """A round as far as it is known before the last two steps. cohort_N: whom each client learns and votes with."""

    round: Round
    settings: Settings
    bench: Bench
    members: Members
    visits: Visits
    verdict: _trust.Verdict | None
    weights_N: Tensor
    cohort_N: Tensor

    @property
    def kept(self) -> list[int]:
        """The rows of the clients that still have a weight."""
        rows: list[int] = self.weights_N.nonzero().reshape(-1).tolist()
        return rows


def distil_and_aggregate(case: Case) -> tuple[Aggregate, dict[str, Any]]:
    """The round's result and what is recorded of the distillation: nothing where nobody could learn."""
    if case.settings.distillation == "none" or case.bench.proxy is None or len(case.kept) < 2:
        return _aggregate(case, None), {}
    if case.settings.distillation == "mutual":
        return _mutual(case)
    aggregate = _aggregate(case, None)
    graduate = _ensemble(case, aggregate.state)
    record = {"distillation_loss": graduate.loss, "fallbacks": float(graduate.fell_back)}
    return replace(aggregate, state=graduate.state), record


def _mutual(case: Case) -> tuple[Aggregate, dict[str, Any]]:
    """Every kept client learns from the others of its cohort, one after the other, while the result is put together."""
    losses: list[float] = []
    fell_back = [0.0] * len(case.weights_N)
    peers, temperature = case.settings.peers, case.settings.schedule.temperature
    permanent_PK = _global_scores(case) if case.settings.cohorts else None

    def pupils(group: Sequence[int]) -> Iterator[Tensor]:
        if len(group) == 1:
            yield case.members.row(group[0])
            return
        scores_MPK = case.visits.proxy_NPK[torch.tensor(group)]
        lessons = student.mutual_lessons(case.bench, scores_MPK, peers, temperature, permanent_PK)
        for n, lesson in zip(group, lessons, strict=True):
            graduate = _learn(case, n, lesson)
            losses.append(graduate.loss)
            fell_back[n] = float(graduate.fell_back)
            yield graduate.state.parameters - case.round.reference.parameters

    aggregate = _aggregate(case, pupils)
    if not losses:
        return aggregate, {}
    return aggregate, {"distillation_loss": sum(losses) / len(losses), "fallbacks": sum(fell_back), "fell_back": fell_back}


def _global_scores(case: Case) -> Tensor:
    case.bench.place(case.round.reference)
    return scoring.scores(case.bench.model, case.bench.proxy_samples.images)


def _learn(case: Case, n: int, lesson: tuple[Lesson, Tensor]) -> student.Graduate:
    """A client that fell back has what it sent."""
    start = replace(case.members.state(n), buffers=case.visits.buffers_NB[n])
    before = float(case.verdict.alignment_N[n]) if case.verdict and case.settings.fallback else None
    return student.teach(case.bench, start, lesson, case.settings.schedule, case.round.generator, alignment=before)


def _ensemble(case: Case, state: State) -> student.Graduate:
    """The aggregated model after it learnt from the ensemble; its statistics are re-estimated whether it fell back or not."""
    settings, bench = case.settings, case.bench
    start = bench.place(state)
    before = bench.alignment() if settings.trust and settings.fallback else None
    lesson = student.ensemble_lesson(bench, case.visits.proxy_NPK, case.weights_N, settings.schedule.temperature)
    return student.teach(bench, start, lesson, settings.schedule, case.round.generator, alignment=before)


def _aggregate(case: Case, pupils: Pupils | None) -> Aggregate:
    """The last step on the pupils' new updates (None: the clients' clipped ones)."""
    updates, cohorts = case.round.updates, case.settings.cohorts
    if case.settings.aggregation is not None:
        return _by_rule(case, case.settings.aggregation, pupils or case.members.rows)
    if pupils is None and cohorts is None:
        return finish(case.round, updates.combine(case.weights_N * case.members.factors_N), case.weights_N)
    trim, groups = cohorts.trim if cohorts else 0.0, _cohorts.groups(case.cohort_N, case.weights_N)
    return finish(case.round, *_cohorts.vote(updates, groups, case.weights_N, pupils or case.members.rows, trim))


def _by_rule(case: Case, inner: Strategy, pupils: Pupils) -> Aggregate:
    """Another rule sees the kept clients alone, their trusted shares in place of their numbers of images."""
    updates, kept = case.round.updates, case.kept
    if len(kept) < inner.min_clients:
        raise RunError(f"strategy.aggregation={inner.name}: needs {inner.min_clients} clients, {len(kept)} are usable and trusted")
    rows_MD = updates.allocate(len(kept))
    for m, update_D in enumerate(pupils(kept)):
        fill(rows_MD[m], partial(fetch, update_D))
    clients, weights_M = tuple(updates.clients[n] for n in kept), case.weights_N[kept]
    buffers_MB = updates.buffers_NB[kept]
    chosen = Updates(rows_MD, buffers_MB, weights_M, clients, updates.layout, updates.budget_bytes, updates.folder)  # whatever `updates` is
    memory: Mapping[str, Any] = case.round.memory.get("aggregation", {})
    result = inner.rule(replace(case.round, updates=chosen, memory=memory))
    weights_N = torch.zeros_like(case.weights_N)
    weights_N[kept] = result.weights_N.to(weights_N)
    return replace(result, weights_N=weights_N, extras={})
