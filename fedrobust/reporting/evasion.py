"""The report's section `evasion`: what attacks cost the models, and how much of it a purifier gives
back. Nothing is run here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedrobust.evaluation.drops import (
    combined_draws,
    combined_drop,
    resampled_metrics,
)
from fedrobust.evaluation.evasion import AttackResult, AttackResults
from fedrobust.evaluation.metrics import classification_metrics
from fedrobust.evaluation.settings import OBLIVIOUS
from fedrobust.evaluation.statistics import Interval, percentiles
from fedrobust.experiment.experiment import Experiment
from fedrobust.reporting.report.attacks import (
    AttackedModel,
    AttackOutcome,
    ClientAttackOutcome,
    ClientEvasion,
    EvasionSection,
    FusedModel,
    RecoveredShare,
)
from fedrobust.reporting.report.metrics import ConditionDrop, ConditionMetrics
from fedrobust.types import NO_PURIFIER

NONE = NO_PURIFIER.name


def evasion_section(
    experiment: Experiment,
    rows: Tensor,
    whole: AttackResults,
    members: Mapping[int, AttackResults],
    fusion: tuple[int, AttackResults | None] = (0, None),
) -> EvasionSection:
    """The section.

    Args:
        experiment: what was run.
        rows: the test images (of the data set) on which the global model was attacked.
        whole: the attempts on it.
        members: those on the clients' own models, on their own test images, by client.
        fusion: how many of these were fused, and the attempts on the model that came of it, on the
            same images as the global one.
    """
    number, together = fusion
    fused = None
    if together is not None:
        fused = FusedModel(members=number, **dict(_attacked_model(experiment, rows, together)))
    return EvasionSection(
        attack=experiment.evasion.name,
        purifier=experiment.purifier.name,
        images=len(rows),
        clients=tuple(_member(experiment, client, one) for client, one in sorted(members.items())),
        fusion=fused,
        **dict(_attacked_model(experiment, rows, whole)),
    )


def _attacked_model(experiment: Experiment, rows: Tensor, whole: AttackResults) -> AttackedModel:
    """One model that was attacked on test images."""
    scorer = _EvasionScorer(experiment, experiment.dataset.groups[rows], whole)
    purified = experiment.purifier.name
    behind = purified in whole.clean and purified != NONE
    return AttackedModel(
        clean=_clean_metrics(whole),
        purifier_drop=scorer.drop(whole.clean[purified]) if behind else None,
        attacks=tuple(scorer.outcome(one) for one in whole.made),
    )


def _clean_metrics(found: AttackResults) -> dict[str, ConditionMetrics]:
    return {name: _metrics(part, found.labels) for name, part in found.clean.items()}


def _metrics(probabilities_NK: Tensor, labels_N: Tensor) -> ConditionMetrics:
    return ConditionMetrics.model_validate(classification_metrics(probabilities_NK, labels_N))


@dataclass(frozen=True, slots=True)
class _EvasionScorer:
    """Evaluates attacks on one model with one set of bootstrap draws. groups_N: patients or lesions
    of the images."""

    experiment: Experiment
    groups_N: Tensor
    whole: AttackResults

    def drop(self, seen_NK: Tensor) -> ConditionDrop:
        """Drop from the clean images to this condition."""
        labels_N, clean_NK = self.whole.labels, self.whole.clean[NONE]
        drop = combined_drop(
            classification_metrics(clean_NK, labels_N), classification_metrics(seen_NK, labels_N)
        )
        if self.experiment.evaluation.bootstrap_samples:
            normal, attack = self._resampled(clean_NK, seen_NK)
            drop = replace(drop, ci95=percentiles(combined_draws(normal, attack)))
        return ConditionDrop.model_validate(drop)

    def outcome(self, attempt: AttackResult) -> AttackOutcome:
        """Result of an attack on the model."""
        seen_NK, recovered = attempt.probabilities, None
        if attempt.purifier != NONE:
            recovered = self._recovered(seen_NK, self._bare(attempt))
        return AttackOutcome(
            threat_model=attempt.threat_model,
            eps_255=attempt.eps_255,
            purifier=attempt.purifier,
            linf=attempt.linf,
            l2=attempt.l2,
            metrics=_metrics(seen_NK, self.whole.labels),
            balanced_ci95=self._balanced_interval(seen_NK),
            drop=self.drop(seen_NK),
            recovered=recovered,
        )

    def _bare(self, attempt: AttackResult) -> Tensor:
        """The undefended model's answers (N, K) to the oblivious attack with the same bound."""
        same = (
            one
            for one in self.whole.made
            if (one.threat_model, one.purifier) == (OBLIVIOUS, NONE)
            and one.eps_255 == attempt.eps_255
        )
        return next(same).probabilities

    def _recovered(self, seen_NK: Tensor, bare_NK: Tensor) -> RecoveredShare:
        """Share, in percent, of the balanced accuracy lost by the undefended model that is kept
        with the purifier; None where the attack takes nothing."""
        labels_N = self.whole.labels
        parts = [
            classification_metrics(one, labels_N)
            for one in (self.whole.clean[NONE], bare_NK, seen_NK)
        ]
        values = [
            torch.tensor(float(part["balanced_accuracy"] or 0.0), dtype=torch.float64)
            for part in parts
        ]
        share = float(_share(*values))
        interval = None
        if self.experiment.evaluation.bootstrap_samples and math.isfinite(share):
            draws = self._resampled(self.whole.clean[NONE], bare_NK, seen_NK)
            interval = percentiles(_share(*(one["balanced_accuracy"] for one in draws)))
        return RecoveredShare(percent=share if math.isfinite(share) else None, ci95=interval)

    def _balanced_interval(self, seen_NK: Tensor) -> Interval | None:
        if self.experiment.evaluation.bootstrap_samples == 0:
            return None
        [draws] = self._resampled(seen_NK)
        return percentiles(draws["balanced_accuracy"])

    def _resampled(self, *conditions_NK: Tensor) -> list[dict[str, Tensor]]:
        """All draws of each condition, the same in every call: everything is paired by images."""
        pairs = [(self.whole.labels, one.argmax(dim=1)) for one in conditions_NK]
        num_classes, draws = conditions_NK[0].shape[1], self.experiment.evaluation.bootstrap_samples
        return resampled_metrics(
            pairs, num_classes, self.groups_N, draws, self.experiment.generator("bootstrap")
        )


def _share(clean: Tensor, bare: Tensor, seen: Tensor) -> Tensor:
    """100 (seen - bare) / (clean - bare), NaN where nothing is lost."""
    lost = clean - bare
    return torch.where(lost > 0, 100 * (seen - bare) / lost, math.nan)


def _member(experiment: Experiment, client: int, own: AttackResults) -> ClientEvasion:
    clean = _clean_metrics(own)
    return ClientEvasion(
        id=client,
        kind=experiment.roles[client],
        clean=clean,
        attacks=tuple(_client_outcome(one, own.labels, clean[NONE]) for one in own.made),
    )


def _client_outcome(
    attempt: AttackResult, labels_N: Tensor, clean: ConditionMetrics
) -> ClientAttackOutcome:
    metrics = _metrics(attempt.probabilities, labels_N)
    return ClientAttackOutcome(
        threat_model=attempt.threat_model,
        eps_255=attempt.eps_255,
        purifier=attempt.purifier,
        metrics=metrics,
        combined_drop=combined_drop(clean.values, metrics.values).combined,
    )
