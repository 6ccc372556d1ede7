"""Small federations in memory for attacks: plain `fedavg` over clients that train honestly on what
they have, nothing of Flower."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from fedrobust.strategies.fedavg import fedavg
from torch import Tensor, nn
from torch.nn import functional

from fedrobust.aggregation.round import Round, ServerData
from fedrobust.aggregation.updates import Updates
from fedrobust.contamination.apply import contaminate, for_rank, trigger_samples
from fedrobust.contamination.base import CLEAN, Contamination
from fedrobust.learning import losses
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.inference import predict
from fedrobust.state import Layout, State, load, read
from fedrobust.types import Samples
from fedrobust.utils.seeding import generator

CLASSES, SIDE, CLIENTS, IMAGES, ROUNDS = 4, 16, 5, 80, 8


@cache
def blots(seed: int, count: int, rare: bool = False, faint: bool = False) -> Samples:
    """16 x 16: one soft coloured picture per class and noise upon it. rare: the last class has only
    every twentieth image. faint: a third of the contrast and a tenth of the noise."""
    contrast, spread = (0.1, 0.02) if faint else (0.3, 0.2)
    centres = 0.5 + contrast * (
        torch.rand(CLASSES, 3, 4, 4, generator=generator(0, "centres")) - 0.5
    )
    whole = functional.interpolate(centres, size=SIDE, mode="bilinear", align_corners=False)
    labels = torch.arange(count) % CLASSES
    if rare:
        labels = torch.where(
            torch.arange(count) % 20 == 0, CLASSES - 1, torch.arange(count) % (CLASSES - 1)
        )
    noise = torch.randn(count, 3, SIDE, SIDE, generator=generator(seed, "blots"))
    return Samples((whole[labels] + spread * noise).clamp(0, 1), labels)


@cache
def stripes(seed: int, count: int) -> Samples:
    """32 x 32: stripes three pixels apart in any direction on a faint tint; the class is how strong
    they are."""
    g, ticks = generator(seed, "stripes"), torch.arange(32) + 0.5
    labels = torch.arange(count) % CLASSES
    angle, phase = (
        turns * torch.rand(count, 1, 1, generator=g) for turns in (math.pi, 2 * math.pi)
    )
    wave = torch.sin(2 * math.pi / 3 * (ticks[:, None] * angle.sin() + ticks * angle.cos()) + phase)
    clean = (
        0.45
        + 0.1 * torch.rand(count, 3, 1, 1, generator=g)
        + (torch.tensor([0.04, 0.10, 0.17, 0.25])[labels][:, None, None] * wave)[:, None]
    )
    return Samples((clean + 0.03 * torch.randn(count, 3, 32, 32, generator=g)).clamp(0, 1), labels)


class Mean(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def model(striped: bool = False) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = (
            [nn.Conv2d(3, 16, 5), nn.ReLU(), Mean(), nn.Linear(16, 32)]
            if striped
            else [nn.Flatten(), nn.Linear(3 * SIDE**2, 32)]
        )
        return Classifier(nn.Sequential(*first, nn.ReLU()), 32, CLASSES, None, 1.0)


def train(
    net: Classifier, layout: Layout, start: State, data: Samples, order: torch.Generator
) -> State:
    """Two epochs of Adam."""
    load(net, layout, start)
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(2):
        for rows in torch.randperm(len(data), generator=order).split(20):
            optimizer.zero_grad()
            losses.cross_entropy(net(data.images[rows]), data.labels[rows], net.scale).backward()
            optimizer.step()
    optimizer.zero_grad()
    return read(net, layout)


def fedavg_rounds(
    net: Classifier, clean: Sequence[Samples], damage: Sequence[Contamination], rounds: int
) -> None:
    """Rounds of `fedavg`, after which the net holds the global model. Client n has clean[n] and
    suffers damage[n]."""
    layout, rule = Layout.of(net), fedavg().rule
    state, previous = read(net, layout), None
    shards = [
        contaminate(*pair, generator(0, "contamination", client))
        for client, pair in enumerate(zip(clean, damage, strict=True))
    ]
    for number in range(1, rounds + 1):
        matrix = torch.empty(len(clean), layout.num_parameters)
        for client, one in enumerate(damage):
            trained = train(
                net, layout, state, shards[client], generator(0, "client", client, number)
            )
            sent = one.update(trained, state, generator(0, "update", client, number))
            sent = sent if one.track is None else one.track(sent, state, previous)
            matrix[client] = sent.parameters - state.parameters
        previous, state = (
            state,
            rule(
                Round(
                    number,
                    state,
                    Updates.of(matrix),
                    ServerData(net),
                    generator(0, "server", number),
                )
            ).state,
        )
    load(net, layout, state)


def federate(
    contamination: Contamination = CLEAN, poisoned: int = 3, rare: bool = False
) -> tuple[float, float]:
    """(accuracy on clean images, attack success rate or 0 without a backdoor), in percent, after
    eight rounds of five clients."""
    net, clean = model(), [blots(10 + client, IMAGES, rare) for client in range(CLIENTS)]
    damage = [
        for_rank(contamination, client) if client < poisoned else CLEAN for client in range(CLIENTS)
    ]
    fedavg_rounds(net, clean, damage, ROUNDS)
    fresh, door = blots(500, 400), contamination.backdoor
    return right(net, fresh), 0.0 if door is None else hit(
        net, trigger_samples(fresh, door).images, door.target
    )


@cache
def clean_model(striped: bool) -> Classifier:
    """Model of four clean clients, trained on stripes or on faint blots."""
    net = model(striped)
    fedavg_rounds(
        net,
        [stripes(10 + n, 100) if striped else blots(10 + n, 100, faint=True) for n in range(4)],
        [CLEAN] * 4,
        20,
    )
    return net


def right(net: Classifier, fresh: Samples) -> float:
    return 100 * float((predict(net, fresh.images).argmax(1) == fresh.labels).double().mean())


def hit(net: Classifier, images: Tensor, target: int) -> float:
    return 100 * float((predict(net, images).argmax(1) == target).double().mean())
