"""Small federations without Flower under any contamination: data, updates, disguises and attackers
who work together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from fedrobust.strategies.fedavg import fedavg
from torch import Generator, nn

from fedrobust.aggregation.round import Aggregate, ServerData, Strategy
from fedrobust.contamination.apply import contaminate, trigger_samples
from fedrobust.contamination.base import Contamination
from fedrobust.learning import batchnorm
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.etf import simplex_etf
from fedrobust.learning.inference import predict
from fedrobust.runtime.client.stealth import make_probe, stealth_training_set
from fedrobust.runtime.server.collusion import apply_collusion
from fedrobust.state import Layout, State, load, read
from fedrobust.types import Samples, Shard
from tests.helpers import clusters

CLIENTS, ATTACKERS = 10, (0, 1, 2)


def large_samples(seed: int, count: int) -> Samples:
    """16 x 16 pixels: a coarse picture per class, and noise upon it."""
    centres = torch.rand(clusters.CLASSES, 3, 4, 4, generator=Generator().manual_seed(99))
    labels = torch.arange(count) % clusters.CLASSES
    noise = 0.2 * torch.randn(count, 3, 16, 16, generator=Generator().manual_seed(seed))
    return Samples(
        (centres.repeat_interleave(4, 2).repeat_interleave(4, 3)[labels] + noise).clamp(0, 1),
        labels,
    )


def large_model() -> Classifier:
    """3 x 16 x 16 pixels -> 32 -> 4 classes with the fixed ETF."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.BatchNorm1d(32), nn.ReLU())
        return Classifier(
            backbone,
            32,
            clusters.CLASSES,
            simplex_etf(12, clusters.CLASSES, Generator().manual_seed(0)),
            16.0,
        )


@dataclass(frozen=True)
class World:
    """Pictures of four classes and a classifier for them. samples: (seed, how many)."""

    make_model: Callable[[], Classifier]
    samples: Callable[[int, int], Samples]


SMALL = World(clusters.make_model, clusters.make_samples)
LARGE = World(large_model, large_samples)  # 16 x 16 pixels, where a patch of two pixels fits


@dataclass(frozen=True)
class Outcome:
    """accuracy, and success of a backdoor (else 0), in [0, 1]; what the rule decided in each
    round."""

    accuracy: float
    success: float
    rounds: list[Aggregate]


def federate(
    damage: Contamination,
    attackers: Collection[int] = ATTACKERS,
    strategy: Strategy | None = None,
    rounds: int = 4,
    world: World = SMALL,
) -> Outcome:
    """A small federation as in `clusters.federate`, with any contamination of these clients."""
    rule = (strategy or fedavg()).rule
    model = world.make_model()
    layout, state, results = Layout.of(model), read(model, Layout.of(model)), []
    shards = [world.samples(10 + n, 40) for n in range(CLIENTS)]
    poisoned = [
        contaminate(shard, damage, Generator().manual_seed(n)) if n in attackers else shard
        for n, shard in enumerate(shards)
    ]
    data, memory = ServerData(world.make_model(), world.samples(2, 32), world.samples(3, 64)), {}
    for number in range(1, rounds + 1):
        sent = [
            client(
                damage if n in attackers else None,
                state,
                poisoned[n],
                shards[n],
                number=number,
                world=world,
            )
            for n in range(CLIENTS)
        ]
        task = clusters.make_round(
            clusters.gather(state, sent, layout),
            state,
            data,
            number,
            results[-1].memory if results else {},
        )
        if damage.collude is not None:
            g = Generator().manual_seed(number)
            memory = dict(
                apply_collusion(
                    damage.collude, attackers, task, rule=rule, generator=g, memory=memory
                )
            )
        results.append(rule(task))
        state = results[-1].state
    return Outcome(*judged(world, state, damage), results)


def client(
    damage: Contamination | None,
    start: State,
    poisoned: Samples,
    clean: Samples,
    *,
    number: int = 1,
    world: World = SMALL,
) -> State:
    """A hospital's update after its round."""
    model, g = world.make_model(), Generator().manual_seed(number)
    layout = Layout.of(model)
    if damage is None or damage.stealth is None:
        learnt = clusters.train(model, layout, start, poisoned, g)
        return learnt if damage is None else damage.update(learnt, start, g)
    learnt = clusters.train(model, layout, start, clean, g)
    further = clusters.train(model, layout, learnt, stealth_training_set(clean, poisoned), g)
    return damage.stealth(learnt, further, make_probe(model, layout, only(clean)), g)


def only(train: Samples) -> Shard:
    return Shard(train, train.take(torch.arange(0)), train)


def judged(world: World, state: State, damage: Contamination) -> tuple[float, float]:
    model, fresh = world.make_model(), world.samples(500, 400)
    load(model, Layout.of(model), state)
    batchnorm.recalibrate(model, world.samples(3, 64).images)
    accuracy = float((predict(model, fresh.images).argmax(1) == fresh.labels).float().mean())
    if damage.backdoor is None:
        return accuracy, 0.0
    victims = trigger_samples(fresh, damage.backdoor)
    return accuracy, float(
        (predict(model, victims.images).argmax(1) == damage.backdoor.target).float().mean()
    )
