"""The flagship rule: trust by alignment with the fixed ETF, mutual learning between the members, anchored aggregation.

All clients share one fixed classifier, so their scores and their weights speak of the same anchors and may be compared and
averaged. The steps of a round, each with its switch: clip the lengths of the updates, trust each client by its model's scores
on the root set, distil on the proxy images, send back what that made less aligned, aggregate.

Memory: one model, the matrix of updates, and a second matrix of the trusted clients' rows where rows change on the way
(`distillation=mutual`, or any other `aggregation` than the weighted mean).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedrobust import checks
from fedrobust.errors import ConfigError, RunError
from fedrobust.types import Aggregate, Round, State, Strategy
from fedrobust.vectors import Updates, finish, shares
from strategies import _clipping, _distillation, _scoring, _trust
from strategies._scoring import Bench, Members, Visits


@dataclass(frozen=True, slots=True)
class _Settings:
    clip: bool
    trust: bool
    distillation: str
    schedule: _distillation.Schedule
    peers: _distillation.Peers
    recalibrate: bool
    fallback: bool
    aggregation: Strategy | None


def etf_dml(
    *,
    clip: bool = True,
    trust: bool = True,
    distillation: str = "ensemble",
    reading: str = "full",
    teacher: str = "median",
    min_confidence: float = 0.5,
    temperature: float = 2.0,
    epochs: int = 2,
    batch_size: int = 64,
    learning_rate: float = 5e-5,
    proximal: float = 0.0,
    recalibrate: bool = True,
    fallback: bool = True,
    aggregation: Strategy | None = None,
) -> Strategy:
    """The rule of METHOD sections 5 (A) and 9. Numbers of images are clipped to their 10 % and 90 % quantiles in any case.

    clip: bring longer updates to the median length. trust: weigh each client by `_trust.judge` on the root set.
    distillation: "mutual" (every trusted member learns from its peers' leave-one-out median, N x N), "ensemble" (the
    aggregated model learns from the weighted ensemble) or "none". For mutual: reading "full" (all inner products) or
    "ground_truth" (those with the labelled anchor; uses the proxy labels), teacher "median" or "mean" (not robust: for
    ablation), min_confidence: images on which the peers agree less are left out (full only). temperature, epochs, batch_size,
    learning_rate (Adam), proximal (mu/2 |W - W_start|^2): of the distillation. recalibrate: BatchNorm statistics re-estimated
    on the proxy images before every use of a model. fallback: a student that got less aligned on the root set returns to its
    start (with trust only). aggregation: another rule for the last step, on the trusted clients alone; None: weighted mean.

    The rule raises ConfigError without a root set unless trust=false; without proxy images it goes on without distillation
    and recalibration, and says so in its extras.
    """
    for key, value in {"clip": clip, "trust": trust, "recalibrate": recalibrate, "fallback": fallback}.items():
        checks.flag(f"strategy.{key}", value)
    checks.choice("strategy.distillation", distillation, ("mutual", "ensemble", "none"))
    if aggregation is not None and not isinstance(aggregation, Strategy):
        raise ConfigError(f"strategy.aggregation={aggregation}: must be null or a rule with a _target_, as in configs/strategy/median.yaml")
    settings = _Settings(
        clip,
        trust,
        distillation,
        _distillation.schedule(epochs, batch_size, learning_rate, proximal, temperature),
        _distillation.peers(reading, teacher, min_confidence),
        recalibrate,
        fallback,
        aggregation,
    )
    return Strategy("etf_dml", lambda round: _rule(round, settings), _uses(settings), _least_clients(settings))


def _uses(settings: _Settings) -> frozenset[str]:
    proxy = settings.distillation != "none" or (settings.trust and settings.recalibrate)
    inner = settings.aggregation.uses if settings.aggregation else frozenset()
    return frozenset(({"root"} if settings.trust else set()) | ({"proxy"} if proxy else set()) | inner)


def _least_clients(settings: _Settings) -> int:
    """So many that the last step has enough even when the gate drops as many as it may."""
    wanted = settings.aggregation.min_clients if settings.aggregation else 1
    most = _trust.MOST_DROPPED if settings.trust else 0.0
    return next(n for n in range(wanted, 3 * wanted) if n - math.floor(most * n) >= wanted)


def _rule(round: Round, settings: _Settings) -> Aggregate:
    bench = _bench(round, settings)
    norms_N = _clipping.norms(round.updates)
    factors_N = _clipping.to_median(norms_N) if settings.clip else torch.ones_like(norms_N)
    members = Members(round.reference, round.updates, factors_N)
    distil = settings.distillation != "none" and bench.proxy is not None
    visits = _scoring.visit(bench, members, need_root=settings.trust, need_proxy=distil)
    verdict = _judge(round, bench, visits) if settings.trust else None
    trust_N = verdict.trust_N if verdict else torch.ones_like(norms_N)
    weights_N = shares(_clipping.clipped_counts(round.updates.num_examples_N) * trust_N * visits.usable)
    case = _Case(round, settings, bench, members, visits, verdict, weights_N)
    aggregate, record = _distil_and_aggregate(case) if distil and len(case.kept) >= 2 else (_aggregate(case, None), {})
    columns = {"update_norm": norms_N.tolist(), "clipped_norm": (norms_N * factors_N).tolist()}
    return replace(
        aggregate,
        extras={**columns, **_verdict_columns(verdict), **_skipped(case, record), **record},
        memory={"suspicion": _suspicion(case), "aggregation": aggregate.memory},
    )


@dataclass(frozen=True, slots=True)
class _Case:
    """A round as far as it is known before the last two steps."""

    round: Round
    settings: _Settings
    bench: Bench
    members: Members
    visits: Visits
    verdict: _trust.Verdict | None
    weights_N: Tensor

    @property
    def kept(self) -> Tensor:
        """(M,) rows of the clients that still have a weight."""
        return self.weights_N.nonzero().reshape(-1)


def _bench(round: Round, settings: _Settings) -> Bench:
    data, layout = round.server_data, round.updates.layout
    if settings.trust and (data.root is None or not len(data.root)):
        raise ConfigError("strategy.trust=true: needs labelled root images; set server.root_per_class=8 or strategy.trust=false")
    if layout is None:
        raise ValueError("etf_dml needs updates with a layout")
    return Bench(data.model, layout, data.root, data.proxy, settings.recalibrate)


def _judge(round: Round, bench: Bench, visits: Visits) -> _trust.Verdict:
    past = round.memory.get("suspicion", {})
    return _trust.judge(
        visits.root_NRK, bench.root_samples.labels, bench.model.head, bench.model.scale, clients=round.updates.clients, past=past
    )


def _suspicion(case: _Case) -> dict[int, float]:
    """Of this round's clients and, unchanged, of those absent from it."""
    past: Mapping[int, float] = case.round.memory.get("suspicion", {})
    now = dict(zip(case.round.updates.clients, case.verdict.suspicion_N.tolist(), strict=True)) if case.verdict else {}
    return {**past, **now}


