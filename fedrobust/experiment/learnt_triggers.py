"""Triggers that attackers train before the first round, once for all processes and rules."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import timm
import torch

from fedrobust.contamination.base import LearntTrigger
from fedrobust.data import TRAIN, tensor_cache
from fedrobust.experiment.experiment import Experiment
from fedrobust.utils.program import program_digest


def with_learnt_trigger(experiment: Experiment) -> Experiment:
    """The experiment in which poisoned clients have trained their trigger; itself where their
    contamination trains none, or nobody is poisoned, or their images are not here.

    The trigger is kept beside the features of images (`data.tensor_cache`), known by all that
    decides it.
    """
    damage = experiment.contaminations["poisoned"]
    clients = experiment.clients_of_kind("poisoned")
    if damage.learnt is None or not clients or experiment.remote:
        return experiment
    rows = torch.cat([experiment.rows(client, TRAIN) for client in clients])
    if not len(rows):
        return experiment
    patch = _train_patch(experiment, damage.learnt, rows)
    key = hashlib.sha256(patch.contiguous().numpy().tobytes()).hexdigest()
    made = replace(damage.learnt.with_patch(patch), key=key)
    return replace(experiment, contaminations={**experiment.contaminations, "poisoned": made})


def _train_patch(experiment: Experiment, learnt: LearntTrigger, rows: torch.Tensor) -> torch.Tensor:
    model = experiment.new_model()
    key = {
        "purpose": "learnt trigger",
        "settings": dict(experiment.settings.contamination.written),
        "data": experiment.dataset.digest,
        "classes": list(experiment.dataset.class_names),
        "rows": hashlib.sha256(rows.contiguous().numpy().tobytes()).hexdigest(),
        "weights": model.frozen_digest(),
        "model": dict(experiment.settings.model.written),
        "seed": experiment.seed,
        "device": model.mean.device.type,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "versions": [torch.__version__, timm.__version__],
        "program": program_digest(experiment.settings.plugins),
    }

    def make() -> tensor_cache.Tensors:
        g = experiment.generator("learnt trigger")
        return {"patch": learnt.learn(model, experiment.samples(rows), g)}

    return tensor_cache.tensors(key, make)["patch"].clone()
