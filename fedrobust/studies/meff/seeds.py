"""What `fedrobust.meff` does: models are trained and fused with every seed, attacked, and compared
over the seeds so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fedrobust.errors import ConfigError
from fedrobust.experiment import build, compose
from fedrobust.experiment.experiment import Experiment
from fedrobust.learning.classifier import Classifier
from fedrobust.studies.meff.run import EVERYBODY, central_models, federated_models
from fedrobust.studies.meff.scores import (
    Answers,
    predict_attacked,
    scores_table,
    summarise_scores,
    to_plain_rows,
)


def fuse_with_seeds(
    words: Sequence[str], members: Sequence[str], seeds: Sequence[int], console: Console
) -> tuple[dict[str, Any], Table]:
    """Train, fuse and attack the models, and print their scores after each seed.

    Args:
        words: overrides of the configuration.
        members: further overrides of each member, which is then trained centrally, e.g.
            ["client=adversarial", "model=resnet18 client=sgd"]; empty: the clients of a federation.
        seeds: different ones; empty: that of the configuration alone.
        console: where progress and the scores after each seed are shown.

    Returns:
        The results as JSON values, with the seeds and the number of images; and the last table.

    Raises:
        ConfigError: a setting is wrong, or the test images change with the seed.
    """
    found: list[Answers] = []
    first: Experiment | None = None
    for seed in [[f"seed={seed}"] for seed in seeds] or [[]]:
        experiment, models = _fuse_models([*words, *seed], members, console)
        first = first or experiment
        if not torch.equal(first.test_rows(), experiment.test_rows()):
            raise ConfigError(f"--seeds: with {seed[0]} the test images are others; set data.seed")
        found.append(predict_attacked(experiment, models, first.attacked_rows()))
        table = scores_table(summarise_scores(first, first.attacked_rows(), found))
        console.print(table)
    assert first is not None
    return _document(first, seeds, found), table


def _fuse_models(
    words: Sequence[str], members: Sequence[str], console: Console
) -> tuple[Experiment, dict[str, Classifier]]:
    """The first member's experiment, or the federation's, and all models by name."""
    if not members:
        experiment = _build(*words)
        return experiment, federated_models(experiment, console)
    experiments = [_build(*words, *member.split()) for member in members]
    return experiments[0], central_models(experiments)


def _build(*words: str) -> Experiment:
    return build.build_experiment(compose.compose(*words, *EVERYBODY))


def _document(
    experiment: Experiment, seeds: Sequence[int], found: Sequence[Answers]
) -> dict[str, Any]:
    rows = experiment.attacked_rows()
    return {
        "seeds": list(seeds) or [experiment.seed],
        "images": len(rows),
        "draws": experiment.evaluation.bootstrap_samples,
        "attack": experiment.evasion.name,
        "results": to_plain_rows(summarise_scores(experiment, rows, found)),
    }
