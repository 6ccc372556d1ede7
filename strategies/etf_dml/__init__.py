"""The flagship rule: trust by alignment with the fixed ETF, learning from each other, anchored
aggregation.

All clients share one fixed classifier, so their scores and their weights refer to the same anchors
and may be compared and averaged. The steps of a round, each with its switch: clip the lengths of
the updates, trust each client by its model's scores on the root set, distil on the proxy images,
send back what that made worse on the root set, aggregate.

Memory: one model (on small images one for each of torch's threads, see
`distillation.members.score_members`), the matrix of updates, and of further matrices the votes of
the cohorts (`cohort_size`, one row each), or the trusted clients' rows where another rule takes the
last step (`aggregation`). Work is linear in the number of clients, except that without cohorts each
of N mutual learners has N - 1 teachers (whose medians are cheap beside its training); updates are
compared pairwise on as many columns as a fixed number of multiplications allows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import torch
from fedrobust.strategies.distillation import members as scoring
from fedrobust.strategies.distillation.members import Members, MemberScores, ScratchModel
from fedrobust.strategies.distillation.student import DistillationSettings, Schedule
from fedrobust.strategies.etf_dml import cohorts as _cohorts
from fedrobust.strategies.etf_dml import trust as _trust
from fedrobust.strategies.etf_dml.cohorts import CohortSettings
from fedrobust.strategies.etf_dml.evidence import (
    Suspects,
    find_evidence,
    find_suspects,
    merge_evidence,
)
from fedrobust.strategies.etf_dml.steps import EtfDmlSettings, RoundState, distil_and_aggregate
from fedrobust.strategies.etf_dml.trust import TrustSettings
from torch import Tensor

from fedrobust.aggregation import norms
from fedrobust.aggregation.composition import smallest_accepted
from fedrobust.aggregation.round import Aggregate, Round, Strategy
from fedrobust.aggregation.updates import normalize
from fedrobust.errors import ConfigError
from fedrobust.utils.validation import Built, check_settings, flatten_groups

# multiplications spent on comparing updates pairwise: all columns for 10 ResNet-50, every 650th for
# 1000 ResNet-18
PRODUCTS = 1 << 34
NAMED = "noisy"  # the column by which rules say whom they hold for contaminated


@flatten_groups
@check_settings("strategy")
def etf_dml(
    *,
    clip: bool = True,
    recalibrate: bool = True,
    trust: TrustSettings,
    distillation: DistillationSettings,
    schedule: Schedule,
    cohorts: CohortSettings,
    aggregation: Annotated[
        Strategy, Built("a rule with a _target_, as in configs/strategy/median.yaml")
    ]
    | None = None,
) -> Strategy:
    """Clients are weighed by what their models' scores on the root images show, and the trusted
    ones learn from each other on the proxy images before they are averaged. Numbers of images are
    clipped to their 10 % and 90 % quantiles in any case.

    The fields of the four groups are keys of their own: `strategy.temperature`, not
    `strategy.schedule.temperature`.

    Trust: `trust.gate_trust` assesses each client alone, `trust.stacking_trust` then all together.

    Detection: with trust the rule also says whom the evidence of all rounds is against ("noisy" in
    the records, `evidence.find_suspects`). Their weight is what trust gives them all the same,
    since some of them are honest.

    Cohorts: half of every teacher is the global model as sent (its probabilities,
    or scores with distillation_loss=true_class). The last step is the trimmed mean over the
    cohorts' votes, so a cohort lost to attackers is one vote. `cohorts.vote` says what the reported
    weights are then. Who was drawn where is recorded as "cohort".

    The rule raises ConfigError without a root set unless trust=none; without proxy images it goes
    on without distillation and recalibration, and says so in its extras.

    Args:
        clip: bring updates that are longer than the median one to its length.
        recalibrate: re-estimate BatchNorm statistics on the proxy images before every use of a
            model.
        trust: how clients are weighed.
        distillation: who learns on the proxy images, and from whom.
        schedule: how a student is trained.
        cohorts: whether clients are divided.
        aggregation: the last step without cohorts, on the trusted clients alone: another rule, e.g.
            {_target_: fedrobust.strategies.median.median}; null: weighted mean.

    Returns:
        The rule.

    Raises:
        ConfigError: a setting is out of its range, or both cohorts and another rule are wanted.

    Needs:
        root images, unless trust=none;
        proxy images, for distillation and recalibration
    """
    if cohorts.cohort_size is not None and aggregation is not None:
        raise ConfigError(
            f"strategy.aggregation={aggregation.name}: excludes "
            f"strategy.cohort_size={cohorts.cohort_size}, whose last step is a trimmed mean"
        )
    _check_teacher(trust, distillation)
    settings = EtfDmlSettings(
        clip, recalibrate, trust, distillation, schedule, cohorts, aggregation
    )
    return Strategy(
        "etf_dml",
        lambda round: _rule(round, settings),
        _uses(settings),
        _least_clients(settings),
        limited_by=_limited_by(settings),
    )


def _check_teacher(trust: TrustSettings, distillation: DistillationSettings) -> None:
    """Raises ConfigError where the teacher cannot be made."""
    teacher = f"strategy.teacher={distillation.teacher}"
    if distillation.teacher == "per_class" and not trust.wanted:
        raise ConfigError(f"{teacher}: needs root images; set strategy.trust=stacking")
    if distillation.merges and distillation.distillation == "ensemble":
        raise ConfigError(
            f"{teacher}: merges the peers of a member; set strategy.distillation=mutual, or "
            "strategy.teacher=per_class"
        )


def _uses(settings: EtfDmlSettings) -> frozenset[str]:
    trust = settings.trust.wanted
    proxy = settings.distillation.wanted or (trust and settings.recalibrate)
    inner = settings.aggregation.uses if settings.aggregation else frozenset()
    return frozenset(({"root"} if trust else set()) | ({"proxy"} if proxy else set()) | inner)


def _least_clients(settings: EtfDmlSettings) -> int:
    """So many that the last step has enough even when the gate drops as many as it may, or that
    cohorts can be cut off."""
    if settings.cohorts.cohort_size is not None:
        return settings.cohorts.least_clients
    wanted = settings.aggregation.min_clients if settings.aggregation else 1
    most = _trust.MOST_DROPPED if settings.trust.wanted else 0.0
    return smallest_accepted(wanted, lambda n: n - math.floor(most * n) >= wanted)


def _limited_by(settings: EtfDmlSettings) -> str:
    """The setting that `_least_clients` follows from."""
    inner = settings.aggregation
    return (
        "strategy.cohort_size"
        if inner is None
        else inner.limited_by.replace("strategy.", "strategy.aggregation.", 1)
    )


def _rule(round: Round, settings: EtfDmlSettings) -> Aggregate:
    scratch = _scratch_model(round, settings)
    norms_N = norms.norms(round.updates)
    factors_N = norms.to_median(norms_N) if settings.clip else torch.ones_like(norms_N)
    members = Members(round.reference, round.updates, factors_N)
    distil = settings.distillation.wanted and scratch.proxy is not None
    size = settings.cohorts.cohort_size
    member_scores = scoring.score_members(
        scratch, members, need_root=settings.trust.wanted, need_proxy=distil
    )
    found = _trust_scores(round, scratch, member_scores, settings.trust)
    trust, suspects = found or (None, None)
    trust_N = trust.trust_N if trust else torch.ones_like(norms_N)
    weights_N = normalize(
        norms.clipped_counts(round.updates.num_examples_N) * trust_N * member_scores.usable
    )
    cohort_N = (
        torch.zeros(len(norms_N))
        if size is None
        else _cohorts.draw_cohorts(len(norms_N), size, round.generator)
    )
    case = RoundState(round, settings, scratch, members, member_scores, trust, weights_N, cohort_N)
    aggregate, record = distil_and_aggregate(case)
    columns = {"update_norm": norms_N.tolist(), "clipped_norm": (norms_N * factors_N).tolist()}
    if size is not None:
        columns["cohort"] = cohort_N.tolist()
    return replace(
        aggregate,
        extras={
            **columns,
            **_trust_columns(trust),
            **_suspect_columns(suspects),
            **_skipped(case, record),
            **record,
        },
        memory={
            "suspicion": _merge_past(round, "suspicion", trust.suspicion_N if trust else None),
            "part": _merge_past(round, "part", trust.stacking_share_N if trust else None),
            "evidence": suspects.remembered if suspects else round.memory.get("evidence", {}),
            "aggregation": aggregate.memory,
        },
    )


def _scratch_model(round: Round, settings: EtfDmlSettings) -> ScratchModel:
    data, layout = round.server_data, round.updates.layout
    if settings.trust.wanted and (data.root is None or not len(data.root)):
        raise ConfigError(
            f"strategy.trust={settings.trust.trust}: needs labelled root images; set "
            "server.root_per_class=8 or strategy.trust=none"
        )
    if layout is None:
        raise ValueError("etf_dml needs updates with a layout")
    return ScratchModel(data.model, layout, data.root, data.proxy, settings.recalibrate)


def _trust_scores(
    round: Round,
    scratch: ScratchModel,
    member_scores: MemberScores,
    settings: TrustSettings,
) -> tuple[_trust.TrustScores, Suspects] | None:
    """Trust, and whom the evidence is against."""
    if not settings.wanted:
        return None
    updates, memory = round.updates, round.memory
    labels_R, scale = scratch.root_samples.labels, scratch.model.scale
    trust = _trust.gate_trust(
        member_scores.root_NRK,
        labels_R,
        scratch.model.head,
        scale,
        clients=updates.clients,
        past=memory.get("suspicion", {}),
    )
    gram_NN = updates.gram_estimate(PRODUCTS // len(updates) ** 2, round.generator)
    suspects = _find_suspects(round, gram_NN, member_scores, labels_R)
    if settings.trust == "gate":
        return trust, suspects
    past_N = torch.tensor(
        [memory.get("part", {}).get(client, 1.0) for client in updates.clients], dtype=torch.float64
    )
    sizes_N = norms.clipped_counts(updates.num_examples_N)
    trust = _trust.stacking_trust(
        trust,
        member_scores.root_NRK,
        labels_R,
        scale,
        gram_NN=gram_NN,
        sizes_N=sizes_N,
        past_N=past_N,
    )
    return trust, suspects


def _find_suspects(
    round: Round, gram_NN: Tensor, member_scores: MemberScores, labels_R: Tensor
) -> Suspects:
    """Proxy images where the members were asked about them, else the root set."""
    proxy = member_scores.proxy_NPK.shape[1] > 0
    now = find_evidence(
        gram_NN,
        member_scores.proxy_NPK if proxy else member_scores.root_NRK,
        None if proxy else labels_R,
    )
    means, remembered = merge_evidence(now, round.updates.clients, round.memory.get("evidence", {}))
    return Suspects(means, find_suspects(means), remembered)


def _merge_past(round: Round, key: str, now_N: Tensor | None) -> dict[int, float]:
    """Memory of this round's clients and, unchanged, of those absent from it."""
    past: Mapping[int, float] = round.memory.get(key, {})
    return {
        **past,
        **(
            dict(zip(round.updates.clients, now_N.tolist(), strict=True))
            if now_N is not None
            else {}
        ),
    }


