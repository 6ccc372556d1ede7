"""ByzFL's own clients, server and aggregators, one client after the other, as its benchmark runs
FedAvg.

Every client has a model. Their weights lie in torch's default layout: ByzFL cannot flatten the
channels-last ones of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import byzfl.fed_framework.models as known_models
import torch
from byzfl import Client, Server
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common.work import Work, new_model, probe, shards
from fedrobust.types import Samples

AGGREGATORS = {"fedavg": "Average", "median": "Median", "multi_krum": "MultiKrum"}


def run(work: Work, rule: str, mark: Callable[[int], None]) -> dict[str, float]:
    """As `plain_loop.run`."""
    # ByzFL takes models by their name in this module.
    known_models.Measured = lambda: new_model(work).to(memory_format=torch.contiguous_format)
    parts, validation = shards(work)
    clients = [Client(_client(work, _loader(part, work.batch, shuffle=True))) for part in parts]
    server = Server(_server(work, rule, _loader(validation, len(validation), shuffle=False)))
    start = probe(server.model)
    accuracy = server.compute_test_accuracy()
    mark(0)
    steps = -(-work.images // work.batch)
    for number in range(1, work.rounds + 1):
        state = server.get_dict_parameters()
        for client in clients:
            client.set_model_state(state)
        for client in clients:
            client.compute_model_update(steps)
        server.update_model_with_weights([client.get_flat_parameters() for client in clients])
        accuracy = server.compute_test_accuracy()
        mark(number)
    moved = float((probe(server.model) - start).norm())
    trained, judged = (
        steps * work.batch * len(clients) * work.rounds,
        len(validation) * (work.rounds + 1),
    )
    return {"trained": trained, "judged": judged, "moved": moved, "accuracy": accuracy}


def _loader(samples: Samples, batch: int, *, shuffle: bool) -> DataLoader[Any]:
    return DataLoader(
        TensorDataset(samples.images / 255.0, samples.labels), batch_size=batch, shuffle=shuffle
    )


def _optimization(work: Work) -> dict[str, Any]:
    return {
        "model_name": "Measured",
        "device": "cpu",
        "optimizer_name": "SGD",
        "learning_rate": work.rate,
        "weight_decay": 0.0,
        "milestones": [],
        "learning_rate_decay": 1.0,
    }


def _client(work: Work, loader: DataLoader[Any]) -> dict[str, Any]:
    own = {
        "loss_name": "CrossEntropyLoss",
        "LabelFlipping": False,
        "momentum": 0.0,
        "nb_labels": work.classes,
    }
    return {
        **_optimization(work),
        **own,
        "training_dataloader": loader,
        "store_per_client_metrics": False,
    }


def _server(work: Work, rule: str, loader: DataLoader[Any]) -> dict[str, Any]:
    parameters = {"f": work.tolerated} if rule == "multi_krum" else {}
    aggregator = {"name": AGGREGATORS[rule], "parameters": parameters}
    return {
        **_optimization(work),
        "test_loader": loader,
        "aggregator_info": aggregator,
        "pre_agg_list": [],
    }
