"""Ensemble feature fusion: members trained in a federation or centrally, and their fusions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from rich.console import Console

from fedrobust.data import TEST, TRAIN, VALIDATION
from fedrobust.errors import ConfigError
from fedrobust.experiment import factories
from fedrobust.experiment.experiment import Experiment
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.ensemble import from_states, fuse
from fedrobust.reporting.console import Display
from fedrobust.runtime.server.loop import build_server_context, run_rounds
from fedrobust.runtime.simulation import CLIENT_APP, work_seconds
from fedrobust.types import Samples, Shard, Task

# the client models of the last round are kept
EVERYBODY = ("evaluation.twin=false", "evaluation.evasion_evaluation.adversarial_clients=true")


def federated_models(experiment: Experiment, console: Console) -> dict[str, Classifier]:
    """The global model after the last round, the client models of that round fused, and these with
    a trained classifier on top."""
    if experiment.evasion.attack is None:
        raise ConfigError(
            "evasion=none: the client models are kept only where they are attacked; "
            "set evasion=pgd or evasion=fgsm"
        )
    server = build_server_context(experiment)
    opener = factories.build_group({"engine": experiment.settings.engine.written}, "engine")
    with (
        opener.open(
            CLIENT_APP, experiment.num_clients, {"simulation": True}, partial(work_seconds, server)
        ) as grid,
        Display(console) as display,
    ):
        finished = run_rounds(server, grid, display)
        states = [state for _, state in finished.client_models]
    everybody = from_states(
        server.model, server.layout, [finished.state, *states], server.recalibration_images
    )
    return {
        "global model": everybody[0],
        **fusions(experiment, everybody[1:], experiment.samples(experiment.root)),
    }


def central_models(experiments: Sequence[Experiment]) -> dict[str, Classifier]:
    """Every experiment's model trained by its trainer on all training images but the server's own;
    then as `federated_models`."""
    trained = {
        f"member {place}": _train(experiment, place) for place, experiment in enumerate(experiments)
    }
    whole = _whole(experiments[0])
    return {**trained, **fusions(experiments[0], list(trained.values()), whole.train)}


def _train(experiment: Experiment, place: int) -> Classifier:
    model = experiment.new_model(place)
    experiment.trainer(
        Task(model, _whole(experiment), 1, {}, {}, experiment.generator("meff", place))
    )
    return model


def _whole(experiment: Experiment) -> Shard:
    """All hospitals' images as one shard."""
    rows = torch.cat(list(experiment.parts)).sort().values
    splits = experiment.dataset.splits[rows]
    return Shard(
        *(experiment.samples(rows[splits == split]) for split in (TRAIN, VALIDATION, TEST))
    )


def fusions(
    experiment: Experiment, members: Sequence[Classifier], labelled: Samples
) -> dict[str, Classifier]:
    """The members' fusion without training (fixed anchors only), and with a classifier on top that
    is trained by the experiment's trainer on labelled images. Members are shared, not copied: they
    are frozen. Raises ConfigError for members that do not go together."""
    try:
        top = fuse(members, "concatenate")
        found = {} if top.anchors is None else {"fusion": fuse(members, "mean")}
    except ValueError as error:
        raise ConfigError(
            f"--member: {error}; give all the same model.head and model.dimension"
        ) from error
    empty = labelled.take(torch.zeros(0, dtype=torch.int64))
    experiment.trainer(
        Task(top, Shard(labelled, empty, empty), 1, {}, {}, experiment.generator("meff", "top"))
    )
    return {**found, "fusion, trained top": top}