def _trust_columns(trust: _trust.TrustScores | None) -> dict[str, list[float]]:
    if trust is None:
        return {}
    names = {
        "trust": trust.trust_N,
        "suspicion": trust.suspicion_N,
        "alignment": trust.alignment_N,
        "root_loss": trust.loss_N,
    }
    return {name: values_N.tolist() for name, values_N in names.items()}


def _suspect_columns(suspects: Suspects | None) -> dict[str, list[float]]:
    if suspects is None:
        return {}
    means = suspects.means
    return {
        NAMED: suspects.named_N.to(torch.float64).tolist(),
        "direction": means.direction_N.tolist(),
        "agreement": means.agreement_N.tolist(),
        "closest_update": means.copies_N.tolist(),
        "relative_length": means.length_N.tolist(),
    }


def _skipped(case: RoundState, record: Mapping[str, Any]) -> dict[str, float]:
    """1.0 for every step that was asked for and could not be done: without proxy images, or with
    fewer than two members left."""
    distil = case.settings.distillation.wanted
    wanted = {
        "distillation_skipped": distil,
        "recalibration_skipped": case.settings.recalibrate
        and (case.settings.trust.wanted or distil),
    }
    done = {
        "distillation_skipped": bool(record),
        "recalibration_skipped": case.scratch.proxy is not None,
    }
    return {key: float(not done[key]) for key in wanted if wanted[key]}
