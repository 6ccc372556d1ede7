"""Flower's own simulation (Ray) with its FedAvg. The client app keeps model and data in its
process, as fedrobust's does."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.nn import functional

from benchmarks.common.work import Work, new_model, probe, shards
from fedrobust.learning.classifier import Classifier
from fedrobust.types import Samples

# for the replies of a round; a client that dies would else be waited for an hour
WAIT_SECONDS = 600.0

client_app = ClientApp()


@lru_cache(maxsize=1)
def _resident(text: str) -> tuple[Work, Classifier, list[Samples]]:
    """Objects of a worker process for all its clients and rounds."""
    work = Work.parse(text)
    torch.set_num_threads(work.threads)
    return work, new_model(work), shards(work)[0]


@client_app.train()  # type: ignore[untyped-decorator]  # flwr is untyped here
def train(message: Message, context: Context) -> Message:
    """One local epoch."""
    work, model, parts = _resident(message.content["config"]["work"])
    shard = parts[context.node_config["partition-id"]]
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=work.rate)
    for index in torch.split(torch.randperm(len(shard)), work.batch):
        loss = functional.cross_entropy(model(shard.images[index] / 255.0), shard.labels[index])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(shard)})
    return Message(
        RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}),
        reply_to=message,
    )


class Counting(FedAvg):  # type: ignore[misc]  # flwr is untyped here
    """FedAvg that counts the images which were trained on."""

    trained = 0

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        replies = list(replies)
        self.trained += sum(
            int(reply.content["metrics"]["num-examples"])
            for reply in replies
            if not reply.has_error()
        )
        return super().aggregate_train(server_round, replies)


def run(work: Work, rule: str, mark: Callable[[int], None]) -> dict[str, float]:
    """As `plain_loop.run`."""
    result: dict[str, float] = {}
    server_app = ServerApp()

    @server_app.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        result.update(_serve(work, grid, mark))

    init = {
        "num_cpus": work.workers,
        "address": "local",
        "log_to_driver": False,
        "include_dashboard": False,
    }
    run_simulation(
        server_app,
        client_app,
        work.clients,
        backend_config={"init_args": init, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    if not result:  # run_simulation returns without an error even after a failure
        raise RuntimeError("Flower's simulation ended without a result")
    return result


def _serve(work: Work, grid: Grid, mark: Callable[[int], None]) -> dict[str, float]:
    torch.set_num_threads(work.server_threads)
    validation = shards(work)[1]
    model = new_model(work)
    start, judged, accuracy = probe(model), [0], [0.0]

    def judge(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        model.load_state_dict(arrays.to_torch_state_dict())
        model.eval()
        with torch.no_grad():
            right = model(validation.images / 255.0).argmax(1) == validation.labels
        judged[0], accuracy[0] = judged[0] + len(validation), float(right.float().mean())
        mark(server_round)
        return MetricRecord({"accuracy": accuracy[0]})

    strategy = Counting(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=work.clients,
        min_available_nodes=work.clients,
    )
    strategy.start(
        grid,
        ArrayRecord(model.state_dict()),
        num_rounds=work.rounds,
        timeout=WAIT_SECONDS,
        train_config=ConfigRecord({"work": work.text()}),
        evaluate_fn=judge,
    )
    moved = float((probe(model) - start).norm())
    return {
        "trained": strategy.trained,
        "judged": judged[0],
        "moved": moved,
        "accuracy": accuracy[0],
    }
