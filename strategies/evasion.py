"""The server's part in evasion attacks: the global model on the test images, every client's own model on that client's."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fedrobust import batchnorm
from fedrobust.attempts import Attempts, attempts
from fedrobust.data import TEST
from fedrobust.ensembles import fuse
from fedrobust.evaluation import OBLIVIOUS
from fedrobust.experiment import Experiment
from fedrobust.layout import load
from fedrobust.models import Classifier
from fedrobust.resistance import evasion_section
from fedrobust.types import Observer, State
from strategies.adapter import Server
from strategies.rounds import Finished


def attacked(server: Server, finished: Finished, observer: Observer) -> dict[str, Any]:
    """The report's entry `evasion`, for a study with an attack. Uses up `finished.members`.

    The clients' models, and all of them fused where the study wants that, are attacked by the oblivious alone. One that
    answers with values that are not finite is left out and named.
    """
    study = server.experiment
    say = partial(observer.stage, "run")
    attack = partial(attempts, study, estimation=server.proxy.images, say=say)
    members: dict[int, Attempts] = {}
    fused: list[Classifier] = []
    for client, state in finished.members:
        own = study.samples(study.rows(client, TEST))
        if not len(own):
            continue
        _load(server, state)
        try:
            members[client] = attack(server.model, own, "client", client, threats=[OBLIVIOUS])
        except ValueError as error:
            say(f"the model of client {client} is not attacked: {error}")
            continue
        if study.evaluation.fusion:
            fused.append(copy.deepcopy(server.model))
    rows = _rows(study)
    test = study.samples(rows)
    load(server.model, server.layout, finished.state)
    whole = attack(server.model, test, "global", threats=study.evaluation.threat_models)
    together = attack(fuse(fused), test, "fusion", threats=[OBLIVIOUS]) if fused else None
    return {"evasion": evasion_section(study, rows, whole, members, (len(fused), together))}


def _rows(study: Experiment) -> Tensor:
    """The test images on which the global model is attacked: all, or as many as the evaluation allows, drawn by the seed."""
    rows, most = study.test_rows(), study.evaluation.adversarial_images
    if most is None or len(rows) <= most:
        return rows
    return rows[torch.randperm(len(rows), generator=study.generator("evasion", "images"))[:most].sort().values]


def _load(server: Server, member: State) -> None:
    """A client's model with the BatchNorm statistics that the policy server.buffers gives a model on the server."""
    load(server.model, server.layout, member)
    if server.experiment.config["server"]["buffers"] == "recalibrate":
        batchnorm.recalibrate(server.model, server.proxy.images)
