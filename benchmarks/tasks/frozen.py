"""The two plain loops beside which runs with a frozen backbone are measured: images through timm's
network, and the head's training on features that are there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrobust.learning.classifier import timm_model
from fedrobust.learning.feature_extraction import extract_features
from fedrobust.utils.images import as_unit
from fedrobust.utils.seeding import generator

BATCH = 64


def run(given: Mapping[str, Any], mark: Callable[[int], None]) -> dict[str, Any]:
    """given: part, which names one of PARTS, and what it needs."""
    return PARTS[given["part"]](given, mark)


def extraction(given: Mapping[str, Any], mark: Callable[[int], None]) -> dict[str, Any]:
    """given: network, size, images, repeats. [seconds, the processor's seconds] of every repeat by
    loop; difference: the largest of the features that both give."""
    images = torch.randint(
        256,
        (given["images"], 3, given["size"], given["size"]),
        dtype=torch.uint8,
        generator=generator(0, "benchmark"),
    )
    model = timm_model(given["network"], head="linear", freeze="backbone").build(
        2, None, generator(0, "init")
    )
    network = timm.create_model(given["network"], num_classes=0).eval()
    network.load_state_dict(model.backbone.state_dict())
    network.to(memory_format=torch.channels_last)
    loops: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: extract_features(model, images),
        "plain": lambda: plain_features(network, images, model.mean, model.std),
    }
    first = {name: loop() for name, loop in loops.items()}  # one-time costs fall here
    times: dict[str, list[list[float]]] = {name: [] for name in loops}
    for repeat in range(given["repeats"]):
        mark(repeat)
        for name, loop in loops.items():
            began, spent = time.perf_counter(), time.process_time()
            loop()
            times[name].append([time.perf_counter() - began, time.process_time() - spent])
    return {"times": times, "difference": float((first["ours"] - first["plain"]).abs().max())}


@torch.inference_mode()
def plain_features(network: nn.Module, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """What anybody would write."""
    return torch.cat(
        [
            network(((as_unit(x) - mean) / std).contiguous(memory_format=torch.channels_last))
            for x in torch.split(images, BATCH)
        ]
    )


def training(given: Mapping[str, Any], mark: Callable[[int], None]) -> dict[str, Any]:
    """given: sizes of the hospitals, features, hidden, classes, rounds, epochs, views, batch,
    judged (images that are evaluated after every round) and runs. Federated averaging of the head
    on random features, so many times as there are runs; `mark` is called after each."""
    random = generator(0, "benchmark")
    views, classes = given["views"], given["classes"]
    shards = [
        (
            torch.rand(size, views, given["features"], generator=random),
            torch.arange(size) % classes,
        )
        for size in given["sizes"]
    ]
    judged = torch.rand(given["judged"], given["features"], generator=random)
    trained = 0
    for number in range(given["runs"]):
        head = new_head(given["features"], given["hidden"], classes)
        for _ in range(given["rounds"]):
            trained += plain_round(head, shards, given["epochs"], given["batch"])
            with torch.no_grad():
                head(judged).softmax(dim=1)
        mark(number)
    return {"trained": trained}


def new_head(features: int, hidden: list[int], classes: int) -> nn.Sequential:
    """Linear layers, with a ReLU between any two."""
    sizes = [features, *hidden, classes]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def plain_round(
    head: nn.Module, shards: list[tuple[Tensor, Tensor]], epochs: int, batch: int
) -> int:
    """One round of federated averaging in place; how many images were trained on."""
    start = [parameter.detach().clone() for parameter in head.parameters()]
    mean = [torch.zeros_like(parameter) for parameter in start]
    total, trained = sum(len(labels) for _, labels in shards), 0
    for features, labels in shards:
        with torch.no_grad():
            for parameter, value in zip(head.parameters(), start, strict=True):
                parameter.copy_(value)
        optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
        for _ in range(epochs):
            for index in torch.split(torch.randperm(len(labels)), batch):
                view = torch.randint(features.shape[1], (len(index),))
                loss = functional.cross_entropy(head(features[index, view]), labels[index])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                trained += len(index)
        for one, parameter in zip(mean, head.parameters(), strict=True):
            one.add_(parameter.detach(), alpha=len(labels) / total)
    with torch.no_grad():
        for parameter, value in zip(head.parameters(), mean, strict=True):
            parameter.copy_(value)
    return trained


PARTS: Mapping[str, Callable[[Mapping[str, Any], Callable[[int], None]], dict[str, Any]]] = {
    "extraction": extraction,
    "training": training,
}
