"""Drops over clients, each on its own test images: of the global model, and of the clients' own
ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrobust.data import TEST
from fedrobust.evaluation.metrics import classification_metrics
from fedrobust.experiment.experiment import Experiment
from fedrobust.reporting.report.metrics import ConditionMetrics
from fedrobust.reporting.report.personal import PersonalMetrics, SiteDrops, SiteDropsSection
from fedrobust.reporting.report.sections import ClientResult
from fedrobust.reporting.results import clients_drop

# (normal condition, attacked condition) of each drop
PAIRS = {
    "poisoning": ("twin_clean", "clean"),
    "corruption": ("clean", "corrupted"),
    "total": ("twin_clean", "corrupted"),
    "clients": ("clean", "contaminated"),
}
Conditions = Mapping[str, ConditionMetrics]


@dataclass(frozen=True, slots=True)
class _Pair:
    """One client under the two conditions of a drop."""

    kind: str
    clean: ConditionMetrics
    contaminated: ConditionMetrics


def site_drops(
    experiment: Experiment, test: Mapping[str, Tensor], clients: Sequence[ClientResult]
) -> SiteDropsSection | None:
    """The section of the report; None where clients have no models of their own, unless
    evaluation.site_drops asks for it.

    Args:
        experiment: what was run.
        test: class probabilities (N, K) of the global model on all test images, by evaluation.
        clients: the results of all clients.
    """
    if not (experiment.personalises or experiment.evaluation.site_drops):
        return None
    own = [one for one in clients if one.personal is not None]
    return SiteDropsSection(
        global_model=None if experiment.remote else _global(experiment, test, clients),
        personal_models=_drops(experiment, own, _personal) if own else None,
    )


def _global(
    experiment: Experiment, test: Mapping[str, Tensor], clients: Sequence[ClientResult]
) -> SiteDrops:
    rows = experiment.test_rows()

    def conditions(client: ClientResult) -> Conditions:
        own = experiment.rows(client.id, TEST)
        places, labels = torch.searchsorted(rows, own), experiment.dataset.labels[own]
        measured = {
            name: ConditionMetrics.model_validate(classification_metrics(scores[places], labels))
            for name, scores in test.items()
            if name in ("clean", "corrupted", "twin_clean")
        }
        return measured | {"contaminated": client.contaminated}

    return _drops(experiment, clients, conditions)


def _personal(client: ClientResult) -> Conditions:
    one = client.personal
    assert isinstance(one, PersonalMetrics)
    found = {name: getattr(one, name) for name in type(one).model_fields}
    return {name: metrics for name, metrics in found.items() if metrics is not None}


def _drops(
    experiment: Experiment,
    clients: Sequence[ClientResult],
    conditions: Callable[[ClientResult], Conditions],
) -> SiteDrops:
    measured = [(client.kind, conditions(client)) for client in clients]
    drops = {}
    for name, (normal, attack) in PAIRS.items():
        pairs = [
            _Pair(kind, found[normal], found[attack])
            for kind, found in measured
            if normal in found and attack in found
        ]
        if pairs:
            drops[name] = clients_drop(experiment, pairs)
    return SiteDrops(**drops)