def _verdict_columns(verdict: _trust.Verdict | None) -> dict[str, list[float]]:
    if verdict is None:
        return {}
    names = {"trust": verdict.trust_N, "suspicion": verdict.suspicion_N, "alignment": verdict.alignment_N, "root_loss": verdict.loss_N}
    return {name: values_N.tolist() for name, values_N in names.items()}


def _skipped(case: _Case, record: Mapping[str, Any]) -> dict[str, float]:
    """1.0 for every step that was asked for and could not be done: without proxy images, or with fewer than two members left."""
    distil = case.settings.distillation != "none"
    wanted = {"distillation_skipped": distil, "recalibration_skipped": case.settings.recalibrate and (case.settings.trust or distil)}
    done = {"distillation_skipped": bool(record), "recalibration_skipped": case.bench.proxy is not None}
    return {key: float(not done[key]) for key in wanted if wanted[key]}


def _distil_and_aggregate(case: _Case) -> tuple[Aggregate, dict[str, Any]]:
    if case.settings.distillation == "mutual":
        rows_MD, record = _mutual(case)
        return _aggregate(case, rows_MD), record
    aggregate = _aggregate(case, None)
    graduate = _ensemble(case, aggregate.state)
    record = {"distillation_loss": graduate.loss, "fallbacks": float(graduate.fell_back)}
    return replace(aggregate, state=graduate.state), record


def _mutual(case: _Case) -> tuple[Tensor, dict[str, Any]]:
    """The (M, D) updates of the kept members after they learnt from each other; a client that fell back has its own."""
    settings, bench, kept = case.settings, case.bench, case.kept
    lessons = _distillation.mutual_lessons(bench, case.visits.proxy_NPK[kept], settings.peers, settings.schedule.temperature)
    rows_MD = torch.empty(len(kept), len(case.round.reference.parameters))
    losses, fell_back = [], [0.0] * len(case.weights_N)
    for m, n in enumerate(kept.tolist()):
        start = replace(case.members.state(n), buffers=case.visits.buffers_NB[n])
        before = float(case.verdict.alignment_N[n]) if case.verdict and settings.fallback else None
        graduate = _distillation.teach(bench, start, lessons[m], settings.schedule, case.round.generator, alignment=before)
        torch.sub(graduate.state.parameters, case.round.reference.parameters, out=rows_MD[m])
        losses.append(graduate.loss)
        fell_back[n] = float(graduate.fell_back)
    return rows_MD, {"distillation_loss": sum(losses) / len(losses), "fallbacks": sum(fell_back), "fell_back": fell_back}


def _ensemble(case: _Case, state: State) -> _distillation.Graduate:
    """The aggregated model after it learnt from the ensemble; its statistics are re-estimated whether it fell back or not."""
    settings, bench = case.settings, case.bench
    start = bench.place(state)
    before = bench.alignment() if settings.trust and settings.fallback else None
    lesson = _distillation.ensemble_lesson(bench, case.visits.proxy_NPK, case.weights_N, settings.schedule.temperature)
    return _distillation.teach(bench, start, lesson, settings.schedule, case.round.generator, alignment=before)


def _aggregate(case: _Case, rows_MD: Tensor | None) -> Aggregate:
    """The last step: rows_MD are the kept members' new updates (None: their clipped ones);
    for another rule their trusted shares stand for their numbers of images."""
    updates, kept, inner = case.round.updates, case.kept, case.settings.aggregation
    if inner is None and rows_MD is None:
        return finish(case.round, updates.combine(case.weights_N * case.members.factors_N), case.weights_N)
    if inner is not None and len(kept) < inner.min_clients:
        raise RunError(f"strategy.aggregation={inner.name}: needs {inner.min_clients} clients, {len(kept)} are usable and trusted")
    if rows_MD is None:
        rows_MD = torch.stack([case.members.row(n) for n in kept.tolist()])
    chosen = Updates(
        rows_MD, updates.buffers_NB[kept], case.weights_N[kept], tuple(updates.clients[n] for n in kept.tolist()), updates.layout
    )
    if inner is None:
        return finish(case.round, chosen.combine(case.weights_N[kept]), case.weights_N)
    memory = case.round.memory.get("aggregation", {})
    result = inner.rule(replace(case.round, updates=chosen, memory=memory))
    weights_N = torch.zeros_like(case.weights_N)
    weights_N[kept] = result.weights_N.to(weights_N)
    return replace(result, weights_N=weights_N, extras={})
