"""A small federation for the flagship rule: clusters of 4 x 4 pictures, a small ETF classifier with
BatchNorm, hospitals that train it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from fedrobust.aggregation.round import Aggregate, Round, ServerData, Strategy
from fedrobust.aggregation.updates import Updates
from fedrobust.learning import batchnorm, inference, losses
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.etf import simplex_etf
from fedrobust.state import Layout, State, load, read
from fedrobust.types import Samples

CLASSES = 4


def make_model(seed: int = 0, head: str = "etf") -> Classifier:
    """3 x 4 x 4 pixels -> 24 -> 4 classes."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(48, 24), nn.BatchNorm1d(24), nn.ReLU())
    anchors = simplex_etf(12, CLASSES, Generator().manual_seed(seed)) if head == "etf" else None
    return Classifier(backbone, 24, CLASSES, anchors, 16.0 if head == "etf" else 1.0)


def make_samples(seed: int, n: int) -> Samples:
    """Pictures around one centre per class, with noise as large as the distance between centres."""
    centres = torch.rand(CLASSES, 3, 4, 4, generator=Generator().manual_seed(99))
    g = Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    noise = 0.35 * torch.randn(n, 3, 4, 4, generator=g)
    return Samples((centres[labels] + noise).clamp(0, 1), labels)


def flipped(samples: Samples) -> Samples:
    return Samples(samples.images, (samples.labels + 1) % CLASSES)


def train(
    model: Classifier, layout: Layout, start: State, samples: Samples, generator: Generator
) -> State:
    """A hospital's round: three epochs of Adam on cross-entropy."""
    load(model, layout, start)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(3):
        for rows in torch.split(torch.randperm(len(samples), generator=generator), 16):
            optimizer.zero_grad()
            losses.cross_entropy(
                model(samples.images[rows]), samples.labels[rows], model.scale
            ).backward()
            optimizer.step()
    optimizer.zero_grad()
    return read(model, layout)


def gather(
    reference: State, states: list[State], layout: Layout, counts: list[int] | None = None
) -> Updates:
    matrix = torch.stack([state.parameters - reference.parameters for state in states])
    buffers = torch.stack([state.buffers for state in states])
    examples = torch.tensor(counts or [1] * len(states), dtype=torch.float64)
    return Updates(matrix, buffers, examples, tuple(range(len(states))), layout)


def make_round(
    updates: Updates, reference: State, data: ServerData, number: int, memory: Mapping[str, Any]
) -> Round:
    return Round(number, reference, updates, data, Generator().manual_seed(number), memory)


def one_round(head: str = "etf", clients: int = 5, attackers: int = 1, seed: int = 0) -> Round:
    """A trained reference (rough) and one round of hospitals from it; the first `attackers` of them
    have shifted labels."""
    model = make_model(seed, head)
    layout = Layout.of(model)
    g = Generator().manual_seed(seed)
    reference = train(model, layout, read(model, layout), make_samples(seed + 1, 48), g)
    shards = [make_samples(seed + 10 + n, 40) for n in range(clients)]
    shards = [flipped(s) if n < attackers else s for n, s in enumerate(shards)]
    states = [train(model, layout, reference, shard, g) for shard in shards]
    data = ServerData(model, make_samples(seed + 2, 32), make_samples(seed + 3, 64))
    return make_round(
        gather(reference, states, layout, [40 + n for n in range(clients)]), reference, data, 1, {}
    )


def federate(
    strategy: Strategy, rounds: int, clients: int = 10, attackers: int = 3, head: str = "etf"
) -> tuple[float, list[Aggregate]]:
    """Accuracy of the last global model on fresh pictures, and what the rule decided in each
    round."""
    model = make_model(0, head)
    layout = Layout.of(model)
    state, results = read(model, layout), []
    shards = [make_samples(10 + n, 40) for n in range(clients)]
    shards = [flipped(s) if n < attackers else s for n, s in enumerate(shards)]
    data = ServerData(make_model(0, head), make_samples(2, 32), make_samples(3, 64))
    for number in range(1, rounds + 1):
        g = Generator().manual_seed(number)
        updates = gather(state, [train(model, layout, state, shard, g) for shard in shards], layout)
        results.append(
            strategy.rule(
                make_round(updates, state, data, number, results[-1].memory if results else {})
            )
        )
        state = results[-1].state
    return accuracy(model, layout, state, data.proxy), results


def accuracy(model: Classifier, layout: Layout, state: State, proxy: Samples | None) -> float:
    assert proxy is not None
    fresh = make_samples(500, 400)
    load(model, layout, state)
    batchnorm.recalibrate(model, proxy.images)
    return float((inference.predict(model, fresh.images).argmax(1) == fresh.labels).float().mean())


def scores_of(case: Round, state: State, images: Tensor) -> Tensor:
    """Scores of a state, statistics re-estimated on the proxy images."""
    model = case.server_data.model
    load(model, Layout.of(model), state)
    assert case.server_data.proxy is not None
    batchnorm.recalibrate(model, case.server_data.proxy.images)
    with torch.no_grad():
        return model.eval()(images)  # type: ignore[no-any-return]
