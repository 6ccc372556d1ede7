"""FLCert after a run: a global model for each group of clients, their majority's answers, and how
many malicious clients cannot change them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedrobust.evaluation.certification import (
    certified_accuracy,
    count_votes,
    disjoint_groups,
    disjoint_radius,
    majority,
    sampled_groups,
    sampled_radius,
)
from fedrobust.experiment import build
from fedrobust.experiment.experiment import Experiment
from fedrobust.reporting.report.certificate import CertificateSection
from fedrobust.runtime.server.loop import build_server_context, predict_global, run_rounds
from fedrobust.runtime.server.rule_strategy import Grid
from fedrobust.types import Observer, RoundRecord

GROUPS = "certificate"  # purpose of the groups' randomness


class GroupObserver:
    """Shows the training of a group as a stage of the run, and records nothing.

    observer: of the run; label: of the group, e.g. "group 2 of 5".
    """

    def __init__(self, observer: Observer, label: str) -> None:
        self._observer, self._label, self._rounds = observer, label, 0

    def run_started(self, run: str, rounds: int, num_clients: int) -> None:
        self._rounds = rounds

    def round_started(self, run: str, number: int) -> None:
        self._observer.stage("run", f"{self._label}: round {number} of {self._rounds}")

    def client_done(self, run: str, stage: str, client: int, failed: bool) -> None: ...

    def stage(self, run: str, text: str) -> None: ...

    def round_finished(self, run: str, record: RoundRecord) -> None: ...

    def rounds_restored(self, run: str, records: Sequence[RoundRecord]) -> None: ...


def make_groups(experiment: Experiment) -> list[tuple[int, ...]]:
    """The groups that `certificate` asks for, from the run's seed alone."""
    asked, g = experiment.settings.certificate, experiment.generator(GROUPS)
    assert asked.groups is not None
    if asked.group_size is None:
        return disjoint_groups(experiment.num_clients, asked.groups, g)
    return sampled_groups(experiment.num_clients, asked.groups, asked.group_size, g)


def certify(
    experiment: Experiment, rounds: int, grid: Grid, observer: Observer
) -> CertificateSection | None:
    """Train a global model for each group, as the run was, and certify their majority's answers to
    the clean test images.

    Args:
        experiment: of the run.
        rounds: how many the run had.
        grid: of the run.
        observer: of the run; shows which group trains.

    Returns:
        The report's section; None where no groups are asked for.

    Raises:
        RunError: as the run itself.
    """
    asked = experiment.settings.certificate
    if asked.groups is None:
        return None
    groups = make_groups(experiment)
    trained: dict[tuple[int, ...], Tensor] = {}
    for place, group in enumerate(groups, 1):
        if group not in trained:  # equal groups train equal models
            shown = GroupObserver(observer, f"group {place} of {len(groups)}")
            trained[group] = _predict(experiment.of_participants(group, rounds), grid, shown)
    labels = experiment.dataset.labels[experiment.test_rows()]
    votes = count_votes(torch.stack([trained[group] for group in groups]), experiment.num_classes)
    if asked.group_size is None:
        radius = disjoint_radius(votes)
    else:
        radius = sampled_radius(votes, experiment.num_clients, asked.group_size, asked.alpha)
    correct = majority(votes) == labels.long()
    most = max(int(radius.max()), 0) + 1 if len(radius) else 0
    return CertificateSection(
        variant="disjoint" if asked.group_size is None else "sampled",
        groups=len(groups),
        group_size=asked.group_size,
        alpha=None if asked.group_size is None else asked.alpha,
        images=len(labels),
        accuracy=100 * float(correct.double().mean()),
        certified_accuracy=tuple(
            certified_accuracy(correct, radius, min(most, experiment.num_clients))
        ),
    )


def _predict(experiment: Experiment, grid: Grid, observer: Observer) -> Tensor:
    """(N,) classes that the global model of a group gives the clean test images."""
    server = build_server_context(build.remember(experiment))
    states = grid.states
    trained = run_rounds(server, grid, observer, GROUPS)
    grid.restore(states)  # nothing asks again for what the group's clients remember
    return predict_global(server, trained.state, server.inputs.test).argmax(dim=1).cpu()
