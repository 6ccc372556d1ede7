"""The report's section `evasion`: what attacks cost the models, and how much of it a purifier gives
back. Nothing is run here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedrobust.evaluation.drops import (
    Drop,
    combined_draws,
    combined_drop,
    resampled_metrics,
)
from fedrobust.evaluation.evasion import AttackResult, AttackResults
from fedrobust.evaluation.metrics import Metrics, classification_metrics
from fedrobust.evaluation.settings import OBLIVIOUS
from fedrobust.evaluation.statistics import percentiles
from fedrobust.experiment.experiment import Experiment
from fedrobust.types import NO_PURIFIER

NONE = NO_PURIFIER.name


def evasion_section(
    experiment: Experiment,
    rows: Tensor,
    whole: AttackResults,
    members: Mapping[int, AttackResults],
    fusion: tuple[int, AttackResults | None] = (0, None),
) -> dict[str, Any]:
    """The section. rows: the test images (of the data set) on which the global model was attacked;
    whole: the attempts on it; members: those on the clients' own models, on their own test images;
    fusion: how many of these were fused, and the attempts on the model that came of it, on the same
    images as the global one."""
    number, together = fusion
    return {
        "attack": experiment.evasion.name,
        "purifier": experiment.purifier.name,
        "images": len(rows),
        **_entries(experiment, rows, whole),
        "clients": [_member(experiment, client, one) for client, one in sorted(members.items())],
        **(
            {}
            if together is None
            else {"fusion": {"members": number, **_entries(experiment, rows, together)}}
        ),
    }


def _entries(experiment: Experiment, rows: Tensor, whole: AttackResults) -> dict[str, Any]:
    """The entries on one model that was attacked on test images."""
    scorer, purified = (
        _EvasionScorer(experiment, experiment.dataset.groups[rows], whole),
        experiment.purifier.name,
    )
    return {
        "clean": {
            name: classification_metrics(part, whole.labels) for name, part in whole.clean.items()
        },
        "purifier_drop": scorer.drop(whole.clean[purified]).as_dict()
        if purified in whole.clean and purified != NONE
        else None,
        "attacks": [scorer.entry(one) for one in whole.made],
    }


@dataclass(frozen=True, slots=True)
class _EvasionScorer:
    """Judges attempts on one model by one set of bootstrap draws. groups_N: patients or lesions of
    the images."""

    experiment: Experiment
    groups_N: Tensor
    whole: AttackResults

    def drop(self, seen_NK: Tensor) -> Drop:
        """From the clean images as they are to what the model says in this condition."""
        labels_N, clean_NK = self.whole.labels, self.whole.clean[NONE]
        drop = combined_drop(
            classification_metrics(clean_NK, labels_N), classification_metrics(seen_NK, labels_N)
        )
        if self.experiment.evaluation.bootstrap_samples == 0:
            return drop
        normal, attack = self._resampled(clean_NK, seen_NK)
        return Drop(
            drop.per_metric,
            drop.combined,
            percentiles(combined_draws(normal, attack)),
            drop.skipped,
        )

    def entry(self, attempt: AttackResult) -> dict[str, Any]:
        metrics = classification_metrics(attempt.probabilities, self.whole.labels)
        bare = self._bare(attempt)
        return {
            "threat_model": attempt.threat_model,
            "eps_255": attempt.eps_255,
            "purifier": attempt.purifier,
            "linf": attempt.linf,
            "l2": attempt.l2,
            "metrics": metrics,
            "balanced_ci95": self._balanced_interval(attempt.probabilities),
            "drop": self.drop(attempt.probabilities).as_dict(),
            "recovered": None
            if attempt.purifier == NONE
            else self._recovered(attempt.probabilities, bare),
        }

    def _bare(self, attempt: AttackResult) -> Tensor:
        """The undefended model's answers (N, K) to the oblivious attack with the same bound."""
        same = (
            one
            for one in self.whole.made
            if (one.threat_model, one.purifier) == (OBLIVIOUS, NONE)
            and one.eps_255 == attempt.eps_255
        )
        return next(same).probabilities

    def _recovered(self, seen_NK: Tensor, bare_NK: Tensor) -> dict[str, Any]:
        """Of the balanced accuracy that the attack takes from the undefended model, the share in
        percent that is there with the purifier; None where the attack takes nothing."""
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
        return {
            "percent": share if math.isfinite(share) else None,
            "ci95": None if interval is None else list(interval),
        }

    def _balanced_interval(self, seen_NK: Tensor) -> list[float] | None:
        if self.experiment.evaluation.bootstrap_samples == 0:
            return None
        [draws] = self._resampled(seen_NK)
        interval = percentiles(draws["balanced_accuracy"])
        return None if interval is None else list(interval)

    def _resampled(self, *conditions_NK: Tensor) -> list[dict[str, Tensor]]:
        """Of each condition all draws, the same in every call: everything is paired by images."""
        pairs = [(self.whole.labels, one.argmax(dim=1)) for one in conditions_NK]
        num_classes, draws = conditions_NK[0].shape[1], self.experiment.evaluation.bootstrap_samples
        return resampled_metrics(
            pairs, num_classes, self.groups_N, draws, self.experiment.generator("bootstrap")
        )


def _share(clean: Tensor, bare: Tensor, seen: Tensor) -> Tensor:
    """100 (seen - bare) / (clean - bare), NaN where nothing is lost."""
    lost = clean - bare
    return torch.where(lost > 0, 100 * (seen - bare) / lost, math.nan)


def _member(experiment: Experiment, client: int, own: AttackResults) -> dict[str, Any]:
    clean: dict[str, Metrics] = {
        name: classification_metrics(part, own.labels) for name, part in own.clean.items()
    }
    return {
        "id": client,
        "kind": experiment.roles[client],
        "clean": clean,
        "attacks": [_short(one, own.labels, clean[NONE]) for one in own.made],
    }


def _short(attempt: AttackResult, labels_N: Tensor, clean: Metrics) -> dict[str, Any]:
    metrics = classification_metrics(attempt.probabilities, labels_N)
    return {
        "threat_model": attempt.threat_model,
        "eps_255": attempt.eps_255,
        "purifier": attempt.purifier,
        "metrics": metrics,
        "combined_drop": combined_drop(clean, metrics).combined,
    }
