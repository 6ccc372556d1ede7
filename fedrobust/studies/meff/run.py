"""Ensemble feature fusion: members trained in a federation or centrally, and their fusions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich.console import Console

from fedrobust.data import TEST, TRAIN, VALIDATION
from fedrobust.errors import ConfigError
from fedrobust.experiment import factories
from fedrobust.experiment.experiment import Experiment
from fedrobust.learning import batchnorm, etf
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.ensemble import from_states, fuse
from fedrobust.reporting.console import Display
from fedrobust.runtime.server.loop import make_server, run_rounds
from fedrobust.runtime.server.rule_strategy import Server
from fedrobust.runtime.simulation import CLIENT_APP, work_seconds
from fedrobust.types import Samples, Shard, Task
from fedrobust.utils.devices import resolve

EVERYBODY = ("evaluation.twin=false", "evaluation.adversarial_clients=true")  # the client models of the last round are kept


def federated(study: Experiment, console: Console) -> dict[str, Classifier]:
    """The global model after the last round, the client models of that round fused, and these with a trained classifier on top."""
    if study.evasion.attack is None:
        raise ConfigError("evasion=none: the client models are kept only where they are attacked; set evasion=pgd or evasion=fgsm")
    server = make_server(study)
    opener = factories.build(study.config, "engine")
    with opener.open(CLIENT_APP, study.num_clients, {"simulation": True}, work_seconds(server)) as grid, Display(console) as display:
        finished = run_rounds(server, grid, display)
        states = [state for _, state in finished.members]
    everybody = from_states(server.model, server.layout, [finished.state, *states])
    for member in everybody:
        _recalibrated(server, member)
    return {"global model": everybody[0], **fusions(study, everybody[1:], server.root)}


def _recalibrated(server: Server, model: Classifier) -> None:
    if server.experiment.config["server"]["buffers"] == "recalibrate":
        batchnorm.recalibrate(model, server.proxy.images)


def central(studies: Sequence[Experiment]) -> dict[str, Classifier]:
    """Every study's model trained by its trainer on all training images but the server's own; then as `federated`."""
    trained = {f"member {place}": _trained(study, place) for place, study in enumerate(studies)}
    whole = _whole(studies[0])
    return {**trained, **fusions(studies[0], list(trained.values()), whole.train)}


def _trained(study: Experiment, place: int) -> Classifier:
    anchors = None
    if study.model.head == "etf":
        anchors = etf.simplex_etf(study.model.dimension, study.num_classes, study.generator("etf"))
    model = study.model.build(study.num_classes, anchors, study.generator("init", place)).to(resolve(study.config["device"]))
    study.trainer(Task(model, _whole(study), 1, {}, {}, study.generator("meff", place)))
    return model


def _whole(study: Experiment) -> Shard:
    """All hospitals' images as one shard."""
    rows = torch.cat(list(study.parts)).sort().values
    splits = study.dataset.splits[rows]
    return Shard(*(study.samples(rows[splits == split]) for split in (TRAIN, VALIDATION, TEST)))


def fusions(study: Experiment, members: Sequence[Classifier], labelled: Samples) -> dict[str, Classifier]:
    """The members' fusion as it is (fixed anchors only), and with a classifier on top that is trained by the study's trainer on labelled
    images. Members are shared, not copied: they are frozen. Raises ConfigError for members that do not go together."""
    try:
        top = fuse(members, "concatenate")
        found = {} if top.anchors is None else {"fusion": fuse(members, "mean")}
    except ValueError as error:
        raise ConfigError(f"--member: {error}; give all the same model.head and model.dimension") from error
    empty = labelled.take(torch.zeros(0, dtype=torch.int64))
    study.trainer(Task(top, Shard(labelled, empty, empty), 1, {}, {}, study.generator("meff", "top")))
    return {**found, "fusion, trained top": top}
