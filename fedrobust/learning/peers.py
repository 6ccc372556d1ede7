"""Further models beside a client's own, to be trained together with it."""

from __future__ import annotations

import torch

from fedrobust.learning.classifier import Classifier, ModelFactory
from fedrobust.learning.freezing import copy_frozen
from fedrobust.types import Task
from fedrobust.utils.seeding import generator as named_generator


def make_peers(task: Task, factory: ModelFactory, count: int) -> list[Classifier]:
    """New models beside task.model, on its device, with its anchors, what is frozen of it, and
    other first weights elsewhere."""
    received, device = task.model, next(task.model.parameters()).device
    anchors = None if received.anchors is None else received.anchors.cpu()
    seeds = torch.randint(2**62, (count,), generator=task.generator).tolist()
    built = [
        factory.build(received.num_classes, anchors, named_generator(seed, "peer"))
        for seed in seeds
    ]
    for one in built:
        copy_frozen(received, one)
    return [one.to(device) for one in built]
