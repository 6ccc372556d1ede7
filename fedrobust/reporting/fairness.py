"""The report's section `fairness`: from predictions of the test images, or from real sites' own
metrics, to worst cases and spreads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from fedrobust.data import TEST
from fedrobust.evaluation.fairness import (
    MIN_IMAGES,
    SITES,
    SitePredictions,
    Spread,
    measure_fairness,
    spread_of,
)
from fedrobust.experiment.experiment import Experiment
from fedrobust.reporting.report.fairness import FairnessSection, SpreadSection
from fedrobust.reporting.report.sections import ClientResult

SPREAD_OVER = ("twin_clean", "clean", "corrupted", "twin_corrupted")  # evaluations with spreads


def compared_evaluations(evaluations: Collection[str]) -> dict[str, tuple[str, str]]:
    """{drop: (normal, attack)} of the drops between these evaluations of all test images."""
    pairs = {"corruption": ("clean", "corrupted")}
    if "twin_clean" in evaluations:
        pairs |= {"poisoning": ("twin_clean", "clean"), "total": ("twin_clean", "corrupted")}
    return pairs


def fairness_section(
    experiment: Experiment, test: Mapping[str, Tensor], clients: Sequence[ClientResult]
) -> FairnessSection:
    """Worst case and spread over sites and classes.

    Args:
        experiment: what was run.
        test: class probabilities (N, K) of all test images by evaluation.
        clients: results of all clients, from which real sites' values come.
    """
    rows = experiment.test_rows()
    sites = {}
    if not experiment.remote:
        sites = {
            client: torch.searchsorted(rows, experiment.rows(client, TEST))
            for client in range(experiment.num_clients)
        }
    found = measure_fairness(
        SitePredictions(
            labels_N=experiment.dataset.labels[rows],
            predicted={name: test[name].argmax(dim=1) for name in SPREAD_OVER if name in test},
            sites=sites,
            num_classes=experiment.num_classes,
            groups_N=experiment.dataset.groups[rows],
        ),
        compared_evaluations(test),
        generator=experiment.generator("bootstrap", "fairness"),
        draws=experiment.evaluation.bootstrap_samples,
    )
    section = FairnessSection.model_validate(found)
    return _with_reports(section, clients) if experiment.remote else section


def _with_reports(section: FairnessSection, clients: Sequence[ClientResult]) -> FairnessSection:
    """The section with the spread of what real sites say of their own clean test images: without
    intervals and drops, since the server has neither their predictions nor any of the twin."""
    large = [one for one in clients if one.clean.n >= MIN_IMAGES]
    reported: dict[str, Spread] = {}
    for name, metric in SITES.items():
        spread = spread_of({one.id: one.clean.values[metric] for one in large})
        reported |= {} if spread is None else {name: spread}
    own = {name: SpreadSection.model_validate(one) for name, one in reported.items()}
    evaluations = {**section.evaluations, "clean": {**section.evaluations["clean"], **own}}
    left_out = tuple(one.id for one in clients if one.clean.n < MIN_IMAGES)
    return section.model_copy(
        update={
            "sites_left_out": left_out,
            "evaluations": evaluations,
            "self_reported": True,
        }
    )
